// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

PUREKV_HD inline std::int32_t smaller(std::int32_t a, std::int32_t b) { return a < b ? a : b; }
PUREKV_HD inline std::int32_t larger(std::int32_t a, std::int32_t b) { return a < b ? b : a; }

/// Tokens of the longest head.
template <Cache C> std::int32_t longest_head(C const& cache) {
  std::int32_t longest = 0;
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 0; h < cache.kv_heads; ++h) longest = larger(longest, cache.length(s, h));
  return longest;
}

/// How many cached tokens of a head lie before `position`, given that the first `from` do.
template <Cache C>
PUREKV_HD std::int32_t tokens_before(C const& cache, std::int32_t sequence, std::int32_t head, std::int32_t position,
                                     std::int32_t from = 0) {
  std::int32_t low = from, high = cache.length(sequence, head);
  auto const at = [&](std::int32_t token) { return *cache.run(sequence, head, token).positions; };
  if (low < high) {  // positions ascend, so that few tokens can come between; in a cache with none missing all do
    std::int32_t const first = at(low);
    if (first >= position) return low;
    high = smaller(high - low, position - first) + low;
    if (at(high - 1) < position) return high;
  }
  while (low < high) {
    std::int32_t const middle = low + (high - low) / 2;
    if (at(middle) < position)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// How many lie at or before it: what causality lets a query at `position` see.
template <Cache C>
PUREKV_HD std::int32_t tokens_until(C const& cache, std::int32_t sequence, std::int32_t head, std::int32_t position,
                                    std::int32_t from = 0) {
  return position == INT32_MAX ? cache.length(sequence, head)
                               : tokens_before(cache, sequence, head, position + 1, from);
}

/// Calls f(run, first, count) for the stretches of tokens [first, last) that lie at one stride.
template <Cache C, class F>
void for_each_stretch(C const& cache, std::int32_t sequence, std::int32_t head, std::int32_t first, std::int32_t last,
                      F const& f) {
  while (first < last) {
    auto const run = cache.run(sequence, head, first);
    std::int32_t const count = smaller(run.tokens, last - first);
    f(run, first, count);
    first += count;
  }
}

/// Whether all KV heads of each sequence hold tokens at the same positions.
template <Cache C> bool same_positions(C const& cache) {
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 1; h < cache.kv_heads; ++h) {
      std::int32_t const length = cache.length(s, 0);
      if (cache.length(s, h) != length) return false;
      for (std::int32_t i = 0; i < length;) {
        auto const a = cache.run(s, 0, i), b = cache.run(s, h, i);
        std::int32_t const count = smaller(smaller(a.tokens, b.tokens), length - i);
        if (a.positions != b.positions &&
            __builtin_memcmp(a.positions, b.positions, static_cast<std::size_t>(count) * sizeof(std::int32_t)) != 0)
          return false;
        i += count;
      }
    }
  return true;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
