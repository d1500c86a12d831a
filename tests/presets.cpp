// SPDX-License-Identifier: Apache-2.0
#include <purekv/presets.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/kvpress.hpp"
#include "support/random.hpp"

#include <purekv/pattern/dense.hpp>
#include <purekv/score.hpp>
#include <purekv/select.hpp>

#include <deque>
#include <set>

using namespace purekv;
using namespace fixtures;

namespace {

/// kvpress's test layer and what dense attention over it leaves behind.
struct attended_layer : test::kvpress_layer {
  owned_scores lse{1, heads, sequences* tokens};

  attended_layer() : test::kvpress_layer(test::rotation::after) {
    auto const reference = oracle::attend(dense{}, view, cache.view);
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < heads; ++h)
        for (int t = 0; t < tokens; ++t)
          lse.view.row(0, h)[s * tokens + t] = static_cast<float>(reference[size(s * heads + h)].lse(t));
  }
  template <class E> owned_scores scores(E const& e) const { return test::kvpress_layer::scores(e, lse.view); }
};

}  // namespace

TEST_CASE("snapkv: kvpress's scores") {
  attended_layer const layer;
  // kvpress takes the mean over the window, we the sum: a constant factor. It pools before it looks at the window,
  // whose columns it replaces by the maximum, so it sees zeros there where we see the window's own mass: the last k / 2
  // columns before the window differ, and the window is pinned in both.
  auto const snap = [&]<int Window, int Width>() {
    layer.compare(layer.scores(pooled<group_mean<window_attention<Window>>, Width>{}),
                  "score_snapkv_w" + std::to_string(Window) + "_k" + std::to_string(Width), 0,
                  layer.tokens - Window - Width / 2, [](int) { return Window; });
  };
  snap.operator()<8, 5>();
  snap.operator()<16, 3>();
  snap.operator()<1, 1>();
}

TEST_CASE("h2o: kvpress's observed attention, without its division by the number of queries that see the token") {
  attended_layer const layer;
  layer.compare(layer.scores(h2o<ratio>{}.estimator), "score_observed", 0, layer.tokens,
                [&](int t) { return layer.tokens - t; });
}

TEST_CASE("tova: kvpress's scores, but for the last token, which that pins") {
  attended_layer const layer;
  layer.compare(layer.scores(tova<ratio>{}.estimator), "score_tova", 0, layer.tokens - 1, [](int) { return 1; });
}

namespace {

using table = std::vector<std::vector<double>>;  // [rows][tokens]

/// One random layer: its attention mass, from the oracle, and its value norms.
struct layer {
  attention_input<float, owned_contiguous<float>> in;
  std::vector<oracle::head_attention> attention;
  owned_scores lse;

  layer(test::random& random, shape const& s)
      : in(random, s), attention(oracle::attend(dense{}, in.queries, in.cache.view)), lse(1, s.heads, s.queries[0]) {
    for (int h = 0; h < s.heads; ++h)
      for (int t = 0; t < s.queries[0]; ++t) lse.view.row(0, h)[t] = static_cast<float>(attention[size(h)].lse(t));
  }
  int tokens() const { return in.cache.view.length(0, 0); }
  int heads() const { return in.queries.rows.heads; }
  int kv_heads() const { return in.cache.view.kv_heads; }

  table mass(int window) const {
    table result;
    for (int h = 0; h < heads(); ++h) {
      auto const column = oracle::mass_of(attention[size(h)], std::max(0, tokens() - window), tokens()).value;
      result.emplace_back(column.data(), column.data() + column.size());
    }
    return result;
  }
  double norm(int kv_head, int t) const {
    double sum = 0;
    for (int c = 0; c < in.cache.view.dim; ++c) {
      double const x = in.cache.view.run(0, kv_head, t).values[c];
      sum += x * x;
    }
    return std::sqrt(sum);
  }

  template <class E> owned_scores score_with(E const& e, source_view const& source = {}) const {
    evidence const seen{dense{}, in.queries, lse.view.data, lse.view.row_stride};
    owned_scores out(1, kv_heads(), tokens());
    owned_workspace work(score_workspace(cpu{}, e, seen, in.cache.view));
    REQUIRE(score(cpu{}, e, seen, in.cache.view, source, out.view, work.view()).ok());
    return out;
  }

