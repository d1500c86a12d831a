// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/prefetch.hpp>
#include <purekv/detail/simd.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// Decoding keeps a few query rows in registers and streams keys and values past them, each read once for all rows.
// Lanes are dims. Logits and weights are [keys, logit_stride], of which the first Rows count.

inline constexpr std::int32_t decode_rows = lanes < 8 ? lanes : 8;  // most rows in registers

PUREKV_HOST_INLINE std::int32_t whole_registers(std::int32_t n) { return (n + lanes - 1) / lanes * lanes; }

/// Floats from one key's logits to the next: rows rounded up so that a register holds whole keys.
PUREKV_HOST_INLINE constexpr std::int32_t logit_stride(std::int32_t rows) {
  return rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : 8;
}

/// Keys in a register of logits.
template <int Rows> inline constexpr std::int32_t decode_keys = lanes / logit_stride(Rows);

/// Registers of values that one pass keeps per row, so that Rows times as many accumulators hide the latency of a
/// multiply-add without spilling.
#if defined(__AVX512F__) || defined(__ARM_NEON)  // 32 registers, else 16
template <int Rows> inline constexpr std::int32_t decode_vectors = Rows <= 2 ? 8 : Rows <= 4 ? 4 : 2;
#else
template <int Rows> inline constexpr std::int32_t decode_vectors = Rows <= 3 ? 4 : Rows <= 4 ? 3 : 2;
#endif

/// The rows of keys (or values) of a chunk: `rows` where they lie anywhere, else every `stride` elements from `first`.
template <class T> struct row_source {
  T const* first;
  std::ptrdiff_t stride;
  T const* const* rows;

  PUREKV_HOST_INLINE T const* at(std::int32_t i) const { return rows != nullptr ? rows[i] : first + i * stride; }
};

/// a + b folded in halves of 2 * half lanes: the lanes with bit `half` clear hold sums of a, the others sums of b.
template <int half_width> PUREKV_HOST_INLINE vec fold(vec a, vec b) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  if constexpr (half_width == 8)
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) +
           __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
  else if constexpr (half_width == 4)
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 20, 21, 22, 23, 8, 9, 10, 11, 28, 29, 30, 31) +
           __builtin_shufflevector(a, b, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
  else if constexpr (half_width == 2)
    return __builtin_shufflevector(a, b, 0, 1, 18, 19, 4, 5, 22, 23, 8, 9, 26, 27, 12, 13, 30, 31) +
           __builtin_shufflevector(a, b, 2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29);
  else
    return __builtin_shufflevector(a, b, 0, 17, 2, 19, 4, 21, 6, 23, 8, 25, 10, 27, 12, 29, 14, 31) +
           __builtin_shufflevector(a, b, 1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  if constexpr (half_width == 4)
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 12, 13, 14, 15) +
           __builtin_shufflevector(a, b, 4, 5, 6, 7, 8, 9, 10, 11);
  else if constexpr (half_width == 2)
    return __builtin_shufflevector(a, b, 0, 1, 10, 11, 4, 5, 14, 15) +
           __builtin_shufflevector(a, b, 2, 3, 8, 9, 6, 7, 12, 13);
  else
    return __builtin_shufflevector(a, b, 0, 9, 2, 11, 4, 13, 6, 15) +
           __builtin_shufflevector(a, b, 1, 8, 3, 10, 5, 12, 7, 14);
#else
  if constexpr (half_width == 2)
    return __builtin_shufflevector(a, b, 0, 1, 6, 7) + __builtin_shufflevector(a, b, 2, 3, 4, 5);
  else
    return __builtin_shufflevector(a, b, 0, 5, 2, 7) + __builtin_shufflevector(a, b, 1, 4, 3, 6);
#endif
}

/// Lane i of the result is the total of the lanes of sum[i].
template <int half_width = lanes / 2> PUREKV_HOST_INLINE vec totals(vec (&sum)[lanes]) {
  PUREKV_UNROLL(8)
  for (int i = 0; i < half_width; ++i) sum[i] = fold<half_width>(sum[i], sum[i + half_width]);
  if constexpr (half_width == 1)
    return sum[0];
  else
    return totals<half_width / 2>(sum);
}

/// Holds x in a register: compilers like to load it again for each use, and loads are what there are too few of.
PUREKV_HOST_INLINE void hold(vec& x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__SSE2__)
  asm("" : "+x"(x));
#elif defined(__ARM_NEON) && defined(__aarch64__)
  asm("" : "+w"(x));
#endif
}

inline constexpr std::int32_t keys_side_by_side = 8;  // walked together; more are taken one by one
inline constexpr std::int32_t key_vectors = 4;        // of one key in a row, where they are taken one by one

