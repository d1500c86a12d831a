// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/gemm.hpp>
#include <purekv/detail/prefetch.hpp>
#include <purekv/detail/simd.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// Decoding keeps a few query rows in registers and streams keys and values past them, each read once for all rows.
// Lanes are dims. Logits and weights are [keys, logit_stride], of which the first Rows count.

inline constexpr std::int32_t decode_rows = lanes < 8 ? lanes : 8;  // most rows in registers

/// Floats from one key's logits to the next: rows rounded up so that a register holds whole keys.
PUREKV_HOST_INLINE constexpr std::int32_t logit_stride(std::int32_t rows) {
  return rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : 8;
}

#if defined(__AVX512F__) || (defined(__ARM_NEON) && defined(__aarch64__))
inline constexpr std::int32_t registers = 32;
#else
inline constexpr std::int32_t registers = 16;
#endif

/// Rows that meet two keys at once (or two registers of a value): all, or half of them where sums, keys and one
/// register of queries would be more than there are registers.
template <int Rows> inline constexpr std::int32_t rows_together = 2 * Rows + 3 <= registers ? Rows : (Rows + 1) / 2;

/// Keys that are taken together: those of a register of logits, and two at least, so that a register of queries serves
/// two multiply-adds, and there are enough sums to hide the latency of one.
template <int Rows>
inline constexpr std::int32_t decode_keys = 2 * logit_stride(Rows) < lanes ? lanes / logit_stride(Rows) : 2;

/// Registers of values that one pass keeps for each of so many rows.
template <int Rows>
inline constexpr std::int32_t decode_vectors = registers == 32 ? (Rows <= 2   ? 8
                                                                  : Rows <= 4 ? 4
                                                                              : 2)
                                                               : (Rows <= 3   ? 4
                                                                  : Rows <= 4 ? 3
                                                                              : 2);

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

/// logits[j * logit_stride + r] = sum over d of keys[j][d] * q[r][d]. q : [Rows, padded], zero from dim on. Fetches
/// rows `ahead` + j * stride meanwhile, line by line, for later. Returns the logits times zero.
template <int Rows, class T>
PUREKV_HOST_INLINE vec multiply_rows(float const* q, std::int32_t padded, std::int32_t dim,
                                     T const* const (&keys)[decode_keys<Rows>], T const* ahead, std::ptrdiff_t stride,
                                     float* logits) {
  constexpr std::int32_t count = decode_keys<Rows>, per_key = logit_stride(Rows), results = count * per_key / lanes;
  constexpr std::int32_t line = line_bytes / static_cast<std::int32_t>(sizeof(T));
  vec sum[results][lanes] = {};
  if constexpr (count > keys_side_by_side) {
    // Not unrolled: g++ would move the prefetches of all keys to the front, more lines than memory fetches at once.
    PUREKV_UNROLL(1)
    for (std::int32_t j = 0; j < count; ++j) sum[0][j] = multiply_row(q, dim, keys[j], ahead + j * stride);
  } else {
    // Some registers of dims of all keys with the rows from First on; at(p) loads one.
    auto const add = [&]<int First, int Vectors>(std::int32_t d, auto const& at) __attribute__((always_inline)) {
      PUREKV_UNROLL(8)
      for (std::int32_t j = First == 0 ? 0 : 1; j < count; j += rows_together<Rows> < Rows ? 2 : 1)
        prefetch_line(ahead + j * stride + d);
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < Vectors * lanes; v += lanes) {
        vec key[count];
        PUREKV_UNROLL(8)
        for (std::int32_t j = 0; j < count; ++j) {
          key[j] = at(keys[j] + d + v);
          hold(key[j]);
        }
        PUREKV_UNROLL(8)
        for (std::int32_t r = First; r < (First == 0 ? rows_together<Rows> : Rows); ++r) {
          vec x = load(q + r * padded + d + v);
          hold(x);
          PUREKV_UNROLL(8)
          for (std::int32_t j = 0; j < count; ++j) {
            std::int32_t const i = j * per_key + r;
            sum[i / lanes][i % lanes] = fma(x, key[j], sum[i / lanes][i % lanes]);
          }
        }
      }
    };
    auto const whole = [](T const* p) __attribute__((always_inline)) { return widen(p); };
    auto const part = [&]<int First>() __attribute__((always_inline)) {
      std::int32_t d = 0;
      constexpr std::int32_t vectors = line / lanes;
      for (; d + vectors * lanes <= dim; d += vectors * lanes) add.template operator()<First, vectors>(d, whole);
      if constexpr (vectors > 1)
        for (; d + lanes <= dim; d += lanes) add.template operator()<First, 1>(d, whole);
      if (d < dim) add.template operator()<First, 1>(d, [&](T const* p) { return widen(p, dim - d); });
    };
    part.template operator()<0>();
    if constexpr (rows_together<Rows> < Rows) part.template operator()<rows_together<Rows>>();
  }
  vec odd{};
  PUREKV_UNROLL(8)
  for (std::int32_t i = 0; i < results; ++i) {
    vec const s = totals(sum[i]);
    odd = fma(s, vec{}, odd);
    store(logits + i * lanes, s);
  }
  return odd;
}

