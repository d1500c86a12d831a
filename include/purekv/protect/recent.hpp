// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// pinned = position > last - tokens: the newest positions.
struct recent {
  std::int32_t tokens = 16;

  PUREKV_HD constexpr bool pinned(std::int32_t position, std::int32_t last) const { return last - position < tokens; }

  PUREKV_HD constexpr status check(std::int32_t) const {
    if (tokens < 0) return {errc::bad_policy, "recent: the number of tokens is negative"};
    return {};
  }
};

static_assert(Protect<recent>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
