// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How many slots a cache has, used or not: every cache.slot() lies below. Sizes only, so that the host may ask.
template <Cache C> PUREKV_HD std::int64_t slots_in(C const& cache) {
  if constexpr (requires { cache.slots; })
    return cache.slots;
  else
    return std::int64_t{cache.sequences} * cache.kv_heads * cache.tokens;
}

/// How many of them one sequence can have at most.
template <Cache C> PUREKV_HD std::int64_t slots_of_sequence(C const& cache) {
  if constexpr (requires { cache.slots; })
    return cache.slots;
  else
    return std::int64_t{cache.kv_heads} * cache.tokens;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