/// out[r][d] += sum over keys [first, last) of weights[key][r] * values[key][d] for Rows rows and Vectors registers of
/// dims, or the first `rest` lanes of one. weights : [keys, per_key]; out : [Rows, padded]; the dims begin at `column`.
/// Fetches as much of a row of `ahead` with every key, or half of it where rows go in two `Parts`.
template <int Rows, int Parts, int Vectors, bool partial, class T>
PUREKV_HOST_INLINE void multiply_weights(float const* weights, std::int32_t per_key, row_source<T> const& values,
                                         std::int32_t first, std::int32_t last, std::int32_t column, std::int32_t rest,
                                         T const* ahead, std::ptrdiff_t ahead_stride, float* out, std::int32_t padded) {
  constexpr std::int32_t line = line_bytes / static_cast<std::int32_t>(sizeof(T));
  out += column;
  vec sum[Rows][Vectors];
  PUREKV_UNROLL(8)
  for (std::int32_t r = 0; r < Rows; ++r) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < Vectors; ++v) sum[r][v] = load(out + r * padded + v * lanes);
  }
  for (std::int32_t i = first; i < last; ++i) {
    T const* const row = values.at(i) + column;
    float const* const weight = weights + i * per_key;
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < Vectors * lanes / Parts; v += line) prefetch_line(ahead + v);
    ahead += ahead_stride;
    auto const value = [&](std::int32_t v) __attribute__((always_inline)) {
      return partial ? widen(row, rest) : widen(row + v * lanes);
    };
    // The fewer of the two stay in registers.
    if constexpr (Rows < Vectors) {
      vec p[Rows];
      PUREKV_UNROLL(8)
      for (std::int32_t r = 0; r < Rows; ++r) {
        p[r] = splat(weight[r]);
        hold(p[r]);
      }
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < Vectors; ++v) {
        vec x = value(v);
        hold(x);
        PUREKV_UNROLL(8)
        for (std::int32_t r = 0; r < Rows; ++r) sum[r][v] = fma(p[r], x, sum[r][v]);
      }
    } else {
      vec x[Vectors];
      PUREKV_UNROLL(8)
      for (std::int32_t v = 0; v < Vectors; ++v) {
        x[v] = value(v);
        hold(x[v]);
      }
      PUREKV_UNROLL(8)
      for (std::int32_t r = 0; r < Rows; ++r) {
        vec p = splat(weight[r]);
        hold(p);
        PUREKV_UNROLL(8)
        for (std::int32_t v = 0; v < Vectors; ++v) sum[r][v] = fma(p, x[v], sum[r][v]);
      }
    }
  }
  PUREKV_UNROLL(8)
  for (std::int32_t r = 0; r < Rows; ++r) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < Vectors; ++v) store(out + r * padded + v * lanes, sum[r][v]);
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
