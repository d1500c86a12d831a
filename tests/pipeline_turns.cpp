// SPDX-License-Identifier: Apache-2.0
// What pipeline.hpp does after the prompt: further turns, and tokens that are taken back.
#include "support/chunked_model.hpp"
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/presets.hpp>

using namespace purekv;
using namespace fixtures;

namespace {

/// Rows after the prompt: counts[s] of each sequence, its positions from first[s] on.
template <class T>
typename chunked_model<T>::call turn(generator& random, chunked_model<T> const& m,
                                     std::vector<std::int32_t> const& first, chunk_sizes const& counts) {
  int const total = std::accumulate(counts.begin(), counts.end(), 0);
  typename chunked_model<T>::call c{{0},
                                    {},
                                    {m.model.heads, total, m.model.dim, order::token_major},
                                    {m.model.kv_heads, total, m.model.dim, order::token_major},
                                    {m.model.kv_heads, total, m.value_dim()},
                                    {m.model.heads, total, m.value_dim()}};
  for (std::size_t s = 0; s < counts.size(); ++s) {
    for (int i = 0; i < counts[s]; ++i) c.positions.push_back(first[s] + i);
    c.offset.push_back(static_cast<std::int32_t>(c.positions.size()));
  }
  c.q.fill_normal(random, 2);
  c.k.fill_normal(random);
  c.v.fill_normal(random);
  return c;
}

template <class Pipeline, class T>
status decode(Pipeline const& p, chunked_model<T> const& m, int l, typename chunked_model<T>::call const& c) {
  owned_workspace const work(p.decode_workspace(cpu{0, m.ranks}, l, c.queries(), m.storage.data()));
  status const result = status_on_ranks(m.ranks, [&](cpu exec) {
    return p.decode(exec, l, c.queries(), c.k.rows(), c.v.rows(), m.storage.data(), c.out.view, work.view());
  });
  CHECK(work.guards_untouched());
  return result;
}

/// Everything a cache holds of its tokens, bit for bit.
template <class T> std::vector<unsigned char> content(chunked_model<T> const& m) {
  std::vector<unsigned char> bytes;
  auto const add = [&](auto const* data, std::int64_t count) {
    auto const* const first = reinterpret_cast<unsigned char const*>(data);
    bytes.insert(bytes.end(), first, first + size(count) * sizeof(*data));
  };
  for (auto const& layer : m.storage)
    for (int s = 0; s < m.sequences(); ++s)
      for (int h = 0; h < m.model.kv_heads; ++h) {
        std::int32_t const length = layer.kept.length(s, h);
        add(&length, 1);
        for (int t = 0; t < length; ++t) {
          auto const run = layer.kept.run(s, h, t);
          add(run.keys, m.model.dim);
          add(run.values, m.value_dim());
          add(run.positions, 1);
        }
      }
  return bytes;
}

/// What estimators say of every layer's kept cache, given the attention of these queries.
template <class T, class E>
void add_scores(std::vector<float>& all, chunked_model<T> const& m, typename chunked_model<T>::call const& seen,
                E const& e) {
  for (auto const& layer : m.storage) {
    int longest = 0;
    for (int s = 0; s < m.sequences(); ++s)
      for (int h = 0; h < m.model.kv_heads; ++h) longest = std::max(longest, layer.kept.length(s, h));
    owned_scores lse(1, m.model.heads, seen.q.view.tokens);
    owned_workspace const attending(attend_workspace(cpu{}, dense{}, seen.queries(), layer.kept));
    attend_taps const taps{.lse = lse.view.data, .lse_stride = lse.view.row_stride};
    REQUIRE(attend(cpu{}, dense{}, seen.queries(), layer.kept, seen.out.view, taps, attending.view()).ok());
    evidence const what{dense{}, seen.queries(), lse.view.data, lse.view.row_stride};
    owned_scores scores(m.sequences(), m.model.kv_heads, longest);
    owned_workspace const scoring(score_workspace(cpu{}, e, what, layer.kept));
    status const done = score(cpu{}, e, what, layer.kept, source_view{}, scores.view, scoring.view());
    REQUIRE_MESSAGE(done.ok(), done.message);
    all.insert(all.end(), scores.memory.begin(), scores.memory.end());
    all.insert(all.end(), seen.out.memory.begin(), seen.out.memory.end());
  }
}

}  // namespace

