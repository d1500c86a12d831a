// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/thread.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// The lanes that take part in a warp-wide operation, one bit each. All of them make the call from the same line.
inline constexpr std::uint32_t all_lanes = 0xffffffffu;

/// Returns when every thread of the block has called it; what one wrote before, all may read after. All threads come,
/// the lanes of a warp by the same call.
PUREKV_DEVICE void sync([[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  __syncthreads();
#else
  detail::running->barrier(0, detail::running->threads(), true, "sync", here);
#endif
}

/// The named barrier `id`, 1 .. 15 (0 is that of sync()), of `threads` threads, a multiple of 32: returns when so many
/// have called sync(id, threads) or arrive(id, threads).
PUREKV_DEVICE void sync(std::int32_t id, std::int32_t threads, [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  detail::running->barrier(id, threads, true, "sync", here);
#endif
}

/// Counts as a call of sync(id, threads), without waiting: what was written before, those that wait may read.
PUREKV_DEVICE void arrive(std::int32_t id, std::int32_t threads, [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  detail::running->barrier(id, threads, false, "arrive", here);
#endif
}

/// Returns when all lanes of `mask` have called it; what one wrote before, all of them may read after. No other
/// warp-wide operation orders memory.
PUREKV_DEVICE void sync_warp(std::uint32_t mask = all_lanes, [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  __syncwarp(mask);
#else
  detail::running->sync_warp(mask, here);
#endif
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
