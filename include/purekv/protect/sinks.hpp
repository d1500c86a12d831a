// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// pinned = position < tokens: the first positions, attention sinks. StreamingLLM, arXiv 2309.17453.
struct sinks {
  std::int32_t tokens = 4;

  PUREKV_HD constexpr bool pinned(std::int32_t position, std::int32_t) const { return position < tokens; }

  PUREKV_HD constexpr status check(std::int32_t) const {
    if (tokens < 0) return {errc::bad_policy, "sinks: the number of tokens is negative"};
    return {};
  }
};

static_assert(Protect<sinks>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
