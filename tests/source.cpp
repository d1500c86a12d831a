// SPDX-License-Identifier: Apache-2.0
#include <purekv/source.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/protect/any_of.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/protect/sinks.hpp>
#include <purekv/protect/text.hpp>

#include <functional>

using namespace purekv;
using namespace fixtures;

namespace {

using heads = group_mean<accumulated_attention>;
using largest = cross_layer<heads>;
using mean = cross_layer<heads, combine::mean>;

// Layers of one prompt that hold the same tokens, and the source they are folded into.
struct band {
  std::vector<int> tokens;
  int kv_heads;
  owned_contiguous<float> cache;
  std::vector<owned_scores> layers;
  owned_scores source_scores;
  std::vector<std::int32_t> positions;
  int longest;

  band(test::random& random, std::vector<int> lengths, int kv_head_count, int layer_count)
      : tokens(std::move(lengths)),
        kv_heads(kv_head_count),
        cache(sequences(), kv_heads, most() + 2, 4),
        source_scores(sequences(), kv_heads, most(), 3),
        positions(size(sequences() * (most() + 1)), -1),
        longest(most()) {
    for (int s = 0; s < sequences(); ++s)
      for (int t = 0, p = random.between(0, 2); t < tokens[size(s)]; ++t, p += random.between(1, 2)) {
        positions[size(s * (longest + 1) + t)] = p;
        for (int h = 0; h < kv_heads; ++h)
          push(
              cache.view, s, h, p, [](int) { return 0.0f; }, [](int) { return 1.0f; });
      }
    for (int l = 0; l < layer_count; ++l) {
      layers.emplace_back(sequences(), kv_heads, longest, 2);
      for (int s = 0; s < sequences(); ++s)
        for (int h = 0; h < kv_heads; ++h)
          for (int t = 0; t < tokens[size(s)]; ++t)
            layers.back().view.row(s, h)[t] = random.uniform(0, l == 1 ? 100.0f : 1.0f);
    }
  }
  int sequences() const { return static_cast<int>(tokens.size()); }
  int most() const { return *std::max_element(tokens.begin(), tokens.end()); }
  source_view source() const { return {source_scores.view, positions.data(), longest + 1, tokens.data()}; }

  template <class E, class P> status fold(E const& e, P const& protect, int layer, int ranks) {
    owned_workspace work(accumulate_source_workspace(cpu{}, e, cache.view));
    status const s = status_on_ranks(ranks, [&](cpu exec) {
      return accumulate_source(exec, e, protect, layers[size(layer)].view, cache.view, layer == 0, source(),
                               work.view());
    });
    CHECK(work.guards_untouched());
    return s;
  }
};

constexpr any_of<sinks, recent> ends{{2}, {3}};

}  // namespace

TEST_CASE("accumulate_source: the maximum over the layers of a band") {
  SEEDED(random);
  band b(random, {40, 0, 1, 333}, 3, 4);
  for (int l = 0; l < 4; ++l) {
    REQUIRE(b.fold(largest{}, ends, l, l + 1).ok());
    for (int s = 0; s < 4; ++s)
      for (int h = 0; h < 3; ++h)
        for (int t = 0; t < b.tokens[size(s)]; ++t) {
          float most = 0;
          for (int i = 0; i <= l; ++i) most = std::max(most, b.layers[size(i)].view.row(s, h)[t]);
          CHECK(b.source_scores.view.row(s, h)[t] == most);
        }
  }
  CHECK(b.source_scores.rest_untouched([&](int s, int) { return b.tokens[size(s)]; }));
}

TEST_CASE("accumulate_source: the mean, each layer normalised over the tokens that are not pinned") {
  SEEDED(random);
  band b(random, {40, 0, 20, 333}, 3, 4);
  for (int l = 0; l < 4; ++l) REQUIRE(b.fold(mean{}, ends, l, 1).ok());
  for (int s = 0; s < 4; ++s) {
    int const n = b.tokens[size(s)];
    std::vector<double> weight;  // of each layer: its free scores then sum to 1 on average over the heads
    for (owned_scores const& layer : b.layers) {
      double sum = 0;
      for (int h = 0; h < 3; ++h)
        for (int t = 0; t < n; ++t) {
          int const p = b.positions[size(s * (b.longest + 1) + t)];
          if (!ends.pinned(p, b.positions[size(s * (b.longest + 1) + n - 1)])) sum += layer.view.row(s, h)[t];
        }
      weight.push_back(3 / sum);
    }
    for (int h = 0; h < 3; ++h)
      for (int t = 0; t < n; ++t) {
        double expected = 0;
        for (std::size_t l = 0; l < 4; ++l) expected += weight[l] * b.layers[l].view.row(s, h)[t];
        CHECK(b.source_scores.view.row(s, h)[t] == doctest::Approx(expected).epsilon(1e-6));
      }
  }
}

