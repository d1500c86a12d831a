// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/float16.hpp>

#include <cstdint>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Lanes of one register. Vectors are the compiler's own, so +, -, *, <, ?: work on them; what a compiler does not find
/// by itself has an intrinsic below.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
inline constexpr std::int32_t lanes = 16;
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
inline constexpr std::int32_t lanes = 8;
#else
inline constexpr std::int32_t lanes = 4;
#endif

using vec = float __attribute__((vector_size(lanes * 4)));
using ivec = std::int32_t __attribute__((vector_size(lanes * 4)));
using uvec = std::uint32_t __attribute__((vector_size(lanes * 4)));
using bits16 = std::uint16_t __attribute__((vector_size(lanes * 2)));

PUREKV_HOST_INLINE vec load(float const* p) {
  vec x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
PUREKV_HOST_INLINE ivec load(std::int32_t const* p) {
  ivec x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
PUREKV_HOST_INLINE void store(float* p, vec x) { __builtin_memcpy(p, &x, sizeof x); }
PUREKV_HOST_INLINE void store(std::int32_t* p, ivec x) { __builtin_memcpy(p, &x, sizeof x); }
template <class T> PUREKV_HOST_INLINE uvec load_bits16(T const* p) {
// GCC 12 widens a half at a time.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  return uvec(_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p))));
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  return uvec(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p))));
#else
  bits16 x;
  __builtin_memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, uvec);
#endif
}

// Spelled out because `vec{} + x` as a broadcast costs an addition (GCC 12).
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
PUREKV_HOST_INLINE vec splat(float x) { return vec(_mm512_set1_ps(x)); }
PUREKV_HOST_INLINE ivec splat(std::int32_t x) { return ivec(_mm512_set1_epi32(x)); }
PUREKV_HOST_INLINE vec fma(vec a, vec b, vec c) { return vec(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c))); }
/// The larger; b where either is NaN.
PUREKV_HOST_INLINE vec max(vec a, vec b) { return vec(_mm512_maskz_max_ps(0xffff, __m512(a), __m512(b))); }
PUREKV_HOST_INLINE bool any(ivec mask) { return _mm512_movepi32_mask(__m512i(mask)) != 0; }
PUREKV_HOST_INLINE vec floor(vec x) {
  return vec(_mm512_maskz_roundscale_ps(0xffff, __m512(x), _MM_FROUND_TO_NEG_INF));
}
PUREKV_HOST_INLINE vec widen(half const* p) {
  return vec(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p))));
}
PUREKV_HOST_INLINE void narrow(half* p, vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, __m512(x), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
PUREKV_HOST_INLINE vec splat(float x) { return vec(_mm256_set1_ps(x)); }
PUREKV_HOST_INLINE ivec splat(std::int32_t x) { return ivec(_mm256_set1_epi32(x)); }
PUREKV_HOST_INLINE vec fma(vec a, vec b, vec c) { return vec(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c))); }
PUREKV_HOST_INLINE vec max(vec a, vec b) { return vec(_mm256_max_ps(__m256(a), __m256(b))); }
PUREKV_HOST_INLINE bool any(ivec mask) { return _mm256_movemask_ps(_mm256_castsi256_ps(__m256i(mask))) != 0; }
PUREKV_HOST_INLINE vec floor(vec x) { return vec(_mm256_floor_ps(__m256(x))); }
PUREKV_HOST_INLINE vec widen(half const* p) {
  return vec(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p))));
}
PUREKV_HOST_INLINE void narrow(half* p, vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(__m256(x), _MM_FROUND_TO_NEAREST_INT));
}
#else
PUREKV_HOST_INLINE vec splat(float x) { return vec{x, x, x, x}; }
PUREKV_HOST_INLINE ivec splat(std::int32_t x) { return ivec{x, x, x, x}; }
PUREKV_HOST_INLINE vec max(vec a, vec b) { return a > b ? a : b; }
PUREKV_HOST_INLINE bool any(ivec mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }
#if defined(__ARM_NEON) && defined(__aarch64__)
PUREKV_HOST_INLINE vec fma(vec a, vec b, vec c) {
  return vec(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
}
PUREKV_HOST_INLINE vec floor(vec x) { return vec(vrndmq_f32(float32x4_t(x))); }
PUREKV_HOST_INLINE vec widen(half const* p) {
  return vec(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<std::uint16_t const*>(p)))));
}
PUREKV_HOST_INLINE void narrow(half* p, vec x) {
  vst1_u16(reinterpret_cast<std::uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(float32x4_t(x))));
}
#else
PUREKV_HOST_INLINE vec fma(vec a, vec b, vec c) { return a * b + c; }
PUREKV_HOST_INLINE vec floor(vec x) {
  vec const bounded = x > splat(-0x1p23f) ? (x < splat(0x1p23f) ? x : vec{}) : vec{};  // beyond, x is whole already
  vec const near = __builtin_convertvector(__builtin_convertvector(bounded, ivec), vec);
  vec const below = near > bounded ? near - splat(1.0f) : near;
  return bounded == x ? below : x;
}
PUREKV_HOST_INLINE vec widen(half const* p) {
  uvec const h = load_bits16(p);
  uvec const magnitude = h & 0x7fffu;
  uvec const tiny = uvec(__builtin_convertvector(ivec(magnitude), vec) * splat(0x1p-24f));
  uvec const normal = (magnitude << 13) + (magnitude >= 0x7c00u ? uvec{} + 0x70000000u : uvec{} + 0x38000000u);
  return vec(((h & 0x8000u) << 16) | (magnitude < 0x0400u ? tiny : normal));
}
PUREKV_HOST_INLINE void narrow(half* p, vec x) {
  for (std::int32_t i = 0; i < lanes; ++i) p[i] = half(x[i]);
}
#endif
#endif

