// SPDX-License-Identifier: Apache-2.0
#include <purekv/score.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/pattern_checks.hpp"
#include "support/random.hpp"

#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_max.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/estimator/head_max.hpp>
#include <purekv/estimator/head_mean.hpp>
#include <purekv/estimator/pooled.hpp>
#include <purekv/estimator/recency.hpp>
#include <purekv/estimator/value_weighted.hpp>
#include <purekv/estimator/window_attention.hpp>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

#include <functional>

using namespace purekv;
using namespace fixtures;

namespace {

/// What attention over `in` leaves behind: lse, rounded to float.
template <class Input> owned_scores lse_of(Input const& in, std::vector<oracle::head_attention> const& reference) {
  int const heads = in.queries.rows.heads;
  owned_scores lse(1, heads, in.queries.rows.tokens, 3);
  for (int s = 0; s < in.queries.batch.sequences; ++s)
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < in.queries.count(s); ++i)
        lse.view.row(0, h)[in.queries.begin(s) + i] = static_cast<float>(reference[size(s * heads + h)].lse(i));
  return lse;
}

/// Runs score on 1, 2 and 5 ranks, which must agree to the bit, in exactly the workspace it asks for.
template <class E, class P, class TQ, Cache C>
owned_scores run(E const& e, evidence<P, TQ> const& seen, C const& cache, source_view const& source = {}) {
  int longest = 0;
  for (int s = 0; s < cache.sequences; ++s)
    for (int h = 0; h < cache.kv_heads; ++h) longest = std::max(longest, cache.length(s, h));
  int const group = std::max(1, seen.q.rows.heads / cache.kv_heads);
  int const per_kv_head = E::rows == score_rows::heads ? group : 1;
  std::vector<float> first;
  for (int ranks : {1, 2, 5}) {
    CAPTURE(ranks);
    owned_scores out(cache.sequences, cache.kv_heads * per_kv_head, longest + 1, 3);
    owned_workspace work(score_workspace(cpu{0, ranks, nullptr, nullptr}, e, seen, cache));
    auto const call = [&](workspace memory) {
      return status_on_ranks(ranks, [&](cpu exec) { return score(exec, e, seen, cache, source, out.view, memory); });
    };
    if (work.view().bytes > 0) {
      CHECK(call(work.one_byte_less()).code == errc::workspace_too_small);
      CHECK(out.rest_untouched([](int, int) { return 0; }));
    }
    status const done = call(work.view());
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(work.guards_untouched());
    CHECK(out.rest_untouched([&](int s, int row) { return cache.length(s, row / per_kv_head); }));
    if (first.empty()) first = out.memory;
    CHECK(std::memcmp(first.data(), out.memory.data(), first.size() * sizeof(float)) == 0);
    if (ranks == 5) return out;
  }
  return owned_scores(0, 0, 0);
}

/// The mass that the last `window` queries of a sequence give each token, [heads][tokens], and what it may err by.
struct sequence_mass {
  std::vector<oracle::column_mass> heads;
};
template <class Input>
sequence_mass mass_of(Input const& in, std::vector<oracle::head_attention> const& reference, owned_scores const& lse,
                      int sequence, int window) {
  sequence_mass mass;
  int const heads = in.queries.rows.heads, queries = in.queries.count(sequence);
  for (int h = 0; h < heads; ++h)
    mass.heads.push_back(oracle::mass_of(reference[size(sequence * heads + h)],
                                         lse.view.row(0, h) + in.queries.begin(sequence),
                                         std::max(0, queries - std::min(window, queries)), queries));
  return mass;
}

/// Compares a composition with formula(mass, head_of_kv, token) over every sequence and KV head.
template <class E, class Input, class P, class Formula>
void check(E const& e, Input const& in, P const& pattern, int window, Formula const& formula) {
  auto const reference = oracle::attend(pattern, in.queries, in.cache.view);
  owned_scores const lse = lse_of(in, reference);
  owned_scores const said = run(e, evidence{pattern, in.queries, lse.view.data, lse.view.row_stride}, in.cache.view);
  comparison compared;
  for (int s = 0; s < in.cache.view.sequences; ++s) {
    sequence_mass const mass = mass_of(in, reference, lse, s, window);
    for (int row = 0; row < said.view.rows; ++row) {
      int const kv_head = E::rows == score_rows::heads ? row * in.cache.view.kv_heads / in.queries.rows.heads : row;
      for (int t = 0; t < in.cache.view.length(s, kv_head); ++t) {
        auto const [expected, bound] = formula(mass, s, row, t);
        compared.add(static_cast<double>(said.view.row(s, row)[t]), expected, bound, "score", s, row, t);
      }
    }
  }
  INFO(compared.where(), " (", compared.worst(), " times the bound)");
  CHECK(compared.wrong() == 0);
}

