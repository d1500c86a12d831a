// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/index.hpp>
#include <purekv/simt/site.hpp>
#if !defined(__CUDACC__)
#include <purekv/simt/device.hpp>
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// The calling thread within its block, 0 .. block_threads() - 1.
PUREKV_DEVICE std::int32_t thread_index() {
#if defined(__CUDACC__)
  return static_cast<std::int32_t>(threadIdx.x);
#else
  return detail::running->thread();
#endif
}

PUREKV_DEVICE std::int32_t block_threads() {
#if defined(__CUDACC__)
  return static_cast<std::int32_t>(blockDim.x);
#else
  return detail::running->threads();
#endif
}

/// The calling block within the grid.
PUREKV_DEVICE grid block_index() {
#if defined(__CUDACC__)
  return {static_cast<std::int32_t>(blockIdx.x), static_cast<std::int32_t>(blockIdx.y),
          static_cast<std::int32_t>(blockIdx.z)};
#else
  return detail::running->index();
#endif
}

PUREKV_DEVICE grid grid_size() {
#if defined(__CUDACC__)
  return {static_cast<std::int32_t>(gridDim.x), static_cast<std::int32_t>(gridDim.y),
          static_cast<std::int32_t>(gridDim.z)};
#else
  return detail::running->shape();
#endif
}

inline constexpr std::int32_t warp_threads = 32;

PUREKV_DEVICE std::int32_t lane_index() { return thread_index() % warp_threads; }
PUREKV_DEVICE std::int32_t warp_index() { return thread_index() / warp_threads; }

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