  /// Scores and kept tokens are those of the formula, but for tokens whose score is as good as that of the worst kept.
  template <class Compressor>
  void check_kept(Compressor const& c, owned_scores const& scores, table const& expected, int sinks, int recent,
                  layer_position const& where = {}, int budget = 0) const {
    owned_selection kept(kv_heads(), selection_capacity(in.cache.view));
    owned_workspace work(select_workspace(cpu{}, c, in.cache.view));
    REQUIRE(select(cpu{}, c, scores.view, in.cache.view, kept.view, work.view(), where).ok());
    int const keep = budget > 0 ? budget : std::max(1, tokens() / 5);
    for (int h = 0; h < kv_heads(); ++h) {
      std::vector<bool> pinned;
      for (int t = 0; t < tokens(); ++t) pinned.push_back(t < sinks || t >= tokens() - recent);
      auto const& wanted = expected[size(h)];
      for (int t = 0; t < tokens(); ++t)
        CHECK(scores.view.row(0, h)[t] == doctest::Approx(wanted[size(t)]).epsilon(1e-4));
      auto const reference = oracle::select_head(wanted, pinned, keep);
      auto const actual = kept.row(h);
      REQUIRE(actual.size() == reference.size());
      double worst = oracle::infinity;
      for (int t : reference)
        if (!pinned[size(t)]) worst = std::min(worst, wanted[size(t)]);
      std::set<int> const a(actual.begin(), actual.end()), b(reference.begin(), reference.end());
      for (int t = 0; t < tokens(); ++t)
        if (a.count(t) != b.count(t)) {
          CHECK(!pinned[size(t)]);
          CHECK(wanted[size(t)] == doctest::Approx(worst).epsilon(1e-5));
        }
    }
  }
};

table group_means(table const& mass, int group) {
  table result;
  for (std::size_t h = 0; h < mass.size(); h += size(group)) {
    result.emplace_back(mass[h].size(), 0.0);
    for (std::size_t g = h; g < h + size(group); ++g)
      for (std::size_t t = 0; t < mass[g].size(); ++t) result.back()[t] += mass[g][t] / group;
  }
  return result;
}

/// Largest of all rows from 14 tokens before on.
std::vector<double> widest(table const& rows) {
  int const n = static_cast<int>(rows[0].size());
  std::vector<double> result;
  for (int t = 0; t < n; ++t) {
    double most = 0;
    for (auto const& row : rows)
      for (int u = std::max(0, t - 14); u <= t; ++u) most = std::max(most, row[size(u)]);
    result.push_back(most);
  }
  return result;
}

shape random_shape(test::random& random) {
  int const group = std::vector<int>{1, 4, 7, 8}[size(random.between(0, 3))], kv_heads = random.between(1, 3);
  shape s = square(group * kv_heads, kv_heads, 32, random.between(160, 300));
  s.spread = 2;
  return s;
}

}  // namespace

namespace {

table snapkv_votes(layer const& l) {
  table expected = group_means(l.mass(16), l.heads() / l.kv_heads());
  for (auto& row : expected) {
    std::vector<double> const from = row;
    for (int t = 0; t < l.tokens(); ++t) {
      row[size(t)] = 0;
      for (int u = std::max(0, t - 3); u < std::min(l.tokens(), t + 4); ++u) row[size(t)] += from[size(u)] / 7;
    }
  }
  return expected;
}

}  // namespace

TEST_CASE("snapkv: mean over the group, average over 7; 4 and 16 pinned") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  snapkv<ratio> const c{.budget = ratio::compression(5)};
  l.check_kept(c, l.score_with(c.estimator), snapkv_votes(l), 4, 16);
}

TEST_CASE("pyramidkv: snapkv with a budget that falls with depth") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  pyramidkv<ratio> const c{.budget = {.budget = ratio::compression(5), .least = 20}};
  int const mean = l.tokens() / 5;
  l.check_kept(c, l.score_with(c.estimator), snapkv_votes(l), 4, 16, {0, 3}, 2 * mean - 20);
  l.check_kept(c, l.score_with(c.estimator), snapkv_votes(l), 4, 16, {1, 3}, mean);
  l.check_kept(c, l.score_with(c.estimator), snapkv_votes(l), 4, 16, {2, 3}, 20);
}

