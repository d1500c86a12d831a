// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/simd.hpp>

#include <cstddef>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What a micro-kernel keeps in registers: `vectors` of query lanes times `rows` of keys (or dims) as accumulators.
template <int Vectors, int Rows> struct register_block {
  static constexpr std::int32_t vectors = Vectors;
  static constexpr std::int32_t rows = Rows;
};

#if defined(__ARM_NEON)
using attend_block = register_block<4, 6>;  // 24 of 32 registers
#else
// 24 of 32, 12 of 16; SSE2 takes two instructions to broadcast a key, so there a key meets more queries.
using attend_block = register_block<lanes == 8 ? 2 : 4, lanes == 4 ? 3 : 6>;
#endif

PUREKV_HOST_INLINE std::int32_t whole_registers(std::int32_t n) { return (n + lanes - 1) / lanes * lanes; }

/// Queries that a micro-kernel works on side by side, one in each lane.
inline constexpr std::int32_t block_lanes = attend_block::vectors * lanes;

/// Keys (or dims) that a micro-kernel takes where only the first `Vectors` registers of a block hold rows.
template <int Vectors>
inline constexpr std::int32_t block_rows = Vectors == attend_block::vectors ? attend_block::rows
                                           : Vectors == 1                   ? 8
                                                                            : 6;

/// Calls f.operator()<Vectors>() with a power of two of registers that has room for `used` lanes of a block.
template <int Vectors = 1, class F> PUREKV_HOST_INLINE void dispatch_vectors(std::int32_t used, F const& f) {
  if constexpr (Vectors < attend_block::vectors) {
    if (used > Vectors * lanes) return dispatch_vectors<2 * Vectors>(used, f);
    f.template operator()<Vectors>();
  } else {
    f.template operator()<attend_block::vectors>();
  }
}

// The micro-kernels stay functions of their own: inlined, they compete with their callers for registers.

/// scores[r][lane] = sum_d keys[r][d] * queries[d][lane] for Rows keys and the first Vectors registers of lanes.
template <int Rows, int Vectors>
[[gnu::noinline]] void multiply_keys(float const* keys, std::ptrdiff_t key_stride, float const* queries,
                                     std::int32_t dim, float* scores) {
  constexpr std::int32_t vectors = Vectors;
  vec sum[Rows][vectors] = {};
  for (std::int32_t d = 0; d < dim; ++d) {
    vec q[vectors];
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) q[v] = load(queries + d * block_lanes + v * lanes);
    PUREKV_UNROLL(8)
    for (std::int32_t r = 0; r < Rows; ++r) {
      vec const k = splat(keys[r * key_stride + d]);
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < vectors; ++v) sum[r][v] = fma(k, q[v], sum[r][v]);
    }
  }
  PUREKV_UNROLL(8)
  for (std::int32_t r = 0; r < Rows; ++r) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) store(scores + r * block_lanes + v * lanes, sum[r][v]);
  }
}

/// out[d][lane] = rescale[lane] * out[d][lane] + sum_k values[k][d] * weights[k][lane] for Rows dims and the
/// first Vectors registers of lanes. With `guarded`, a weight (or rescale) of zero takes nothing from its factor, even
/// if that is inf or NaN.
template <int Rows, bool guarded, int Vectors>
[[gnu::noinline]] void multiply_values(float const* values, std::ptrdiff_t value_stride, float const* weights,
                                       std::int32_t keys, float const* rescale, float* out) {
  constexpr std::int32_t vectors = Vectors;
  vec sum[Rows][vectors];
  PUREKV_UNROLL(8)
  for (std::int32_t v = 0; v < vectors; ++v) {
    vec const factor = load(rescale + v * lanes);
    PUREKV_UNROLL(8)
    for (std::int32_t r = 0; r < Rows; ++r) {
      sum[r][v] = factor * load(out + r * block_lanes + v * lanes);
      if constexpr (guarded) sum[r][v] = blend(factor == vec{}, vec{}, sum[r][v]);
    }
  }
  for (std::int32_t k = 0; k < keys; ++k) {
    vec w[vectors];
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) w[v] = load(weights + k * block_lanes + v * lanes);
    PUREKV_UNROLL(8)
    for (std::int32_t r = 0; r < Rows; ++r) {
      vec const x = splat(values[k * value_stride + r]);
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < vectors; ++v) {
        vec const next = fma(x, w[v], sum[r][v]);
        if constexpr (guarded)
          sum[r][v] = blend(w[v] == vec{}, sum[r][v], next);
        else
          sum[r][v] = next;
      }
    }
  }
  PUREKV_UNROLL(8)
  for (std::int32_t r = 0; r < Rows; ++r) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) store(out + r * block_lanes + v * lanes, sum[r][v]);
  }
}

/// Calls f.operator()<size>(first), size <= Rows.
template <int Rows, class F> PUREKV_HOST_INLINE void dispatch_group(std::int32_t size, std::int32_t first, F const& f) {
  if (size == Rows)
    f.template operator()<Rows>(first);
  else if constexpr (Rows > 1)
    dispatch_group<Rows - 1>(size, first, f);
}

/// Calls f.operator()<n>(first) for `count` rows in groups of nearly equal size, none larger than Rows: a small group
/// at the end would leave registers unused.
template <int Rows = attend_block::rows, class F>
PUREKV_HOST_INLINE void for_each_group(std::int32_t count, F const& f) {
  std::int32_t const groups = (count + Rows - 1) / Rows;
  for (std::int32_t first = 0, left = groups; left > 0; --left) {
    std::int32_t const size = (count - first + left - 1) / left;
    dispatch_group<Rows>(size, first, f);
    first += size;
  }
}

/// scores : [keys, block_lanes] = keys : [keys, dim] times queries : [dim, block_lanes], of which the first Vectors
/// registers count.
template <int Vectors = attend_block::vectors>
void multiply_keys(float const* keys, std::ptrdiff_t key_stride, std::int32_t count, float const* queries,
                   std::int32_t dim, float* scores) {
  for_each_group<block_rows<Vectors>>(count, [&]<int Rows>(std::int32_t first) {
    multiply_keys<Rows, Vectors>(keys + first * key_stride, key_stride, queries, dim, scores + first * block_lanes);
  });
}

/// out : [dim, block_lanes] = rescale * out + values^T : [dim, keys] times weights : [keys, block_lanes], of which the
/// first Vectors registers count.
template <bool guarded, int Vectors = attend_block::vectors>
void multiply_values(float const* values, std::ptrdiff_t value_stride, std::int32_t count, float const* weights,
                     std::int32_t dim, float const* rescale, float* out) {
  for_each_group<block_rows<Vectors>>(dim, [&]<int Rows>(std::int32_t first) {
    multiply_values<Rows, guarded, Vectors>(values + first, value_stride, weights, count, rescale,
                                            out + first * block_lanes);
  });
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
