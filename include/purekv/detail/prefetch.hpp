// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstddef>
#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline constexpr std::int32_t line_bytes = 64;

PUREKV_HOST_INLINE void prefetch_line(void const* data) { __builtin_prefetch(data); }

PUREKV_HOST_INLINE void prefetch_row(void const* data, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += line_bytes) prefetch_line(static_cast<std::byte const*>(data) + i);
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
