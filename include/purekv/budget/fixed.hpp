// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// keep = min(tokens, cached tokens). tokens >= 1.
struct fixed {
  std::int32_t tokens = 0;

  PUREKV_HD constexpr std::int32_t keep(budget_input in) const { return tokens < in.tokens ? tokens : in.tokens; }

  PUREKV_HD constexpr status check() const {
    if (tokens <= 0) return {errc::bad_policy, "fixed: tokens must be at least 1"};
    return {};
  }
};

static_assert(Budget<fixed>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
