// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/simd.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// dst[i] = src[i] rounded to D: to nearest, ties to even; NaN stays NaN, overflow gives inf, subnormals are kept.
/// src, dst : [n], not overlapping.
template <Element S, Element D> void convert(S const* src, D* dst, std::int64_t n) {
  if constexpr (std::is_same_v<S, D>) {
    if (n > 0) __builtin_memcpy(dst, src, static_cast<std::size_t>(n) * sizeof(S));
  } else {
    std::int64_t i = 0;
    for (; i + detail::lanes <= n; i += detail::lanes) detail::narrow(dst + i, detail::widen(src + i));
    if (i < n) {
      std::int32_t const rest = static_cast<std::int32_t>(n - i);
      detail::narrow(dst + i, detail::widen(src + i, rest), rest);
    }
  }
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
