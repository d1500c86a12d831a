// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/compressor.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// B's keep, where there are no heads to share it.
template <class B> struct one_budget {
  [[no_unique_address]] B budget{};

  PUREKV_HD constexpr std::int32_t keep(budget_input in) const { return budget.keep(in); }
  PUREKV_HD constexpr status check() const { return budget.check(); }
};

/// What P pins, and the newest token.
template <class P> struct with_newest {
  [[no_unique_address]] P protect{};

  PUREKV_HD constexpr bool pinned(std::int32_t position, std::int32_t last) const {
    return position == last || protect.pinned(position, last);
  }
  PUREKV_HD constexpr status check(std::int32_t last) const { return protect.check(last); }
};

/// The same compressor for tokens that are dropped: one set for all heads, the newest among them.
template <class E, class B, class P, selection_scope Scope>
constexpr auto one_set(compressor<E, B, P, Scope> const& c) {
  return compressor<E, one_budget<B>, with_newest<P>, selection_scope::layer>{c.estimator, {c.budget}, {c.protect}};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
