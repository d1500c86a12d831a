// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>
#include <type_traits>

// The CUDA types, declared so that conversions work wherever their headers are included, and nowhere need to be.
struct __half;
struct __nv_bfloat16;

namespace purekv::inline v0_1 {

/// True for foreign types with the same bits as `half` (IEEE binary16) or `bfloat16`; specialise it for your own type.
template <class U> inline constexpr bool is_half_like = false;
template <class U> inline constexpr bool is_bfloat16_like = false;
template <> inline constexpr bool is_half_like<::__half> = true;
template <> inline constexpr bool is_bfloat16_like<::__nv_bfloat16> = true;
#if defined(__FLT16_MANT_DIG__) && \
    (defined(__SSE2__) || (defined(__ARM_NEON) && (defined(__clang__) || __GNUC__ >= 13)))
template <> inline constexpr bool is_half_like<_Float16> = true;
#endif

/// IEEE binary16 storage. Conversions round to nearest, ties to even; NaN stays NaN, overflow gives inf.
struct half {
  std::uint16_t bits;

  half() = default;
  PUREKV_INLINE explicit half(float value) : bits(round(__builtin_bit_cast(std::uint32_t, value))) {}
  template <class U>
  requires is_half_like<U> PUREKV_INLINE half(U value) : bits(__builtin_bit_cast(std::uint16_t, value)) {}
  template <class U>
  requires is_half_like<U> PUREKV_INLINE operator U() const { return __builtin_bit_cast(U, bits); }

  PUREKV_INLINE explicit operator float() const {
    std::uint32_t const sign = (bits & 0x8000u) << 16;
    std::uint32_t const magnitude = bits & 0x7fffu;
    // Subnormals and zero are exact as a product; inf and NaN keep their payload under the widest exponent.
    if (magnitude < 0x0400u)
      return __builtin_bit_cast(float,
                                sign | __builtin_bit_cast(std::uint32_t, static_cast<float>(magnitude) * 0x1p-24f));
    std::uint32_t const exponent = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
    return __builtin_bit_cast(float, sign | ((magnitude << 13) + exponent));
  }

 private:
  PUREKV_INLINE static std::uint16_t round(std::uint32_t f) {
    std::uint32_t const sign = (f >> 16) & 0x8000u;
    std::uint32_t const magnitude = f & 0x7fffffffu;
    std::uint32_t result;
    if (magnitude > 0x7f800000u)
      result = 0x7e00u | ((magnitude >> 13) & 0x03ffu);
    else if (magnitude >= 0x47800000u)
      result = 0x7c00u;
    else if (magnitude < 0x38800000u)  // adding 0.5 leaves the subnormal in the low mantissa bits, rounded by the adder
      result = __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, magnitude) + 0.5f) - 0x3f000000u;
    else
      result = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    return static_cast<std::uint16_t>(sign | result);
  }
};

/// bfloat16 storage: the upper half of a float. Conversions round to nearest, ties to even; NaN stays NaN.
struct bfloat16 {
  std::uint16_t bits;

  bfloat16() = default;
  PUREKV_INLINE explicit bfloat16(float value) : bits(round(__builtin_bit_cast(std::uint32_t, value))) {}
  template <class U>
  requires is_bfloat16_like<U> PUREKV_INLINE bfloat16(U value) : bits(__builtin_bit_cast(std::uint16_t, value)) {}
  template <class U>
  requires is_bfloat16_like<U> PUREKV_INLINE operator U() const { return __builtin_bit_cast(U, bits); }

  PUREKV_INLINE explicit operator float() const { return __builtin_bit_cast(float, std::uint32_t{bits} << 16); }

 private:
  PUREKV_INLINE static std::uint16_t round(std::uint32_t f) {
    if ((f & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((f >> 16) | 0x0040u);
    return static_cast<std::uint16_t>((f + 0x7fffu + ((f >> 16) & 1u)) >> 16);
  }
};

/// The element types of caches, queries and outputs.
template <class T>
concept Element = std::is_same_v<T, float> || std::is_same_v<T, half> || std::is_same_v<T, bfloat16>;

}  // namespace purekv::inline v0_1