TEST_CASE("criticalkv: half of the budget by snapkv, the rest times the norm of the projected value") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  int const dim = l.in.cache.view.dim, hidden = 24, columns = l.heads() * dim, group = l.heads() / l.kv_heads();
  std::vector<half> weight(size(hidden * columns));
  random.fill_normal(weight);
  criticalkv<ratio, half> c{.budget = ratio::compression(5)};
  c.estimator.budget = c.budget;
  c.estimator.projection = {weight.data(), hidden, l.heads(), dim, columns};
  // The votes as they are: who is in the first half must not hang on a rounding error.
  owned_scores const votes = l.score_with(c.estimator.estimator);
  table expected;
  for (int h = 0; h < l.kv_heads(); ++h) {
    auto& row = expected.emplace_back(votes.view.row(0, h), votes.view.row(0, h) + l.tokens());
    auto const best = oracle::select_head(row, std::vector<bool>(row.size(), false), l.tokens() / 5 / 2);
    for (int t = 0; t < l.tokens(); ++t) {
      double sum = 0;
      for (int g = h * group; g < (h + 1) * group; ++g)
        for (int r = 0; r < hidden; ++r) {
          double y = 0;
          for (int i = 0; i < dim; ++i)
            y += oracle::exact(weight[size(r * columns + g * dim + i)]) *
                 oracle::exact(l.in.cache.view.run(0, h, t).values[i]);
          sum += std::abs(y) / group;
        }
      bool const first = std::binary_search(best.begin(), best.end(), t);
      row[size(t)] = first ? static_cast<double>(std::numeric_limits<float>::max()) : (row[size(t)] + 1e-4) * sum;
    }
  }
  l.check_kept(c, l.score_with(c.estimator), expected, 4, 16);
}

TEST_CASE("tova: the last query, mean over all heads; nothing pinned") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  table const mass = l.mass(1);
  std::vector<double> mean(size(l.tokens()), 0.0);
  for (auto const& row : mass)
    for (std::size_t t = 0; t < row.size(); ++t) mean[t] += row[t] / static_cast<double>(mass.size());
  tova<ratio> const c{.budget = ratio::compression(5)};
  l.check_kept(c, l.score_with(c.estimator), table(size(l.kv_heads()), mean), 0, 0);
}

TEST_CASE("knorm: the shortest keys; nothing pinned") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  table expected(size(l.kv_heads()));
  for (int h = 0; h < l.kv_heads(); ++h)
    for (int t = 0; t < l.tokens(); ++t)
      expected[size(h)].push_back(-oracle::read(l.in.cache.view, 0, h).keys.row(t).norm());
  knorm<ratio> const c{.budget = ratio::compression(5)};
  l.check_kept(c, l.score_with(c.estimator), expected, 0, 0);
}

TEST_CASE("expected_attention: future attention, mean over the group, times the value norm; 4 pinned") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  int const dim = l.in.cache.view.dim, group = l.heads() / l.kv_heads();
  std::vector<float> mean(size(l.heads() * dim));
  random.fill_normal(mean, 0.5f);
  expected_attention<ratio> c{.budget = ratio::compression(5)};
  c.estimator.estimator.estimator.future = {mean.data(), nullptr, 1, l.heads(), dim};
  table expected(size(l.kv_heads()), std::vector<double>(size(l.tokens()), 0.0));
  for (int h = 0; h < l.heads(); ++h) {
    auto const keys = oracle::read(l.in.cache.view, 0, h / group).keys;
    oracle::vector m(dim);
    for (int i = 0; i < dim; ++i) m(i) = mean[size(h * dim + i)];
    oracle::vector weight = (keys * m / std::sqrt(dim)).array().exp();
    double const sum = weight.tail(l.tokens() - 4).sum();
    for (int t = 0; t < l.tokens(); ++t)
      expected[size(h / group)][size(t)] += (t < 4 ? 1 : weight(t) / sum) / group * l.norm(h / group, t);
  }
  l.check_kept(c, l.score_with(c.estimator), expected, 4, 0);
}

TEST_CASE("random_baseline: a fifth of each head, other tokens for another seed; 4 and 16 pinned") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  random_baseline<ratio> c{.budget = ratio::compression(5)};
  std::vector<std::vector<std::int32_t>> all;
  for (std::uint64_t seed : {1u, 2u}) {
    c.estimator.seed = seed;
    owned_scores const scores = l.score_with(c.estimator);
    table given;
    for (int h = 0; h < l.kv_heads(); ++h)
      given.emplace_back(scores.view.row(0, h), scores.view.row(0, h) + l.tokens());
    l.check_kept(c, scores, given, 4, 16);
    for (auto const& row : given) {
      std::vector<bool> pinned;
      for (int t = 0; t < l.tokens(); ++t) pinned.push_back(t < 4 || t >= l.tokens() - 16);
      all.push_back(oracle::select_head(row, pinned, l.tokens() / 5));
    }
  }
  for (std::size_t i = 0; i < all.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) CHECK(all[i] != all[j]);
}

