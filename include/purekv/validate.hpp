// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Whether a cache holds what operations take on trust: the positions of every head are not negative and ascend
/// strictly. Reads every position, and nothing else of the tokens. `append` never breaks it, `compact` keeps it; for
/// caches that came from elsewhere.
template <Cache C> status validate(C const& cache) {
  if (status const s = cache.check(); !s.ok()) return s;
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 0; h < cache.kv_heads; ++h) {
      std::int32_t last = -1;
      for (std::int32_t t = 0; t < cache.length(s, h);) {
        token_run<typename C::element> const run = cache.run(s, h, t);
        for (std::int32_t i = 0; i < run.tokens && t < cache.length(s, h); ++i, ++t) {
          if (run.positions[i] <= last)
            return {errc::bad_positions, "validate: positions of a head are negative or do not ascend strictly"};
          last = run.positions[i];
        }
      }
    }
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
