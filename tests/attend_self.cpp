// SPDX-License-Identifier: Apache-2.0
#include <purekv/attend.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sliding_window.hpp>

using namespace fixtures;
using purekv::bfloat16;
using purekv::half;

// Prune-then-attend: the cache has been pruned before the prompt attends, and each query sees the kept keys at or
// before it, and itself.

namespace {

template <class T> struct own_tokens {
  owned_rows<T> keys, values;

  own_tokens(generator& random, shape const& s, int queries)
      : keys(s.kv_heads, queries, s.dim, s.q_order, s.gap), values(s.kv_heads, queries, s.out_dim(), s.q_order, s.gap) {
    keys.fill_normal(random);
    values.fill_normal(random);
  }
  purekv::self_view<T> view() const { return {keys.rows(), values.rows()}; }
};

template <class TO, class P, class TQ, class Owned, class T>
attention_output<TO> check(attention_input<TQ, Owned> const& in, own_tokens<T> const& own, shape const& s,
                           P const& pattern, tap_request request = {}, std::initializer_list<int> ranks = all_ranks) {
  request.block_mass = true;
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.span[0]);
  CAPTURE(s.queries[0]);
  auto const reference = oracle::attend_self(pattern, in.queries, in.cache.view, own.keys.rows(), own.values.rows());
  return check_attention<TO>(
      in, s, reference, request,
      [&](purekv::cpu exec, purekv::attend_taps const& taps) {
        return purekv::attend_workspace(exec, pattern, in.queries, in.cache.view, taps);
      },
      [&](purekv::cpu exec, purekv::rows_view<TO> const& out, purekv::attend_taps const& taps, purekv::workspace work) {
        return purekv::attend(exec, pattern, in.queries, in.cache.view, own.view(), out, taps, work);
      },
      ranks);
}

shape pruned(int heads, int kv_heads, int dim, int span, int keep_percent) {
  shape s = square(heads, kv_heads, dim, span);
  s.keep_percent = keep_percent;
  return s;
}

}  // namespace

TEST_CASE("attend with self: kept keys at or before the query, and the query's own") {
  SEEDED(random);
  for (shape s :
       {pruned(1, 1, 64, 1, 0), pruned(4, 1, 64, 17, 30), pruned(8, 2, 64, 65, 20), pruned(7, 1, 128, 129, 50),
        pruned(8, 1, 64, 300, 10), pruned(6, 3, 72, 64, 30), pruned(3, 1, 5, 33, 90), pruned(4, 2, 128, 700, 20)}) {
    s.gap = between(random, 0, 5);
    s.q_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
    attention_input<float, owned_ragged<float>> const in(random, s);
    own_tokens<float> const own(random, s, in.queries.rows.tokens);
    check<float>(in, own, s, purekv::dense{}, {.mass = true});
  }
}

TEST_CASE("attend with self: half and bfloat16") {
  SEEDED(random);
  {
    shape const s = pruned(8, 2, 64, 200, 20);
    attention_input<half, owned_contiguous<half>> const in(random, s);
    own_tokens<half> const own(random, s, in.queries.rows.tokens);
    check<half>(in, own, s, purekv::dense{}, {.mass = true});
  }
  shape s = pruned(7, 1, 100, 99, 40);
  s.gap = 3;
  attention_input<float, owned_ragged<bfloat16>> const in(random, s);
  own_tokens<bfloat16> const own(random, s, in.queries.rows.tokens);
  check<bfloat16>(in, own, s, purekv::dense{});
}

TEST_CASE("attend with self: an empty cache leaves each query its own value") {
  SEEDED(random);
  shape s = pruned(4, 2, 64, 40, 0);
  attention_input<float, owned_ragged<float>> const in(random, s);
  own_tokens<float> const own(random, s, 40);
  auto const actual = check<float>(in, own, s, purekv::dense{});
  for (int h = 0; h < 4; ++h)
    for (int i = 0; i < 40; ++i)
      for (int c = 0; c < 64; ++c)
        CHECK(actual.out.view.row(h, i)[c] == doctest::Approx(own.values.view.row(h / 2, i)[c]).epsilon(1e-6));
}

