// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/fixtures_attention.hpp"

/// What the tests of decode ask for, on whatever it runs.
namespace fixtures {

/// One sequence with `tokens` cached tokens.
inline shape step(int heads, int kv_heads, int dim, int tokens, int queries = 1) {
  shape s = square(heads, kv_heads, dim, tokens);
  s.queries = {queries};
  return s;
}

/// Sequences of one token and of many, and such that have nothing to ask or nothing cached.
inline shape ragged_batch(int longest) {
  shape s;
  s.heads = 8;
  s.kv_heads = 2;
  s.span = {300, 0, 1, 64, longest, 17};
  s.queries = {1, 0, 1, 3, 1, 0};
  return s;
}

/// Few queries, and more of them than cached tokens.
inline shape many_queries(int longest) {
  shape s;
  s.heads = 14;
  s.kv_heads = 2;
  s.span = {300, 0, 1, longest, 17};
  s.queries = {1, 0, 1, 9, 17};
  s.keep_percent = 70;
  return s;
}

/// For patterns that tell heads apart.
inline shape three_groups() {
  shape s;
  s.heads = 6;
  s.kv_heads = 3;
  s.span = {700, 90};
  s.queries = {1, 4};
  s.keep_percent = 80;
  return s;
}

/// Queries among what is cached.
inline shape older_queries() {
  shape s = step(4, 2, 64, 400, 7);
  s.scattered = true;
  s.keep_percent = 50;
  return s;
}

/// Images that see themselves in both directions, whole and in pieces.
inline shape images(int keep_percent) {
  shape s = step(6, 2, 64, mixed_media_tokens, 9);
  s.scattered = true;
  s.keep_percent = keep_percent;
  return s;
}

inline shape only_a_sink() {
  shape s = step(2, 1, 64, 5);
  s.sinks = true;
  s.keep_percent = 0;
  return s;
}

/// Every soft cap with sinks and without: f(shape).
template <class F> void for_caps_and_sinks(int longest, F const& f) {
  for (int group : {1, 4, 7, 8})
    for (float cap : {0.0f, 0.01f, 2.0f})
      for (bool sinks : {false, true}) {
        shape s;
        s.heads = 2 * group;
        s.kv_heads = 2;
        s.dim = 40;
        s.span = {longest, 1, 70};
        s.queries = {1, 1, 3};
        s.soft_cap = cap;
        s.sinks = sinks;
        s.keep_percent = 70;
        f(s);
      }
}

/// Numbers that are none, in a key of the first head and in a query, of three queries and 500 tokens.
template <class T, class Owned> void spoil(generator& random, attention_input<T, Owned>& in) {
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (float bad : {nan, inf, -inf}) {
    in.cache.view.run(0, 0, between(random, 0, 499)).keys[between(random, 0, 63)] = T(bad);
    in.q.view.row(between(random, 2, 3), between(random, 0, 2))[between(random, 0, 63)] = T(bad);
  }
}

/// And in keys at both ends.
template <class T, class Owned> void spoil_ends(attention_input<T, Owned>& in) {
  using element = typename decltype(in.cache.view)::element;
  auto const& cache = in.cache.view;
  if (cache.length(0, 0) == 0) return;
  cache.run(0, 0, 0).keys[3] = element(std::numeric_limits<float>::infinity());
  cache.run(0, 0, cache.length(0, 0) - 1).keys[3] = element(std::numeric_limits<float>::quiet_NaN());
}

}  // namespace fixtures
