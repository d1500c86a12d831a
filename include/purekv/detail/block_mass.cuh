// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>
#include <purekv/simt/thread.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// out[row, b] = sum of mass[row, token] over the tokens of block b. Block (x, y) has `threads` blocks of row x, and
/// every one `at_once` further on.
template <Cache C> struct fold_mass {
  static constexpr std::int32_t threads = 128, most_blocks = 64, at_once = threads * most_blocks;  // of a row
  C cache;
  score_view mass, out;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const s = simt::block_index().x / out.rows, r = simt::block_index().x % out.rows;
    std::int32_t const length = smaller(cache.length(s, r / (out.rows / cache.kv_heads)), mass.tokens);
    float const* const from = mass.row(s, r);
    float* const to = out.row(s, r);
    for (std::int64_t b = simt::block_index().y * threads + simt::thread_index(); b * mass_block_tokens < length;
         b += at_once) {
      float all = 0;
      for (std::int64_t t = b * mass_block_tokens; t < length && t < (b + 1) * mass_block_tokens; ++t) all += from[t];
      to[b] = all;
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