TEST_CASE("attend with self: a full cache needs no self, whatever it holds") {
  SEEDED(random);
  shape const s = pruned(4, 2, 64, 90, 100);
  attention_input<float, owned_contiguous<float>> const in(random, s);
  own_tokens<float> own(random, s, 90);
  for (float& x : own.values.memory) x = std::numeric_limits<float>::quiet_NaN();
  check<float>(in, own, s, purekv::dense{}, {.mass = true});
}

TEST_CASE("attend with self: a ragged batch, scattered queries") {
  SEEDED(random);
  shape s;
  s.heads = 6;
  s.kv_heads = 2;
  s.span = {100, 0, 7, 260};
  s.queries = {100, 0, 2, 80};
  s.keep_percent = 25;
  s.scattered = true;
  attention_input<float, owned_ragged<half>> const in(random, s);
  own_tokens<half> const own(random, s, in.queries.rows.tokens);
  check<float>(in, own, s, purekv::dense{}, {.mass = true, .mass_queries = purekv::last(16)});
}

TEST_CASE("attend with self: a pattern hides cached keys as ever") {
  SEEDED(random);
  scattered const any{random(), 40, 8};
  auto const predicate = [&](int h, int q, int k) { return q == k || any(h, q, k); };
  shape s = pruned(4, 2, 64, 210, 40);
  attention_input<float, owned_ragged<float>> const in(random, s);
  own_tokens<float> const own(random, s, 210);
  check<float>(in, own, s, pattern_of<true>(predicate), {.mass = true});
}

TEST_CASE("attend with self: NaN in a query's own key or value") {
  SEEDED(random);
  shape s = pruned(4, 2, 64, 80, 40);
  attention_input<float, owned_ragged<float>> const in(random, s);
  own_tokens<float> own(random, s, 80);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (int i = 0; i < 5; ++i) {
    own.keys.view.row(between(random, 0, 1), between(random, 0, 79))[between(random, 0, 63)] = nan;
    own.values.view.row(between(random, 0, 1), between(random, 0, 79))[between(random, 0, 63)] = nan;
  }
  check<float>(in, own, s, purekv::dense{});
}

TEST_CASE("attend with self: soft cap and sinks") {
  SEEDED(random);
  for (int group : {1, 4, 7, 8})
    for (float cap : {0.0f, 1.5f})
      for (bool sinks : {false, true}) {
        shape s = pruned(2 * group, 2, 40, 100, 30);
        s.soft_cap = cap;
        s.sinks = sinks;
        attention_input<float, owned_ragged<half>> in(random, s);
        own_tokens<half> const own(random, s, in.queries.rows.tokens);
        check<float>(in, own, s, purekv::dense{}, {.mass = true}, {1, 3});
        if (!sinks) continue;
        for (float& sink : in.sink_logits) sink = 40;
        check<float>(in, own, s, purekv::dense{}, {.mass = true}, {1, 3});
      }
}

TEST_CASE("attend with self: images see what is kept of themselves in both directions") {
  SEEDED(random);
  purekv::token_layout const layout{mixed_media, 5};
  shape const s = pruned(6, 2, 40, mixed_media_tokens, 30);
  attention_input<float, owned_ragged<half>> const in(random, s);
  own_tokens<half> const own(random, s, in.queries.rows.tokens);
  check<float>(in, own, s, purekv::bidirectional<>{layout}, {.mass = true});
  check<float>(in, own, s, purekv::bidirectional<purekv::sliding_window>{layout, {25}}, {.mass = true});
}

TEST_CASE("attend with self: values of another width than the keys") {
  SEEDED(random);
  for (auto [dim, value_dim] : {std::pair{40, 24}, {5, 70}})
    for (int group : {1, 4, 7, 8}) {
      shape s = pruned(2 * group, 2, dim, 90, 40);
      s.value_dim = value_dim;
      s.gap = between(random, 0, 3);
      attention_input<float, owned_ragged<half>> const in(random, s);
      own_tokens<half> const own(random, s, in.queries.rows.tokens);
      check<float>(in, own, s, purekv::dense{}, {.mass = true}, {1, 3});
    }
}
