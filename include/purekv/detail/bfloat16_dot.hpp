// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/pack.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Whether q . k of these types is added up in pairs of bfloat16 (VDPBF16PS, PUREKV_BFLOAT16_DOT): exact products,
/// float sums, twice as many in an instruction. Subnormals count as 0, inputs and sums alike.
#if defined(PUREKV_HAS_BFLOAT16_DOT)
template <class TQ, class T>
inline constexpr bool in_pairs = std::is_same_v<TQ, bfloat16>&& std::is_same_v<T, bfloat16>;
#else
template <class TQ, class T> inline constexpr bool in_pairs = false;
#endif

/// 32-bit lanes that a row of bfloat16 pairs fills.
inline std::int32_t pairs_of(std::int32_t dim) { return (dim + 1) / 2; }

/// What ordinary registers need beside themselves.
struct no_tiles {
  explicit no_tiles(std::int32_t) {}
};

#if defined(PUREKV_HAS_BFLOAT16_DOT)

/// The largest magnitude among bfloat16, by their bits: NaN counts as more than inf.
class pair_magnitude {
  using words = std::uint16_t __attribute__((vector_size(lanes * 4)));

 public:
  PUREKV_HOST_INLINE void add(vec x) {
    words const bits = words(x) & 0x7fff;
    most_ = bits > most_ ? bits : most_;
  }
  float largest() const {
    std::uint16_t most = 0;
    for (std::int32_t i = 0; i < 2 * lanes; ++i) most = most_[i] > most ? most_[i] : most;
    return __builtin_bit_cast(float, std::uint32_t{most} << 16);
  }

 private:
  words most_ = {};
};

/// The first `count` elements of a row, at most 2 * lanes, as pairs with zeros behind them.
PUREKV_HOST_INLINE vec load_pairs(bfloat16 const* p, std::int32_t count) {
  vec x{};
  if (count >= 2 * lanes)
    __builtin_memcpy(&x, p, sizeof x);
  else
    __builtin_memcpy(&x, p, static_cast<std::size_t>(count) * sizeof *p);
  return x;
}

/// sum + a1 * b1 + a0 * b0 of the pairs (a0, a1), (b0, b1) in each lane, in this order.
PUREKV_HOST_INLINE vec add_pairs(vec sum, vec a, vec b) {
#if !defined(PUREKV_BFLOAT16_DOT_IN_SOFTWARE)
  return vec(_mm512_dpbf16_ps(__m512(sum), __m512bh(a), __m512bh(b)));
#else
  auto const normal = [](vec x) { return blend((ivec(x) & 0x7f800000) == 0, vec{}, x); };
  auto const first = [&](vec x) { return normal(vec(uvec(x) << 16)); };
  auto const second = [&](vec x) { return normal(vec(uvec(x) & 0xffff0000u)); };
  return normal(fma(first(a), first(b), normal(fma(second(a), second(b), normal(sum)))));
#endif
}

/// packed[pair][lane] = elements 2 pair and 2 pair + 1 of row(lane), 0 for lanes from `count` on. Returns the largest
/// magnitude. packed : [pairs_of(dim), block_lanes].
template <class Row> float pack_pairs(Row const& row, std::int32_t count, std::int32_t dim, float* packed) {
  pair_magnitude most;
  for (std::int32_t lane = 0; lane < block_lanes; lane += lanes)
    for (std::int32_t d = 0; d < dim; d += 2 * lanes) {
      vec square[lanes] = {};
      for (std::int32_t i = 0; i < lanes && lane + i < count; ++i) {
        square[i] = load_pairs(row(lane + i) + d, dim - d);
        most.add(square[i]);
      }
      transpose(square);
      for (std::int32_t i = 0; i < smaller(lanes, pairs_of(dim - d)); ++i)
        store(packed + (d / 2 + i) * block_lanes + lane, square[i]);
    }
  return most.largest();
}

/// dst : [count, pairs_of(dim)] from rows `stride` apart. Adds what it copies to `most`.
inline void copy_pairs(bfloat16 const* src, std::ptrdiff_t stride, std::int32_t count, std::int32_t dim, float* dst,
                       pair_magnitude& most) {
  pair_magnitude seen = most;
  for (std::int32_t i = 0; i < count; ++i, src += stride, dst += pairs_of(dim))
    for (std::int32_t d = 0; d < dim; d += 2 * lanes) {
      vec const x = load_pairs(src + d, dim - d);
      seen.add(x);
      if (dim - d >= 2 * lanes)
        store(dst + d / 2, x);
      else
        __builtin_memcpy(dst + d / 2, &x, static_cast<std::size_t>(pairs_of(dim - d)) * sizeof *dst);
    }
  most = seen;
}

/// scores[r][lane] = scale * sum_d keys[r][d] * queries[d][lane] for Rows keys.
template <int Rows>
[[gnu::noinline]] void multiply_key_pairs(float const* keys, float const* queries, std::int32_t pairs, float scale,
                                          float* scores) {
  constexpr std::int32_t vectors = attend_block::vectors;
  vec sum[Rows][vectors] = {};
  for (std::int32_t d = 0; d < pairs; ++d) {
    vec q[vectors];
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) q[v] = load(queries + d * block_lanes + v * lanes);
    PUREKV_UNROLL(8)
    for (std::int32_t r = 0; r < Rows; ++r) {
      vec const k = splat(keys[r * pairs + d]);
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < vectors; ++v) sum[r][v] = add_pairs(sum[r][v], k, q[v]);
    }
  }
  PUREKV_UNROLL(8)
  for (std::int32_t r = 0; r < Rows; ++r) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) store(scores + r * block_lanes + v * lanes, splat(scale) * sum[r][v]);
  }
}

/// scores : [count, block_lanes] = scale * keys : [count, dim] times queries : [dim, block_lanes], both in pairs.
inline void multiply_key_pairs(no_tiles, float const* keys, std::int32_t count, float const* queries, std::int32_t dim,
                               float scale, float* scores) {
  std::int32_t const pairs = pairs_of(dim);
  for_each_group(count, [&]<int Rows>(std::int32_t first) {
    multiply_key_pairs<Rows>(keys + std::ptrdiff_t{first} * pairs, queries, pairs, scale, scores + first * block_lanes);
  });
}

template <bool pairs> using magnitude_of = std::conditional_t<pairs, pair_magnitude, magnitude>;
#else
template <bool pairs> using magnitude_of = magnitude;
#endif

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