TEST_CASE("accumulate_source: the same bits for any number of ranks") {
  SEEDED(random);
  band b(random, {1, 70, 2500}, 2, 3);
  std::vector<float> first;
  for (int ranks : {1, 3, 32}) {
    for (int l = 0; l < 3; ++l) REQUIRE(b.fold(mean{}, ends, l, ranks).ok());
    if (first.empty()) first = b.source_scores.memory;
    CHECK(std::memcmp(first.data(), b.source_scores.memory.data(), first.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("accumulate_source: a NaN loses against every number, and counts as 0 in a mean") {
  SEEDED(random);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (bool take_mean : {false, true}) {
    band b(random, {30}, 1, 2);
    auto fold = [&](int l) { return take_mean ? b.fold(mean{}, ends, l, 2) : b.fold(largest{}, ends, l, 2); };
    b.layers[0].view.row(0, 0)[10] = b.layers[1].view.row(0, 0)[11] = nan;
    b.layers[0].view.row(0, 0)[12] = b.layers[1].view.row(0, 0)[12] = nan;
    REQUIRE(fold(0).ok());
    float const eleven = b.source_scores.view.row(0, 0)[11];
    REQUIRE(fold(1).ok());
    CHECK(b.source_scores.view.row(0, 0)[10] > 0);
    CHECK(b.source_scores.view.row(0, 0)[11] == eleven);
    CHECK(std::isnan(b.source_scores.view.row(0, 0)[12]) == !take_mean);
    for (int t = 0; t < 30; ++t)
      if (t != 12) CHECK(!std::isnan(b.source_scores.view.row(0, 0)[t]));
  }
}

TEST_CASE("accumulate_source: a layer that scores no free token adds nothing to a mean") {
  SEEDED(random);
  band b(random, {30}, 2, 2);
  for (int h = 0; h < 2; ++h)
    for (int t = 2; t < 30; ++t) b.layers[1].view.row(0, h)[t] = 0;
  b.positions.assign(b.positions.size(), 0);
  for (int t = 0; t < 30; ++t) {
    b.positions[size(t)] = t;
    for (int h = 0; h < 2; ++h) *b.cache.view.run(0, h, t).positions = t;
  }
  REQUIRE(b.fold(mean{}, ends, 0, 1).ok());
  std::vector<float> const before = b.source_scores.memory;
  REQUIRE(b.fold(mean{}, ends, 1, 1).ok());
  CHECK(std::memcmp(before.data(), b.source_scores.memory.data(), before.size() * sizeof(float)) == 0);
}

TEST_CASE("accumulate_source refuses, and leaves the source alone") {
  SEEDED(random);
  band b(random, {30, 20}, 2, 1);
  source_view const good = b.source();
  segment const layout[] = {segment::text(0, 10)};
  owned_workspace work(accumulate_source_workspace(cpu{}, mean{}, b.cache.view));
  auto refuse = [&](errc code, std::function<void(source_view&, score_view&)> const& change, auto const& protect) {
    source_view source = good;
    score_view scores = b.layers[0].view;
    change(source, scores);
    status const s = status_on_ranks(2, [&](cpu exec) {
      return accumulate_source(exec, mean{}, protect, scores, b.cache.view, true, source, work.view());
    });
    CAPTURE(s.message);
    CHECK(s.code == code);
    CHECK(b.source_scores.rest_untouched([](int, int) { return 0; }));
  };
  auto const nothing = [](source_view&, score_view&) {};
  refuse(
      errc::null_data, [](source_view& s, score_view&) { s.scores.data = nullptr; }, ends);
  refuse(
      errc::null_data, [](source_view& s, score_view&) { s.positions = nullptr; }, ends);
  refuse(
      errc::null_data, [](source_view& s, score_view&) { s.tokens = nullptr; }, ends);
  refuse(
      errc::null_data, [](source_view&, score_view& l) { l.data = nullptr; }, ends);
  refuse(
      errc::mismatch, [](source_view& s, score_view&) { s.scores.rows = 3; }, ends);
  refuse(
      errc::mismatch, [](source_view& s, score_view&) { s.scores.tokens = 29; }, ends);
  refuse(
      errc::mismatch, [](source_view&, score_view& l) { l.sequences = 1; }, ends);
  refuse(
      errc::bad_shape, [](source_view& s, score_view&) { s.scores.row_stride = 29; }, ends);
  refuse(errc::bad_policy, nothing, any_of<sinks, recent>{{-1}, {3}});
  refuse(errc::bad_positions, nothing, text{{layout, 1}});
  std::vector<std::int32_t> const fewer{30, 19};
  refuse(
      errc::mismatch, [&](source_view& s, score_view&) { s.tokens = fewer.data(); }, ends);
  std::vector<std::int32_t> shifted = b.positions;
  ++shifted[30 + 1 + 19];
  refuse(
      errc::mismatch, [&](source_view& s, score_view&) { s.positions = shifted.data(); }, ends);
  b.cache.view.set_length(0, 1, 29);
  refuse(errc::mismatch, nothing, ends);
  b.cache.view.set_length(0, 1, 30);
  CHECK(accumulate_source(cpu{}, mean{}, ends, b.layers[0].view, b.cache.view, true, good, work.one_byte_less()).code ==
        errc::workspace_too_small);
  CHECK(b.source_scores.rest_untouched([](int, int) { return 0; }));
  CHECK(accumulate_source(cpu{}, mean{}, ends, b.layers[0].view, b.cache.view, true, good, work.view()).ok());
}