TEST_CASE("h2o: accumulated attention, mean over the group; 4 and 16 pinned") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  h2o<ratio> const c{.budget = ratio::compression(5)};
  l.check_kept(c, l.score_with(c.estimator), group_means(l.mass(1 << 20), l.heads() / l.kv_heads()), 4, 16);
}

TEST_CASE("h2o_half: heavy hitters beside the newest half of the budget") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  h2o_half<ratio> const c{.budget = {1, 5}, .protect = {1, 10}};
  l.check_kept(c, l.score_with(c.estimator), group_means(l.mass(1 << 20), l.heads() / l.kv_heads()), 0,
               l.tokens() / 10);
}

TEST_CASE("streaming: the first 4 and the newest") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  table expected(size(l.kv_heads()));
  for (auto& row : expected)
    for (int t = 0; t < l.tokens(); ++t) row.push_back(t);
  streaming<ratio> const c{.budget = ratio::compression(5)};
  l.check_kept(c, l.score_with(c.estimator), expected, 4, 0);
}

namespace {

/// Scores `last` by the layers before it: the band's scores are folded into one source.
template <class Compressor>
owned_scores from_band(Compressor const& c, std::deque<layer> const& band, layer const& last) {
  using E = typename Compressor::estimator_type;
  int const n = last.tokens(), kv_heads = last.kv_heads();
  owned_scores source(1, kv_heads, n);
  source_view const view{source.view, last.in.positions.data(), n, &n};
  owned_workspace work(accumulate_source_workspace(cpu{}, c.estimator, last.in.cache.view));
  for (std::size_t l = 0; l < band.size(); ++l) {
    owned_scores const said = band[l].score_with(typename E::source_estimator{});
    REQUIRE(
        accumulate_source(cpu{}, c.estimator, c.protect, said.view, band[l].in.cache.view, l == 0, view, work.view())
            .ok());
  }
  return last.score_with(c.estimator, view);
}

std::deque<layer> layers_of(test::random& random, int count) {
  shape const s = random_shape(random);
  std::deque<layer> layers;
  for (int l = 0; l < count; ++l) layers.emplace_back(random, s);
  return layers;
}

}  // namespace

TEST_CASE("purekv_paper: a lower layer's accumulated attention times this layer's value norm") {
  SEEDED(random);
  std::deque<layer> const layers = layers_of(random, 1);
  layer const last(random, square(layers[0].heads(), layers[0].kv_heads(), 32, layers[0].tokens()));
  table expected = group_means(layers[0].mass(1 << 20), last.heads() / last.kv_heads());
  for (int h = 0; h < last.kv_heads(); ++h)
    for (int t = 0; t < last.tokens(); ++t) expected[size(h)][size(t)] *= last.norm(h, t);
  purekv_paper<ratio> const c{.budget = ratio::compression(5)};
  last.check_kept(c, from_band(c, layers, last), expected, 4, 16);
}

TEST_CASE("purekv_early and purekv_deep: the largest vote of any head of any layer of a band, over 15 tokens") {
  SEEDED(random);
  std::deque<layer> const layers = layers_of(random, 3);
  layer const last(random, square(layers[0].heads(), layers[0].kv_heads(), 32, layers[0].tokens()));
  table votes;
  for (layer const& l : layers)
    for (auto const& row : l.mass(16)) votes.push_back(row);
  std::vector<double> const source = widest(votes);
  table expected(size(last.kv_heads()));
  for (int h = 0; h < last.kv_heads(); ++h)
    for (int t = 0; t < last.tokens(); ++t) expected[size(h)].push_back(source[size(t)] * last.norm(h, t));
  purekv_early<ratio> const early{.budget = ratio::compression(5)};
  last.check_kept(early, from_band(early, layers, last), expected, 4, 16);
  purekv_deep<ratio> const deep{.budget = ratio::compression(5)};
  last.check_kept(deep, from_band(deep, layers, last), expected, 4, 16);
}

