// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/config.hpp>
#include <purekv/simt/thread.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What a block takes on, by the width of rows. Keys are the left factor and stay in registers; queries stream past
/// them as columns, so that a sum over queries is a sum of a lane's own numbers.
/// warp_keys: 32, each fragment of queries is multiplied twice and a word of 32 bits is a warp's visible keys; 16 of
/// the widest rows, which would fill the registers.
template <std::int32_t Width> struct mass_shape {
  static constexpr std::int32_t warps = 4, threads = warps * simt::warp_threads;
  static constexpr std::int32_t warp_keys = Width <= 128 ? 32 : 16, keys = warps * warp_keys;
  static constexpr std::int32_t columns = 64, stages = 2;  // queries x heads of one step
  static constexpr std::int32_t unit = 16;                 // columns that are multiplied together: of one head
  static constexpr std::int32_t units = columns / unit;
  static_assert(keys <= stages * columns, "mass_shape: the keys come in through the memory of the queries");
};

/// Query heads whose masses a block keeps apart, at most: 16 KB of them.
inline constexpr std::int32_t mass_heads = 32;

PUREKV_HD inline float join_mass(float a, float b, mass_reduction by) {
  if (by == mass_reduction::sum) return a + b;
  return a > b ? a : b;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
