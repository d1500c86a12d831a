// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/float16.hpp>

#include <cmath>
#include <concepts>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// The element types of the tensor cores here.
template <class T>
concept Half = std::same_as<T, half> || std::same_as<T, bfloat16>;

namespace detail {

/// As ex2.approx.ftz.f32 does it, but for its last two bits: subnormals are zero.
inline float emulated_exp2(float x) {
  float const y = std::exp2(x);
  return y < 0x1p-126f ? 0 : y;
}

/// As cvt.rn.f16.f32 and cvt.rn.bf16.f32 do it: NaN loses its payload.
template <Half T> std::uint32_t emulated_round(float x) { return x != x ? 0x7fffu : T(x).bits; }

}  // namespace detail

/// 2^x within 2 units in the last place; results below 2^-126 are 0.
PUREKV_DEVICE float exp2(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return detail::emulated_exp2(x);
#endif
}

/// The logarithm to base 2, within 1 unit in the last place.
PUREKV_DEVICE float log2(float x) {
#if defined(__CUDACC__)
  return ::log2f(x);
#else
  return std::log2(x);
#endif
}

/// Two elements in a register, `low` in the lower half: rounded to nearest, ties to even; every NaN becomes the same.
template <Half T> PUREKV_DEVICE std::uint32_t pack2(float low, float high) {
#if defined(__CUDACC__)
  std::uint32_t both;
  if constexpr (std::same_as<T, half>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
#else
  return detail::emulated_round<T>(high) << 16 | detail::emulated_round<T>(low);
#endif
}

struct float_pair {
  float low, high;
};

/// The inverse, exact.
template <Half T> PUREKV_DEVICE float_pair unpack2(std::uint32_t both) {
#if defined(__CUDACC__)
  if constexpr (std::same_as<T, half>) {
    float_pair x;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(x.low), "=f"(x.high)
        : "r"(both));
    return x;
  } else {
    return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
  }
#else
  T low, high;
  low.bits = static_cast<std::uint16_t>(both);
  high.bits = static_cast<std::uint16_t>(both >> 16);
  return {static_cast<float>(low), static_cast<float>(high)};
#endif
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