TEST_CASE("purekv_deep with the mean: every layer of the band counts alike") {
  SEEDED(random);
  std::deque<layer> const layers = layers_of(random, 3);
  layer const last(random, square(layers[0].heads(), layers[0].kv_heads(), 32, layers[0].tokens()));
  int const n = last.tokens();
  std::vector<double> source(size(n), 0.0);
  for (layer const& l : layers) {
    std::vector<double> const said = widest(l.mass(16));
    double sum = 0;
    for (int t = 4; t < n - 16; ++t) sum += said[size(t)];
    for (int t = 0; t < n; ++t) source[size(t)] += said[size(t)] / sum;
  }
  table expected(size(last.kv_heads()));
  for (int h = 0; h < last.kv_heads(); ++h)
    for (int t = 0; t < n; ++t) expected[size(h)].push_back(source[size(t)] * last.norm(h, t));
  purekv_deep<ratio, combine::mean> const c{.budget = ratio::compression(5)};
  last.check_kept(c, from_band(c, layers, last), expected, 4, 16);
}

TEST_CASE("purekv_video: the largest vote of the last 8 queries of a band, times the value norm; the text is pinned") {
  SEEDED(random);
  std::deque<layer> const layers = layers_of(random, 2);
  layer const last(random, square(layers[0].heads(), layers[0].kv_heads(), 32, layers[0].tokens()));
  int const n = last.tokens();
  segment const segments[] = {segment::text(0, 4), segment::video(4, 1, 1, n - 20), segment::text(n - 16, 16)};
  std::vector<double> source(size(n), 0.0);
  for (layer const& l : layers)
    for (auto const& row : l.mass(8))
      for (int t = 0; t < n; ++t) source[size(t)] = std::max(source[size(t)], row[size(t)]);
  table expected(size(last.kv_heads()));
  for (int h = 0; h < last.kv_heads(); ++h)
    for (int t = 0; t < n; ++t) expected[size(h)].push_back(source[size(t)] * last.norm(h, t));
  purekv_video<ratio> const c{.budget = ratio::compression(5), .protect = {{segments, 3}}};
  last.check_kept(c, from_band(c, layers, last), expected, 4, 16);
}

TEST_CASE("novel: the distance of a value from the mean of its frame; the text is pinned") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  int const n = l.tokens(), frames = (n - 20) / 6, after = n - 4 - 6 * frames;
  segment const segments[] = {segment::text(0, 4), segment::video(4, frames, 2, 3), segment::text(n - after, after)};
  table expected(size(l.kv_heads()));
  for (int h = 0; h < l.kv_heads(); ++h) {
    auto const values = oracle::read(l.in.cache.view, 0, h).values;
    for (int t = 0; t < n; ++t) {
      int const first = t < 4 ? 0 : t >= n - after ? n - after : t - (t - 4) % 6;
      int const count = t < 4 ? 4 : t >= n - after ? after : 6;
      expected[size(h)].push_back((values.row(t) - values.middleRows(first, count).colwise().mean()).norm());
    }
  }
  novel<ratio> c{.estimator = {{segments, 3}}, .budget = ratio::compression(5), .protect = {{segments, 3}}};
  l.check_kept(c, l.score_with(c.estimator), expected, 4, after);

  c.estimator.layout.segments = nullptr;
  evidence const seen{dense{}, l.in.queries, nullptr, 0};
  owned_scores out(1, l.kv_heads(), n);
  owned_workspace work(score_workspace(cpu{}, c.estimator, seen, l.in.cache.view));
  CHECK(score(cpu{}, c.estimator, seen, l.in.cache.view, {}, out.view, work.view()).code == errc::null_data);
  CHECK(out.rest_untouched([](int, int) { return 0; }));
}

TEST_CASE("kvzip: the largest probability of any query and any head of the group; the first 4 and last 16 are pinned") {
  SEEDED(random);
  layer const l(random, random_shape(random));
  kvzip<ratio> const c{.budget = {ratio::compression(5)}};
  owned_scores const said = l.score_with(c.estimator);
  int const group = l.heads() / l.kv_heads();
  for (int h = 0; h < l.kv_heads(); ++h) {
    oracle::vector most = oracle::vector::Zero(l.tokens());
    for (int g = h * group; g < (h + 1) * group; ++g)
      most = most.cwiseMax(oracle::maximum_of(l.attention[size(g)], nullptr, 0, l.tokens()).value);
    for (int t = 0; t < l.tokens(); ++t) CHECK(said.view.row(0, h)[t] == doctest::Approx(most(t)).epsilon(1e-4));
  }
  for (int t : {0, 3, 84, 99}) CHECK(c.protect.pinned(t, 99));
  for (int t : {4, 83}) CHECK_FALSE(c.protect.pinned(t, 99));
  CHECK(c.budget.keep({100}) == 20);
  CHECK(c.budget.floor(20) == 0);
}
