// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// pinned = one of P... pins it: any_of<sinks, recent>{{4}, {16}}; evicted likewise. Each kind may occur once.
template <class... P> struct any_of : P... {
  static_assert((Protect<P> && ...), "any_of: one of its parts is not a purekv::Protect (docs/concepts/protect.md)");
  static_assert(sizeof...(P) > 0, "any_of: it needs at least one purekv::Protect");

  PUREKV_HD constexpr bool pinned(std::int32_t position, std::int32_t last) const {
    return (static_cast<P const&>(*this).pinned(position, last) || ...);
  }

  PUREKV_HD constexpr bool evicted(std::int32_t position, std::int32_t last) const requires(EvictingProtect<P> || ...) {
    return (evicted_by(static_cast<P const&>(*this), position, last) || ...);
  }

  PUREKV_HD constexpr status check(std::int32_t last) const {
    status first;
    ((first.ok() ? void(first = static_cast<P const&>(*this).check(last)) : void()), ...);
    return first;
  }

 private:
  template <class Part>
  PUREKV_HD static constexpr bool evicted_by(Part const& part, std::int32_t position, std::int32_t last) {
    if constexpr (EvictingProtect<Part>)
      return part.evicted(position, last);
    else
      return false;
  }
};

template <class... P> any_of(P...) -> any_of<P...>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
