// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// As many tokens as any head may have, from what the host sees and `tokens`, which none exceeds.
template <Cache C> std::int32_t token_bound(C const& cache, std::int32_t tokens) {
  std::int64_t capacity = INT32_MAX;
  if constexpr (requires { cache.slots; })
    capacity = cache.slots;
  else if constexpr (requires { cache.tokens; })
    capacity = cache.tokens;
  return capacity < tokens ? static_cast<std::int32_t>(capacity) : tokens;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
