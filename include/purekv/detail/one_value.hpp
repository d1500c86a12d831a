// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <concepts>
#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// A value of one of several types; which one, its owner remembers. Trivially copyable if all of them are, as a
/// std::variant is not on every standard library and never on a device.
template <class First, class... Rest> union one_value {
  using type = First;
  static constexpr bool all_differ = (!std::same_as<First, Rest> && ...) && one_value<Rest...>::all_differ;

  First first;
  one_value<Rest...> rest;

  PUREKV_HD constexpr explicit one_value(First const& value) : first(value) {}
  template <class T> PUREKV_HD constexpr explicit one_value(T const& value) : rest(value) {}

  template <class T> PUREKV_HD static constexpr std::int32_t index_of() {
    if constexpr (std::same_as<T, First>)
      return 0;
    else
      return one_value<Rest...>::template index_of<T>() + 1;
  }

  PUREKV_CALLS template <class F> PUREKV_HD constexpr auto visit(std::int32_t index, F const& f) const {
    return index == 0 ? f(first) : rest.visit(index - 1, f);
  }
};

template <class Last> union one_value<Last> {
  using type = Last;
  static constexpr bool all_differ = true;

  Last first;

  PUREKV_HD constexpr explicit one_value(Last const& value) : first(value) {}

  template <class T> PUREKV_HD static constexpr std::int32_t index_of() { return 0; }

  PUREKV_CALLS template <class F> PUREKV_HD constexpr auto visit(std::int32_t, F const& f) const { return f(first); }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