TEST_CASE("a turn of any length, in one pass or in several, over what every layer kept") {
  SEEDED(random);
  for (int const group : {1, 4, 7}) {
    CAPTURE(group);
    chunked_model<half> m(random, {2, 2 * group, 2, 24, group == 4 ? 17 : 0}, {130, 40});
    m.new_tokens = 310;
    m.ranks = group == 4 ? 3 : 1;
    std::vector<layer_plan> layers(2);
    own_source(layers.data(), 2, evict_when::after_attending);
    layers[1].when = evict_when::never;
    schedule const plan{layers.data(), 2};
    snapkv<across_heads<ratio>> const c{.budget = {{1, 3}}};
    sliding_window const pattern{150};
    pipeline p(m.model, plan, c, pattern);
    for (chunk_sizes const& counts : {chunk_sizes{1, 1}, chunk_sizes{7, 3}, chunk_sizes{300, 65}, chunk_sizes{0, 90}}) {
      CAPTURE(counts[0]);
      REQUIRE(m.feed_all(p, [](std::int32_t left) { return left; }).ok());
      for (int l = 0; l < 2; ++l) {
        auto const rows = turn(random, m, {400, 400}, counts);
        REQUIRE(decode(p, m, l, rows).ok());
        auto const reference = oracle::attend(pattern, rows.queries(), m.storage[size(l)].kept);
        comparison compared;
        for (int s = 0; s < 2; ++s)
          for (int h = 0; h < m.model.heads; ++h) {
            oracle::head_attention const& a = reference[size(s * m.model.heads + h)];
            for (int i = 0; i < counts[size(s)]; ++i)
              for (int d = 0; d < m.value_dim(); ++d)
                compared.add(double{rows.out.view.row(h, rows.offset[size(s)] + i)[d]}, a.out(i, d), a.out_bound(i, d),
                             "out", h, i, d);
          }
        INFO(compared.where(), " (", compared.worst(), " times the bound)");
        CHECK(compared.wrong() == 0);
      }
    }
  }
}

TEST_CASE("what was decoded and taken back leaves caches, scores and attention as they were, bit for bit") {
  SEEDED(random);
  chunked_model<float> m(random, {3, 8, 2, 16}, {61, 0, 30});
  m.new_tokens = 80;
  source_band const band{0, 0};
  std::vector<layer_plan> layers(3);
  one_source(layers.data(), 3, band);
  layers[2].when = evict_when::never;
  purekv_early<ratio> const c{.budget = {1, 3}};
  pipeline p(m.model, schedule{layers.data(), 3, &band, 1}, c, dense{});
  status const fed = m.feed_all(p, [](std::int32_t left) { return left; });
  REQUIRE_MESSAGE(fed.ok(), fed.message);

  std::vector<std::int32_t> const first{500, 500, 500};
  auto const decode_all = [&](std::int32_t ahead, chunk_sizes const& counts) {
    std::vector<std::int32_t> from = first;
    for (std::int32_t& at : from) at += ahead;
    for (int l = 0; l < 3; ++l) REQUIRE(decode(p, m, l, turn(random, m, from, counts)).ok());
  };
  decode_all(0, {2, 2, 2});
  auto const seen = turn(random, m, {700, 700, 700}, {20, 20, 20});
  std::vector<float> weight(size(5 * 8 * 16)), mean(size(3 * 8 * 16));
  random.fill_normal(weight);
  random.fill_normal(mean);
  auto const scores = [&] {
    std::vector<float> all;
    add_scores(all, m, seen, group_mean<accumulated_attention>{});
    add_scores(all, m, seen, value_weighted<pooled<group_mean<window_attention<16>>, 7, pooling::average>>{});
    add_scores(all, m, seen, group_max<reconstruction>{});
    add_scores(all, m, seen, recency{});
    add_scores(all, m, seen, key_norm{});
    add_scores(all, m, seen, uniform_random{.seed = 5});
    future_attention future{};
    future.future = {mean.data(), nullptr, 3, 8, 16};
    add_scores(all, m, seen, group_mean<future_attention>{{}, future});
    critical<group_mean<window_attention<16>>, ratio> critical{.budget = {1, 3}};
    critical.projection = {weight.data(), 5, 8, 16, 8 * 16};
    add_scores(all, m, seen, critical);
    return all;
  };
  auto const before = content(m);
  auto const said = scores();
  for (chunk_sizes const& counts : {chunk_sizes{1, 1, 1}, chunk_sizes{5, 0, 70}}) {
    decode_all(2, counts);
    CHECK(content(m) != before);
    for (int ranks : {1, 3}) {
      if (ranks == 3) decode_all(2, counts);
      status const done =
          status_on_ranks(ranks, [&](cpu exec) { return p.take_back(exec, counts.data(), m.storage.data()); });
      REQUIRE_MESSAGE(done.ok(), done.message);
      CHECK(content(m) == before);
    }
    auto const again = scores();
    REQUIRE(again.size() == said.size());
    CHECK(std::memcmp(again.data(), said.data(), said.size() * sizeof(float)) == 0);
  }

  auto const code = [&](chunk_sizes const& counts) { return p.take_back(cpu{}, counts.data(), m.storage.data()).code; };
  CHECK(code({2, 3, 2}) == errc::capacity_exceeded);  // the prompt is not given back
  CHECK(code({1, 1, -1}) == errc::bad_shape);
  CHECK(p.take_back(cpu{}, nullptr, m.storage.data()).code == errc::null_data);
  CHECK(p.take_back(cpu{}, first.data(), static_cast<layer_storage<float> const*>(nullptr)).code == errc::null_data);
  m.storage[2].kept.dim = 15;
  CHECK(code({1, 1, 1}) == errc::mismatch);
  m.storage[2].kept.dim = 16;
  CHECK(content(m) == before);
  REQUIRE(code({2, 2, 2}) == errc::ok);

  pipeline early(m.model, schedule{layers.data(), 3, &band, 1}, c, dense{});
  CHECK(early.take_back(cpu{}, first.data(), m.storage.data()).code == errc::not_ready);
  REQUIRE(m.begin(early).ok());
  CHECK(early.take_back(cpu{}, first.data(), m.storage.data()).code == errc::not_ready);
}

