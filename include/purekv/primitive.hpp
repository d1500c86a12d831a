// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/simd.hpp>

#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// sum_i a[i] * b[i] in float, any mixture of element types. a, b : [n].
template <Element A, Element B> float dot(A const* a, B const* b, std::int64_t n) {
  constexpr std::int32_t step = detail::lanes;
  detail::vec sum[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step)
    for (std::int32_t j = 0; j < 4; ++j)
      sum[j] = detail::fma(detail::widen(a + i + j * step), detail::widen(b + i + j * step), sum[j]);
  for (; i + step <= n; i += step) sum[0] = detail::fma(detail::widen(a + i), detail::widen(b + i), sum[0]);
  if (i < n) {
    std::int32_t const rest = static_cast<std::int32_t>(n - i);
    sum[1] = detail::fma(detail::widen(a + i, rest), detail::widen(b + i, rest), sum[1]);
  }
  return detail::total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/// sum_i a[i]^2. a : [n].
template <Element A> float squared_norm(A const* a, std::int64_t n) { return dot(a, a, n); }

/// sqrt(sum_i a[i]^2), the L2 norm. a : [n].
template <Element A> float norm(A const* a, std::int64_t n) { return __builtin_sqrtf(squared_norm(a, n)); }

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
