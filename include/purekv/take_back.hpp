// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/cpu.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Every head of sequence s forgets its newest tokens_of(s) tokens; checked by the caller.
template <Cache C, class F> void shorten(cpu exec, C const& cache, F const& tokens_of) {
  exec.sync();
  if (exec.rank() == 0)
    for (std::int32_t s = 0; s < cache.sequences; ++s)
      for (std::int32_t h = 0; h < cache.kv_heads; ++h) cache.set_length(s, h, cache.length(s, h) - tokens_of(s));
  exec.sync();
}

}  // namespace detail

/// The newest tokens[s] tokens of every head of sequence s are gone, as if they had never been appended: after a failed
/// call, a question that was answered, a pass that was only to be looked at. Slots keep what they held.
/// tokens : [sequences], none more than a head of its sequence holds. On error no length changes.
template <Cache C> status take_back(cpu exec, std::int32_t const* tokens, C const& cache) {
  if (status const s = cache.check(); !s.ok()) return s;
  if (tokens == nullptr) return {errc::null_data, "take_back: tokens is null"};
  for (std::int32_t s = 0; s < cache.sequences; ++s) {
    if (tokens[s] < 0) return {errc::bad_shape, "take_back: a number of tokens is negative"};
    for (std::int32_t h = 0; h < cache.kv_heads; ++h)
      if (tokens[s] > cache.length(s, h))
        return {errc::capacity_exceeded, "take_back: a head holds fewer tokens than are to be taken back"};
  }
  detail::shorten(exec, cache, [&](std::int32_t s) { return tokens[s]; });
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
