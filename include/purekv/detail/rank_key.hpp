// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Unsigned numbers in the order of scores: NaN below -inf, -0 equal to +0, above every score one value for what is
/// kept in any case, and below NaN one for what never is.
inline constexpr std::uint32_t pinned_key = 0xffffffffu, evicted_key = 0;

PUREKV_INLINE std::uint32_t rank_key(float score) {
  std::uint32_t const bits = __builtin_bit_cast(std::uint32_t, score + 0.0f);
  std::uint32_t const key = bits ^ (static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31) | 0x80000000u);
  return score == score ? key : evicted_key + 1;
}

/// Where the k largest of some keys end: those above `key`, and the first `ties` of those equal to it.
struct cut {
  std::uint32_t key;
  std::int64_t ties;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
