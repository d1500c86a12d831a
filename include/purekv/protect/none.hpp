// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// pinned = false: the score decides about every token.
struct none {
  PUREKV_HD constexpr bool pinned(std::int32_t, std::int32_t) const { return false; }
  PUREKV_HD constexpr status check(std::int32_t) const { return {}; }
};

static_assert(Protect<none>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