TEST_CASE("a cache that has grown is cut down in place, and decoding goes on") {
  SEEDED(random);
  chunked_model<float> m(random, {2, 6, 2, 16}, {50, 9});
  m.new_tokens = 60;
  std::vector<layer_plan> layers(2);
  own_source(layers.data(), 2, evict_when::after_attending);
  snapkv<across_heads<ratio>> const c{.budget = {{1, 2}}};
  pipeline p(m.model, schedule{layers.data(), 2}, c, dense{});
  REQUIRE(m.feed_all(p, [](std::int32_t left) { return left; }).ok());
  for (int l = 0; l < 2; ++l) {
    ragged_cache<float> const& kept = m.storage[size(l)].kept;
    auto const grown = turn(random, m, {100, 100}, {40, 40});
    REQUIRE(decode(p, m, l, grown).ok());

    // The turn's last 16 queries say what is worth keeping of all that came before.
    owned_scores lse(1, 6, 80);
    owned_workspace const attending(attend_workspace(cpu{}, dense{}, grown.queries(), kept));
    attend_taps const taps{.lse = lse.view.data, .lse_stride = lse.view.row_stride};
    REQUIRE(attend(cpu{}, dense{}, grown.queries(), kept, grown.out.view, taps, attending.view()).ok());
    snapkv<fixed> const cap{.budget = {30}};
    evidence const seen{dense{}, grown.queries(), lse.view.data, lse.view.row_stride};
    owned_scores scores(2, 2, 120);
    owned_workspace const scoring(score_workspace(cpu{}, cap.estimator, seen, kept));
    REQUIRE(score(cpu{}, cap.estimator, seen, kept, source_view{}, scores.view, scoring.view()).ok());
    owned_selection chosen(4, selection_capacity(kept));
    owned_workspace const selecting(select_workspace(cpu{}, cap, kept));
    REQUIRE(select(cpu{}, cap, scores.view, kept, chosen.view, selecting.view()).ok());
    REQUIRE(compact(cpu{}, chosen.view, kept).ok());

    auto const next = turn(random, m, {140, 140}, {2, 1});
    REQUIRE(decode(p, m, l, next).ok());
    auto const reference = oracle::attend(dense{}, next.queries(), kept);
    comparison compared;
    for (int s = 0; s < 2; ++s)
      for (int h = 0; h < 6; ++h) {
        CHECK(kept.length(s, h / 3) == 30 + (s == 0 ? 2 : 1));
        oracle::head_attention const& a = reference[size(s * 6 + h)];
        for (int i = 0; i < next.queries().count(s); ++i)
          for (int d = 0; d < 16; ++d)
            compared.add(double{next.out.view.row(h, next.offset[size(s)] + i)[d]}, a.out(i, d), a.out_bound(i, d),
                         "out", h, i, d);
      }
    INFO(compared.where(), " (", compared.worst(), " times the bound)");
    CHECK(compared.wrong() == 0);
  }
}
