// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/gpu.cuh>
#include <purekv/simt/thread.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The length of every head becomes rule(cache, sequence, head): in a launch of its own, when all rows are where they
/// belong.
template <Cache C, class Rule> struct change_lengths {
  static constexpr std::int32_t threads = 128;
  C cache;
  Rule rule;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const i = std::int64_t{simt::block_index().x} * threads + simt::thread_index();
    if (i >= std::int64_t{cache.sequences} * cache.kv_heads) return;
    std::int32_t const s = static_cast<std::int32_t>(i / cache.kv_heads),
                       h = static_cast<std::int32_t>(i % cache.kv_heads);
    cache.set_length(s, h, rule(cache, s, h));
  }
};

template <Cache C, class Rule> status launch_lengths(gpu const& exec, C const& cache, Rule const& rule) {
  using kernel = change_lengths<C, Rule>;
  std::int32_t const blocks = (cache.sequences * cache.kv_heads - 1) / kernel::threads + 1;
  return simt::launch({.x = blocks}, 0, exec.stream, kernel{cache, rule});
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