/// mask ? yes : no, lane by lane; spelled out where nvcc cannot read the operator in a template.
PUREKV_HOST_INLINE vec blend(ivec mask, vec yes, vec no) { return mask ? yes : no; }

PUREKV_HOST_INLINE vec widen(float const* p) { return load(p); }
PUREKV_HOST_INLINE vec widen(bfloat16 const* p) { return vec(load_bits16(p) << 16); }
PUREKV_HOST_INLINE void narrow(float* p, vec x) { store(p, x); }
PUREKV_HOST_INLINE void narrow(bfloat16* p, vec x) {
  uvec const f = uvec(x);
  uvec const rounded = (f + 0x7fffu + ((f >> 16) & 1u)) >> 16;
  uvec const quiet = (f >> 16) | 0x0040u;
  bits16 const result = __builtin_convertvector((f & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, bits16);
  __builtin_memcpy(p, &result, sizeof result);
}

/// The first n < lanes elements, zeros behind them; nothing beyond p[n - 1] is touched.
template <Element T> PUREKV_HOST_INLINE vec widen(T const* p, std::int32_t n) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  __mmask16 const first = static_cast<__mmask16>((1u << n) - 1u);
  if constexpr (std::is_same_v<T, float>) return vec(_mm512_maskz_loadu_ps(first, p));
  if constexpr (std::is_same_v<T, half>) return vec(_mm512_maskz_cvtph_ps(0xffff, _mm256_maskz_loadu_epi16(first, p)));
  if constexpr (std::is_same_v<T, bfloat16>)
    return vec(uvec(_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_maskz_loadu_epi16(first, p))) << 16);
#endif
  T part[lanes] = {};
  for (std::int32_t i = 0; i < n; ++i) part[i] = p[i];
  return widen(part);
}
template <Element T> PUREKV_HOST_INLINE void narrow(T* p, vec x, std::int32_t n) {
  T part[lanes];
  narrow(part, x);
  for (std::int32_t i = 0; i < n; ++i) p[i] = part[i];
}

/// The sum of the lanes, halves added to halves.
PUREKV_HOST_INLINE float total(vec x) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
  x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5);
#else
  x += __builtin_shufflevector(x, x, 2, 3, 0, 1);
#endif
  return x[0] + x[1];
}

/// The largest lane; lanes are not NaN.
PUREKV_HOST_INLINE float largest(vec x) {
  float most[lanes];
  store(most, x);
  for (std::int32_t i = 1; i < lanes; ++i) most[0] = most[i] > most[0] ? most[i] : most[0];
  return most[0];
}

/// 2^x for x < 128, relative error 2e-7, exact at whole x; 0 for -inf, NaN for NaN. Below -126 results may be 0.
PUREKV_HOST_INLINE vec exp2(vec x) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  vec const r = vec(_mm512_maskz_reduce_ps(0xffff, __m512(x), _MM_FROUND_TO_NEG_INF));
#else
  vec const bounded = max(splat(-127.0f), x);  // NaN stays
  vec const whole = floor(bounded);
  vec const r = bounded - whole;
#endif
  // 1 + r * q(r) on [0, 1): minimax for the relative error (8.2e-8 before rounding).
  vec p = splat(0.00186713007f);
  p = fma(p, r, splat(0.00901703032f));
  p = fma(p, r, splat(0.0557999131f));
  p = fma(p, r, splat(0.24016445f));
  p = fma(p, r, splat(0.693151312f));
  p = fma(p, r, splat(1.0f));
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  return vec(_mm512_maskz_scalef_ps(0xffff, __m512(p), __m512(x)));
#else
  // p is NaN where x is, and stays NaN whatever the exponent bits are.
  return p * vec((__builtin_convertvector(whole, ivec) + 127) << 23);
#endif
}

/// The even-odd merges of two registers: a0 b0 a1 b1 ... of their lower and of their upper halves.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
PUREKV_HOST_INLINE vec zip_low(vec a, vec b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
PUREKV_HOST_INLINE vec zip_high(vec a, vec b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
PUREKV_HOST_INLINE vec zip_low(vec a, vec b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
PUREKV_HOST_INLINE vec zip_high(vec a, vec b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#else
PUREKV_HOST_INLINE vec zip_low(vec a, vec b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
PUREKV_HOST_INLINE vec zip_high(vec a, vec b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#endif

/// rows[i] lane j becomes rows[j] lane i: log2(lanes) rounds of merging row i with row i + lanes / 2.
PUREKV_HOST_INLINE void transpose(vec (&rows)[lanes]) {
  PUREKV_UNROLL(4)
  for (std::int32_t stride = 1; stride < lanes; stride *= 2) {
    vec next[lanes];
    PUREKV_UNROLL(8)
    for (std::int32_t i = 0; i < lanes / 2; ++i) {
      next[2 * i] = zip_low(rows[i], rows[i + lanes / 2]);
      next[2 * i + 1] = zip_high(rows[i], rows[i + lanes / 2]);
    }
    PUREKV_UNROLL(16)
    for (std::int32_t i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
