// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// visible(q, k) = true: every query sees every key at or before it.
struct dense {
  PUREKV_HD bool visible(std::int32_t, std::int32_t, std::int32_t) const { return true; }

  PUREKV_CALLS template <class F> PUREKV_HD void runs(std::int32_t, std::int32_t q_last, F const& emit) const {
    emit(std::int32_t{0}, q_last, true);
  }
};

static_assert(Pattern<dense>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
