// SPDX-License-Identifier: Apache-2.0
#include <purekv/mass.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>

using namespace fixtures;
using purekv::bfloat16;
using purekv::half;
using purekv::query_range;
using purekv::score_rows;

namespace {

/// lse as an attention call would have left it: the oracle's, rounded to float.
template <class Input> owned_scores lse_of(Input const& in, std::vector<oracle::head_attention> const& reference) {
  owned_scores lse(1, in.queries.rows.heads, in.queries.rows.tokens, 3);
  for (int s = 0; s < in.queries.batch.sequences; ++s)
    for (int h = 0; h < in.queries.rows.heads; ++h)
      for (int i = 0; i < in.queries.count(s); ++i)
        lse.view.row(0, h)[in.queries.begin(s) + i] =
            static_cast<float>(reference[size(s * in.queries.rows.heads + h)].lse(i));
  return lse;
}

template <class P, class TQ, class Owned>
void check(attention_input<TQ, Owned> const& in, shape const& s, P const& pattern, query_range const& queries,
           score_rows rows) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.span[0]);
  CAPTURE(queries.begin);
  CAPTURE(queries.count);
  auto const reference = oracle::attend(pattern, in.queries, in.cache.view);
  owned_scores const lse = lse_of(in, reference);
  int const row_count = rows == score_rows::heads ? s.heads : s.kv_heads, group = s.heads / s.kv_heads;
  std::vector<float> first;
  for (int ranks : all_ranks) {
    CAPTURE(ranks);
    owned_scores mass(s.sequences(), row_count, in.longest() + 2, s.gap);
    owned_workspace work(purekv::mass_workspace(purekv::cpu{0, ranks, nullptr, nullptr}, pattern, in.queries,
                                                in.cache.view, queries, rows));
    auto const call = [&](purekv::workspace memory) {
      return status_on_ranks(ranks, [&](purekv::cpu exec) {
        return purekv::mass(exec, pattern, in.queries, in.cache.view, lse.view.data, lse.view.row_stride, queries, rows,
                            mass.view, memory);
      });
    };
    if (work.view().bytes > 0) {
      CHECK(call(work.one_byte_less()).code == purekv::errc::workspace_too_small);
      CHECK(mass.rest_untouched([](int, int) { return 0; }));
    }
    purekv::status const done = call(work.view());
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(work.guards_untouched());
    CHECK(mass.rest_untouched([&](int sequence, int row) {
      return in.cache.view.length(sequence, rows == score_rows::heads ? row / group : row);
    }));
    if (first.empty()) {
      first = mass.memory;
      comparison compared;
      for (int q = 0; q < s.sequences(); ++q)
        for (int r = 0; r < row_count; ++r) {
          auto const expected =
              expected_mass(reference, s.heads, s.kv_heads, rows, q, r, resolve(queries, in.queries.count(q)),
                            lse.view.data + in.queries.begin(q), lse.view.row_stride);
          for (int t = 0; t < static_cast<int>(expected.value.size()); ++t)
            compared.add(mass.view.row(q, r)[t], expected.value(t), expected.bound(t), "mass", r, q, t);
        }
      INFO(compared.where(), " (", compared.worst(), " times the bound)");
      CHECK(compared.wrong() == 0);
    } else {
      CHECK(std::memcmp(first.data(), mass.memory.data(), first.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace

TEST_CASE("mass: all queries, the last w, a range; per head and per KV head") {
  SEEDED(random);
  for (shape s : {square(1, 1, 64, 1), square(4, 1, 64, 17), square(8, 2, 128, 65), square(7, 1, 64, 128),
                  square(6, 3, 72, 129), square(3, 1, 5, 64), square(8, 2, 64, 500), square(70, 1, 64, 40)}) {
    s.gap = between(random, 0, 4);
    s.cache_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
    attention_input<float, owned_contiguous<float>> const in(random, s);
    int const n = s.queries[0];
    for (query_range const& queries : {query_range{}, purekv::last(1), purekv::last(16), purekv::last(n + 5),
                                       query_range{n / 3, n / 2}, query_range{0, 0}})
      check(in, s, purekv::dense{}, queries, between(random, 0, 1) == 0 ? score_rows::heads : score_rows::kv_heads);
  }
}

TEST_CASE("mass: ragged caches and batches, 16-bit types") {
  SEEDED(random);
  shape s;
  s.heads = 6;
  s.kv_heads = 2;
  s.span = {150, 0, 33, 70, 1};
  s.queries = {60, 0, 33, 1, 1};
  s.scattered = true;
  s.keep_percent = 60;
  for (auto rows : {score_rows::heads, score_rows::kv_heads}) {
    attention_input<half, owned_ragged<bfloat16>> const in(random, s);
    check(in, s, purekv::dense{}, query_range{}, rows);
    check(in, s, purekv::dense{}, purekv::last(16), rows);
  }
}

TEST_CASE("mass: sparse patterns") {
  SEEDED(random);
  for (int block : {1, 7, 64}) {
    scattered const predicate{random(), 30, block};
    shape s = square(4, 2, 64, 230);
    s.queries = {140};
    attention_input<float, owned_contiguous<float>> const in(random, s);
    check(in, s, pattern_of<true>(predicate), query_range{}, score_rows::heads);
    check(in, s, pattern_of<true>(predicate), purekv::last(40), score_rows::kv_heads);
    check(in, s, purekv::sinks_and_window{3, 10 * block}, query_range{}, score_rows::kv_heads);
  }
}

TEST_CASE("mass: NaN keys and queries get nothing, infinite logits are clamped") {
  SEEDED(random);
  shape const s = square(4, 2, 64, 100);
  attention_input<float, owned_contiguous<float>> in(random, s);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  in.cache.view.run(0, 0, 11).keys[5] = nan;
  in.q.view.row(2, 70)[9] = nan;
  check(in, s, purekv::dense{}, query_range{}, score_rows::heads);
  check(in, s, purekv::dense{}, query_range{}, score_rows::kv_heads);
}

TEST_CASE("mass: what attention's tap says") {
  SEEDED(random);
  shape const s = square(8, 2, 64, 150);
  attention_input<float, owned_contiguous<float>> const in(random, s);
  attention_output<float> tapped(in, s, {.mass = true, .mass_queries = purekv::last(20)});
  owned_workspace work(
      purekv::attend_workspace(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view, tapped.taps));
  REQUIRE(purekv::attend(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view, tapped.out.view, tapped.taps,
                         work.view())
              .ok());
  owned_scores mass(1, 2, 150);
  owned_workspace more(purekv::mass_workspace(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view,
                                              purekv::last(20), score_rows::kv_heads));
  REQUIRE(purekv::mass(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view, tapped.taps.lse,
                       tapped.taps.lse_stride, purekv::last(20), score_rows::kv_heads, mass.view, more.view())
              .ok());
  for (int r = 0; r < 2; ++r)
    for (int t = 0; t < 150; ++t)
      CHECK(mass.view.row(0, r)[t] == doctest::Approx(tapped.mass.view.row(0, r)[t]).epsilon(1e-5));
}

TEST_CASE("mass: soft cap and sinks") {
  SEEDED(random);
  for (int group : {1, 4, 7, 8})
    for (float cap : {0.0f, 0.01f, 2.0f}) {
      shape s;
      s.heads = 2 * group;
      s.kv_heads = 2;
      s.dim = 40;
      s.span = {150, 0, 33};
      s.queries = {60, 0, 33};
      s.sinks = true;
      s.soft_cap = cap;
      attention_input<half, owned_ragged<bfloat16>> in(random, s);
      in.cache.view.run(0, 1, between(random, 0, 89)).keys[3] = purekv::bfloat16(HUGE_VALF);
      check(in, s, purekv::dense{}, query_range{}, score_rows::heads);
      check(in, s, purekv::sinks_and_window{3, 20}, purekv::last(16), score_rows::kv_heads);
    }
}

TEST_CASE("mass: images see themselves in both directions") {
  SEEDED(random);
  purekv::token_layout const layout{mixed_media, 5};
  shape s = square(6, 2, 40, mixed_media_tokens);
  s.queries = {200};
  s.scattered = true;
  s.keep_percent = 60;
  attention_input<half, owned_ragged<float>> const in(random, s);
  scattered const predicate{random(), 40, 8};
  auto const any = pattern_of<true>(predicate);
  check(in, s, purekv::bidirectional<>{layout}, query_range{}, score_rows::heads);
  check(in, s, purekv::bidirectional<purekv::sliding_window>{layout, {30}}, purekv::last(50), score_rows::kv_heads);
  check(in, s, purekv::bidirectional<decltype(any)>{layout, any}, query_range{}, score_rows::kv_heads);
}
