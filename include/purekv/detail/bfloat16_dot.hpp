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

#if defined(PUREKV_HAS_BFLOAT16_DOT)

/// The largest magnitude among bfloat16, by their bits: NaN counts as more than inf.
class pair_magnitude {
 public:
  PUREKV_HOST_INLINE void add(__m512i x) {
    most_ = _mm512_max_epu16(most_, _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)));
  }
  float largest() const {
    std::uint16_t all[32], most = 0;
    __builtin_memcpy(all, &most_, sizeof all);
    for (std::uint16_t x : all) most = x > most ? x : most;
    return __builtin_bit_cast(float, std::uint32_t{most} << 16);
  }

 private:
  __m512i most_ = _mm512_setzero_si512();
};

/// The first `count` elements of a row, at most 32, as 16 pairs with zeros behind them.
PUREKV_HOST_INLINE __m512i load_pairs(bfloat16 const* p, std::int32_t count) {
  return _mm512_maskz_loadu_epi16(count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1, p);
}

/// packed[pair][lane] = elements 2 pair and 2 pair + 1 of row(lane), 0 for lanes from `count` on. Returns the largest
/// magnitude. packed : [pairs_of(dim), block_lanes].
template <class Row> float pack_pairs(Row const& row, std::int32_t count, std::int32_t dim, float* packed) {
  pair_magnitude most;
  for (std::int32_t lane = 0; lane < block_lanes; lane += lanes)
    for (std::int32_t d = 0; d < dim; d += 2 * lanes) {
      vec square[lanes] = {};
      for (std::int32_t i = 0; i < lanes && lane + i < count; ++i) {
        __m512i const x = load_pairs(row(lane + i) + d, dim - d);
        most.add(x);
        square[i] = vec(x);
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
      __m512i const x = load_pairs(src + d, dim - d);
      seen.add(x);
      std::int32_t const pairs = pairs_of(dim - d);
      _mm512_mask_storeu_epi32(dst + d / 2, static_cast<__mmask16>(pairs >= 16 ? 0xffff : (1 << pairs) - 1), x);
    }
  most = seen;
}

/// scores[r][lane] = scale * sum_d keys[r][d] * queries[d][lane] for Rows keys.
template <int Rows>
[[gnu::noinline]] void multiply_key_pairs(float const* keys, float const* queries, std::int32_t pairs, float scale,
                                          float* scores) {
  constexpr std::int32_t vectors = attend_block::vectors;
  __m512 sum[Rows][vectors] = {};
  for (std::int32_t d = 0; d < pairs; ++d) {
    __m512bh q[vectors];
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) q[v] = __m512bh(load(queries + d * block_lanes + v * lanes));
    PUREKV_UNROLL(8)
    for (std::int32_t r = 0; r < Rows; ++r) {
      __m512bh const k = __m512bh(splat(keys[r * pairs + d]));
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < vectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], k, q[v]);
    }
  }
  PUREKV_UNROLL(8)
  for (std::int32_t r = 0; r < Rows; ++r) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v)
      store(scores + r * block_lanes + v * lanes, splat(scale) * vec(sum[r][v]));
  }
}

/// scores : [count, block_lanes] = scale * keys : [count, dim] times queries : [dim, block_lanes], both in pairs.
inline void multiply_key_pairs(float const* keys, std::int32_t count, float const* queries, std::int32_t dim,
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