/// sum over d of key[d] * q[d], lane by lane. Fetches `ahead` meanwhile.
template <class T> PUREKV_HOST_INLINE vec multiply_row(float const* q, std::int32_t dim, T const* key, T const* ahead) {
  constexpr std::int32_t line = line_bytes / static_cast<std::int32_t>(sizeof(T));
  vec sum[2] = {};
  std::int32_t d = 0;
  for (; d + key_vectors * lanes <= dim; d += key_vectors * lanes) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < key_vectors; ++v) {
      if (v * lanes % line == 0) prefetch_line(ahead + d + v * lanes);
      sum[v % 2] = fma(load(q + d + v * lanes), widen(key + d + v * lanes), sum[v % 2]);
    }
  }
  for (; d < dim; d += lanes) {
    if (d % line == 0) prefetch_line(ahead + d);
    sum[0] = fma(load(q + d), dim - d >= lanes ? widen(key + d) : widen(key + d, dim - d), sum[0]);
  }
  return sum[0] + sum[1];
}

/// sum over d of keys[j][d] * q[r][d] in lane j * logit_stride + r. q : [Rows, padded], zero from dim on. Fetches rows
/// `ahead` + j * stride meanwhile, line by line, for later.
template <int Rows, class T>
PUREKV_HOST_INLINE vec multiply_rows(float const* q, std::int32_t padded, std::int32_t dim,
                                     T const* const (&keys)[decode_keys<Rows>], T const* ahead, std::ptrdiff_t stride) {
  constexpr std::int32_t count = decode_keys<Rows>, per_key = logit_stride(Rows);
  constexpr std::int32_t line = line_bytes / static_cast<std::int32_t>(sizeof(T));
  vec sum[lanes] = {};
  if constexpr (count > keys_side_by_side) {
    // Not unrolled: g++ would move the prefetches of all keys to the front, more lines than memory fetches at once.
    PUREKV_UNROLL(1)
    for (std::int32_t j = 0; j < count; ++j) sum[j] = multiply_row(q, dim, keys[j], ahead + j * stride);
  } else {
    // Some registers of dims of all keys; at(p) loads one.
    auto const add = [&]<int Vectors>(std::int32_t d, auto const& at) __attribute__((always_inline)) {
      PUREKV_UNROLL(8)
      for (std::int32_t j = 0; j < count; ++j) prefetch_line(ahead + j * stride + d);
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < Vectors * lanes; v += lanes) {
        vec key[count];
        PUREKV_UNROLL(8)
        for (std::int32_t j = 0; j < count; ++j) key[j] = at(keys[j] + d + v);
        PUREKV_UNROLL(8)
        for (std::int32_t r = 0; r < Rows; ++r) {
          vec x = load(q + r * padded + d + v);
          hold(x);
          PUREKV_UNROLL(8)
          for (std::int32_t j = 0; j < count; ++j) sum[j * per_key + r] = fma(x, key[j], sum[j * per_key + r]);
        }
      }
    };
    auto const whole = [](T const* p) __attribute__((always_inline)) { return widen(p); };
    std::int32_t d = 0;
    constexpr std::int32_t vectors = line / lanes;
    for (; d + vectors * lanes <= dim; d += vectors * lanes) add.template operator()<vectors>(d, whole);
    if constexpr (vectors > 1)
      for (; d + lanes <= dim; d += lanes) add.template operator()<1>(d, whole);
    if (d < dim) add.template operator()<1>(d, [&](T const* p) { return widen(p, dim - d); });
  }
  return totals(sum);
}

/// out[r][d] += sum over keys [first, last) of weights[key][r] * values[key][d], for Vectors registers of dims, or the
/// first `rest` lanes of one. weights : [keys, logit_stride]; out : [Rows, padded]; the dims begin at `column`. Fetches
/// a row of `ahead` with every key.
template <int Rows, int Vectors, bool partial, class T>
PUREKV_HOST_INLINE void multiply_weights(float const* weights, row_source<T> const& values, std::int32_t first,
                                         std::int32_t last, std::int32_t column, std::int32_t rest, T const* ahead,
                                         std::ptrdiff_t ahead_stride, float* out, std::int32_t padded) {
  constexpr std::int32_t line = line_bytes / static_cast<std::int32_t>(sizeof(T));
  vec sum[Rows][Vectors];
  PUREKV_UNROLL(8)
  for (std::int32_t r = 0; r < Rows; ++r) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < Vectors; ++v) sum[r][v] = load(out + r * padded + column + v * lanes);
  }
  for (std::int32_t i = first; i < last; ++i) {
    T const* const row = values.at(i) + column;
    vec x[Vectors];
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < Vectors; ++v) {
      x[v] = partial ? widen(row, rest) : widen(row + v * lanes);
      if (v * lanes % line == 0) prefetch_line(ahead + v * lanes);
    }
    ahead += ahead_stride;
    PUREKV_UNROLL(8)
    for (std::int32_t r = 0; r < Rows; ++r) {
      vec p = splat(weights[i * logit_stride(Rows) + r]);
      hold(p);
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < Vectors; ++v) sum[r][v] = fma(p, x[v], sum[r][v]);
    }
  }
  PUREKV_UNROLL(8)
  for (std::int32_t r = 0; r < Rows; ++r) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < Vectors; ++v) store(out + r * padded + column + v * lanes, sum[r][v]);
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