struct bounded {
  double value, bound;
};

template <class Input> double value_norm(Input const& in, int s, int kv_head, int t) {
  double sum = 0;
  for (int c = 0; c < value_dim_of(in.cache.view); ++c) {
    double const x = oracle::exact(in.cache.view.run(s, kv_head, t).values[c]);
    sum += x * x;
  }
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("score: attention mass of all queries and of the last ones, per query head") {
  SEEDED(random);
  auto const own = [](sequence_mass const& m, int, int row, int t) {
    return bounded{m.heads[size(row)].value(t), m.heads[size(row)].bound(t)};
  };
  for (shape s : {square(1, 1, 64, 1), square(7, 1, 64, 33), square(8, 2, 128, 130), square(6, 3, 20, 65)}) {
    s.gap = between(random, 0, 4);
    attention_input<float, owned_contiguous<float>> const in(random, s);
    check(accumulated_attention{}, in, dense{}, 1 << 20, own);
    check(window_attention<16>{}, in, dense{}, 16, own);
    check(window_attention<1>{}, in, sinks_and_window{2, 9}, 1, own);
  }
}

TEST_CASE("score: what the layer makes of its logits is in the evidence, and values are as wide as they are") {
  SEEDED(random);
  token_layout const layout{mixed_media, 5};
  for (int group : {1, 4, 7, 8}) {
    shape s = square(2 * group, 2, 40, mixed_media_tokens);
    s.soft_cap = 1.5f;
    s.sinks = true;
    s.value_dim = 24;
    s.queries = {90};
    attention_input<float, owned_contiguous<half>> const in(random, s);
    auto const own = [](sequence_mass const& m, int, int row, int t) {
      return bounded{m.heads[size(row)].value(t), m.heads[size(row)].bound(t)};
    };
    check(accumulated_attention{}, in, bidirectional<>{layout}, 1 << 20, own);
    check(window_attention<16>{}, in, dense{}, 16, own);
    check(value_weighted<window_attention<16>>{}, in, bidirectional<sliding_window>{layout, {50}}, 16,
          [&](sequence_mass const& m, int sequence, int row, int t) {
            double const norm = value_norm(in, sequence, row / group, t);
            return bounded{m.heads[size(row)].value(t) * norm,
                           m.heads[size(row)].bound(t) * norm + 1e-6 * m.heads[size(row)].value(t) * norm};
          });
  }
}

TEST_CASE("score: compositions over ragged batches, 16-bit types and sparse patterns") {
  SEEDED(random);
  shape s;
  s.heads = 8;
  s.kv_heads = 2;
  s.span = {150, 0, 33, 70, 1};
  s.queries = {60, 0, 33, 1, 1};
  s.keep_percent = 60;
  attention_input<half, owned_ragged<bfloat16>> const in(random, s);

  auto const group_mean_of = [](sequence_mass const& m, int head, int t) {
    bounded sum{0, 0};
    for (int g = 0; g < 4; ++g) {
      sum.value += m.heads[size(head * 4 + g)].value(t) / 4;
      sum.bound += m.heads[size(head * 4 + g)].bound(t) / 4;
    }
    sum.bound += 4 * oracle::eps * sum.value;
    return sum;
  };
  check(group_mean<accumulated_attention>{}, in, sinks_and_window{5, 20}, 1 << 20,
        [&](sequence_mass const& m, int, int head, int t) { return group_mean_of(m, head, t); });
  check(value_weighted<group_mean<window_attention<16>>>{}, in, dense{}, 16,
        [&](sequence_mass const& m, int sequence, int head, int t) {
          bounded const mean = group_mean_of(m, head, t);
          double const norm = value_norm(in, sequence, head, t);
          return bounded{mean.value * norm, mean.bound * norm + 20 * oracle::eps * mean.value * norm + 1e-37};
        });
  check(pooled<group_mean<window_attention<16>>, 7>{}, in, dense{}, 16,
        [&](sequence_mass const& m, int sequence, int head, int t) {
          bounded sum{0, 0};
          for (int u = std::max(0, t - 3); u <= t + 3 && u < in.cache.view.length(sequence, head); ++u) {
            bounded const x = group_mean_of(m, head, u);
            sum.value += x.value / 7;
            sum.bound += x.bound / 7;
          }
          sum.bound += 8 * oracle::eps * sum.value;
          return sum;
        });
}

TEST_CASE("score: maxima over all heads of the layer") {
  SEEDED(random);
  shape s;
  s.heads = 6;
  s.kv_heads = 3;
  s.span = {90, 17, 0};
  s.queries = {40, 17, 0};
  attention_input<float, owned_ragged<half>> const in(random, s);
  check(pooled<head_max<window_attention<16>>, 15, pooling::maximum>{}, in, dense{}, 16,
        [&](sequence_mass const& m, int sequence, int, int t) {
          bounded most{0, 1e-37};
          for (int u = std::max(0, t - 7); u <= t + 7 && u < in.cache.view.length(sequence, 0); ++u)
            for (oracle::column_mass const& head : m.heads) {
              most.value = std::max(most.value, head.value(u));
              most.bound = std::max(most.bound, head.bound(u));
            }
          return most;
        });
}

TEST_CASE("score: video through spatial_temporal") {
  SEEDED(random);
  std::vector<segment> const segments{segment::text(0, 9), segment::video(9, 4, 3, 5), segment::text(69, 11)};
  shape const s = square(4, 2, 64, 80);
  attention_input<float, owned_contiguous<float>> const in(random, s);
  check(group_mean<accumulated_attention>{}, in, spatial_temporal{{segments.data(), 3}}, 1 << 20,
        [](sequence_mass const& m, int, int head, int t) {
          auto const& a = m.heads[size(head * 2)];
          auto const& b = m.heads[size(head * 2 + 1)];
          double const mean = (a.value(t) + b.value(t)) / 2;
          return bounded{mean, (a.bound(t) + b.bound(t)) / 2 + 2 * oracle::eps * mean};
        });
}

TEST_CASE("score: estimators without attention mass need neither queries nor lse") {
  SEEDED(random);
  shape s = square(4, 2, 16, 40);
  s.span = s.queries = {40, 7};
  attention_input<float, owned_contiguous<float>> const in(random, s);
  owned_scores const said = run(recency{}, evidence{dense{}, query_view<float>{}, nullptr, 0}, in.cache.view);
  for (int q = 0; q < 2; ++q)
    for (int h = 0; h < 2; ++h)
      for (int t = 0; t < in.cache.view.length(q, h); ++t) CHECK(said.view.row(q, h)[t] == static_cast<float>(t));
}

TEST_CASE("score: cross_layer reads each sequence's own source") {
  SEEDED(random);
  shape s;
  s.heads = 4;
  s.kv_heads = 2;
  s.span = {30, 0, 50};
  s.queries = {30, 0, 50};
  s.keep_percent = 70;
  attention_input<float, owned_ragged<half>> const in(random, s);
  owned_scores source(3, 2, 60, 2);
  std::vector<std::int32_t> positions(3 * 61), tokens{30, 0, 48};
  for (int i = 0; i < 3; ++i) {
    for (int t = 0; t < 60; ++t) positions[size(i * 61 + t)] = t;
    for (int h = 0; h < 2; ++h)
      for (int t = 0; t < tokens[size(i)]; ++t) source.view.row(i, h)[t] = random.uniform(0, 2);
  }
  using clie = cross_layer<group_mean<accumulated_attention>>;
  owned_scores const said = run(clie{}, evidence{dense{}, in.queries, nullptr, 0}, in.cache.view,
                                source_view{source.view, positions.data(), 61, tokens.data()});
  for (int i = 0; i < 3; ++i)
    for (int h = 0; h < 2; ++h)
      for (int t = 0; t < in.cache.view.length(i, h); ++t) {
        int const p = *in.cache.view.run(i, h, t).positions;
        double const expected = p < tokens[size(i)] ? source.view.row(i, h)[p] * value_norm(in, i, h, t) : 0;
        CHECK(said.view.row(i, h)[t] == doctest::Approx(expected).epsilon(1e-6));
      }
}

TEST_CASE("score refuses, and leaves the scores alone") {
  SEEDED(random);
  shape const s = square(4, 2, 16, 40);
  attention_input<float, owned_contiguous<float>> in(random, s);
  std::vector<float> const lse(4 * 40, 3.0f);
  owned_scores const source(1, 2, 40);
  std::vector<std::int32_t> const positions(40), tokens{40}, too_many{41}, negative{-1};
  std::vector<segment> const layout{segment::text(0, 39)};

  struct arguments {
    evidence<dense, float> seen;
    contiguous_cache<float> cache;
    source_view source;
    score_view out;
    std::size_t less = 0;
  };
  auto refuse = [&](auto const& estimator, errc code, std::string const& says, auto const& change) {
    int const rows = std::decay_t<decltype(estimator)>::rows == score_rows::heads ? 4 : 2;
    owned_scores out(1, rows, 40, 1);
    arguments a{evidence{dense{}, in.queries, lse.data(), 40}, in.cache.view,
                source_view{source.view, positions.data(), 40, tokens.data()}, out.view};
    owned_workspace work(score_workspace(cpu{0, 2, nullptr, nullptr}, estimator, a.seen, a.cache));
    change(a);
    workspace const lent{work.view().data, work.view().bytes - a.less};
    status const result =
        status_on_ranks(2, [&](cpu exec) { return score(exec, estimator, a.seen, a.cache, a.source, a.out, lent); });
    CAPTURE(result.message);
    CHECK(result.code == code);
    CHECK(std::string(result.message).find(says) != std::string::npos);
    CHECK(out.rest_untouched([](int, int) { return 0; }));
  };
  using mass = group_mean<accumulated_attention>;
  using clie = cross_layer<mass>;
  using A = arguments;
  refuse(mass{}, errc::null_data, "lse is null", [](A& a) { a.seen.lse = nullptr; });
  refuse(mass{}, errc::bad_shape, "lse", [](A& a) { a.seen.lse_stride = 39; });
  refuse(mass{}, errc::null_data, "query_view", [](A& a) { a.seen.q.rows.data = nullptr; });
  refuse(mass{}, errc::null_data, "positions", [](A& a) { a.seen.q.batch.positions = nullptr; });
  refuse(mass{}, errc::bad_shape, "heads", [](A& a) { a.seen.q.rows.heads = 3; });
  refuse(mass{}, errc::bad_shape, "heads", [](A& a) { a.seen.q.rows.heads = 0; });
  refuse(mass{}, errc::mismatch, "dim", [](A& a) { a.seen.q.rows.dim = 8; });
  refuse(mass{}, errc::mismatch, "sequences", [](A& a) { a.seen.q.batch.sequences = 2; });
  refuse(mass{}, errc::mismatch, "score", [](A& a) { a.out.rows = 4; });
  refuse(mass{}, errc::mismatch, "score", [](A& a) { a.out.sequences = 2; });
  refuse(mass{}, errc::mismatch, "tokens", [](A& a) { a.out.tokens = 39; });
  refuse(mass{}, errc::null_data, "score", [](A& a) { a.out.data = nullptr; });
  refuse(mass{}, errc::bad_shape, "overlap", [](A& a) { a.out.row_stride = 39; });
  refuse(mass{}, errc::workspace_too_small, "score_workspace", [](A& a) { a.less = 1; });
  refuse(accumulated_attention{}, errc::mismatch, "score", [](A& a) { a.out.rows = 2; });
  refuse(mass{}, errc::bad_shape, "dim", [](A& a) { a.cache.dim = 0; });
  refuse(mass{}, errc::null_data, "cache", [](A& a) { a.cache.values = nullptr; });
  refuse(recency{}, errc::bad_shape, "heads", [](A& a) { a.seen.q.rows.heads = 3; });
  refuse(clie{}, errc::not_ready, "the source layer has not been scored yet", [](A& a) { a.source = {}; });
  refuse(pooled<clie, 3>{}, errc::not_ready, "has not been scored", [](A& a) { a.source.positions = nullptr; });
  refuse(clie{}, errc::not_ready, "has not been scored", [](A& a) { a.source.tokens = nullptr; });
  refuse(clie{}, errc::mismatch, "source", [](A& a) { a.source.scores.rows = 4; });
  refuse(clie{}, errc::mismatch, "source", [](A& a) { a.source.scores.sequences = 2; });
  refuse(clie{}, errc::mismatch, "source", [&](A& a) { a.source.tokens = too_many.data(); });
  refuse(clie{}, errc::mismatch, "source", [&](A& a) { a.source.tokens = negative.data(); });

  evidence const short_layout{spatial_temporal{{layout.data(), 1}}, in.queries, lse.data(), std::ptrdiff_t{40}};
  owned_scores out(1, 2, 40);
  std::vector<char> memory(1 << 20);
  CHECK(score(cpu{}, mass{}, short_layout, in.cache.view, {}, out.view, {memory.data(), 0}).code ==
        errc::bad_positions);

  in.cache.view.set_length(0, 1, 39);
  refuse(head_mean<accumulated_attention>{}, errc::mismatch, "different tokens", [](A&) {});
  refuse(pooled<head_max<window_attention<16>>, 3>{}, errc::mismatch, "different tokens", [](A&) {});
  in.cache.view.set_length(0, 1, 40);
  *in.cache.view.run(0, 1, 39).positions = 40;
  refuse(value_weighted<head_max<accumulated_attention>>{}, errc::mismatch, "different tokens", [](A&) {});
}

TEST_CASE("score: sizes that overflow 64 bits need SIZE_MAX bytes of workspace") {
  float row = 0;  // shapes are all that is read
  std::int32_t position = 0, length = INT32_MAX;
  contiguous_cache<float> cache{&row, &row, &position, &length};
  cache.token_stride = 1;
  cache.sequences = cache.kv_heads = 1;
  cache.tokens = INT32_MAX;
  cache.dim = 1;
  query_view<float> q{};
  q.rows.heads = INT32_MAX;
  q.rows.dim = 1;
  CHECK(score_workspace(cpu{}, pooled<group_mean<accumulated_attention>, 3>{}, evidence{dense{}, q, nullptr, 0},
                        cache) == SIZE_MAX);
}

TEST_CASE("score: mass that was put together elsewhere counts as what these queries gave, and is checked") {
  SEEDED(random);
  shape s = square(6, 2, 20, 70);
  s.keep_percent = 80;
  attention_input<float, owned_ragged<float>> const in(random, s);
  auto const reference = oracle::attend(dense{}, in.queries, in.cache.view);
  owned_scores const lse = lse_of(in, reference);
  using estimator = pooled<group_mean<window_attention<16>>, 7, pooling::average>;
  evidence const seen{dense{}, in.queries, lse.view.data, lse.view.row_stride};
  owned_scores const expected = run(estimator{}, seen, in.cache.view);

  owned_scores mass(1, 6, in.longest(), 2);
  owned_workspace const work(mass_workspace(cpu{}, dense{}, in.queries, in.cache.view, last(16), score_rows::heads));
  REQUIRE(purekv::mass(cpu{}, dense{}, in.queries, in.cache.view, lse.view.data, lse.view.row_stride, last(16),
                       score_rows::heads, mass.view, work.view())
              .ok());
  query_view<float> none{};  // only how many heads there are is read of the queries
  none.rows.heads = 6;
  evidence given{dense{}, none, nullptr, 0, mass.view};
  owned_scores const said = run(estimator{}, given, in.cache.view);
  CHECK(std::memcmp(said.memory.data(), expected.memory.data(), said.memory.size() * sizeof(float)) == 0);

  auto const verdict = [&](score_view const& wrong) {
    given.mass = wrong;
    owned_scores out(1, 2, in.longest());
    owned_workspace const memory(1 << 20);
    status const refused = score(cpu{}, estimator{}, given, in.cache.view, source_view{}, out.view, memory.view());
    CHECK(out.rest_untouched([](int, int) { return 0; }));
    return refused.code;
  };
  score_view wrong = mass.view;
  wrong.rows = 5;
  CHECK(verdict(wrong) == errc::mismatch);
  wrong = mass.view;
  wrong.tokens = in.longest() - 1;
  CHECK(verdict(wrong) == errc::mismatch);
  wrong = mass.view;
  wrong.row_stride = 1;
  CHECK(verdict(wrong) == errc::bad_shape);
}
