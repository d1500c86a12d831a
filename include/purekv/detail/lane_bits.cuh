// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/warp.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// What `simt::ballot` gives: a bit for each lane of a warp.

PUREKV_DEVICE std::int32_t count_of(std::uint32_t bits) {
#if defined(__CUDACC__)
  return __popc(bits);
#else
  return __builtin_popcount(bits);
#endif
}

/// -1 if there is none.
PUREKV_DEVICE std::int32_t highest_of(std::uint32_t bits) {
#if defined(__CUDACC__)
  return 31 - __clz(static_cast<int>(bits));
#else
  return bits == 0 ? -1 : 31 - __builtin_clz(bits);
#endif
}

PUREKV_DEVICE std::int32_t lowest_of(std::uint32_t bits) { return highest_of(bits & (~bits + 1)); }

PUREKV_DEVICE std::uint32_t lanes_below() { return (1u << simt::lane_index()) - 1; }
PUREKV_DEVICE std::uint32_t lanes_above() { return ~lanes_below() << 1; }

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
