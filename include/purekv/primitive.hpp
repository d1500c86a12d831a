// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/simd.hpp>
#include <purekv/simt/pack.hpp>

#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {

namespace detail {

/// The host's dot product; with `square` b is a, whose elements are widened once.
template <bool square, Element A, Element B> float dot_in_lanes(A const* a, B const* b, std::int64_t n) {
  vec sum[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    PUREKV_UNROLL(4)  // without it g++ -O2 keeps the sums in memory
    for (std::int32_t j = 0; j < 4; ++j) {
      vec const x = widen(a + i + j * lanes), y = square ? x : widen(b + i + j * lanes);
      sum[j] = fma(x, y, sum[j]);
    }
  }
  for (; i + lanes <= n; i += lanes) {
    vec const x = widen(a + i), y = square ? x : widen(b + i);
    sum[0] = fma(x, y, sum[0]);
  }
  if (i < n) {
    std::int32_t const rest = static_cast<std::int32_t>(n - i);
    vec const x = widen(a + i, rest), y = square ? x : widen(b + i, rest);
    sum[1] = fma(x, y, sum[1]);
  }
  return total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

}  // namespace detail

/// sum_i a[i] * b[i] in float, any mixture of element types. a, b : [n]. Host and GPU add in different orders.
template <Element A, Element B> PUREKV_HD float dot(A const* a, B const* b, std::int64_t n) {
#if defined(__CUDA_ARCH__)
  // 16 bytes at once where the rows lie so; the order of the sums is the same.
  constexpr std::int32_t step = 16 / (sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));
  using a_pack = simt::pack<A, step>;
  using b_pack = simt::pack<B, step>;
  float sum[4] = {};
  std::int64_t i = 0;
  if (reinterpret_cast<std::uintptr_t>(a) % sizeof(a_pack) == 0 &&
      reinterpret_cast<std::uintptr_t>(b) % sizeof(b_pack) == 0)
    for (; i + step <= n; i += step) {
      a_pack const x = *reinterpret_cast<a_pack const*>(a + i);
      b_pack const y = *reinterpret_cast<b_pack const*>(b + i);
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < step; ++j)
        sum[j % 4] = fmaf(static_cast<float>(x.at[j]), static_cast<float>(y.at[j]), sum[j % 4]);
    }
  for (; i < n; i += 4) {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t j = 0; j < 4; ++j)
      if (i + j < n) sum[j] = fmaf(static_cast<float>(a[i + j]), static_cast<float>(b[i + j]), sum[j]);
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
#else
  return detail::dot_in_lanes<false>(a, b, n);
#endif
}

/// sum_i a[i]^2. a : [n].
template <Element A> PUREKV_HD float squared_norm(A const* a, std::int64_t n) {
#if defined(__CUDA_ARCH__)
  return dot(a, a, n);
#else
  return detail::dot_in_lanes<true>(a, a, n);
#endif
}

/// sqrt(sum_i a[i]^2), the L2 norm. a : [n].
template <Element A> PUREKV_HD float norm(A const* a, std::int64_t n) { return __builtin_sqrtf(squared_norm(a, n)); }

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
