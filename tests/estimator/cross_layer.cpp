// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/cross_layer.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/estimator/recency.hpp>
#include <purekv/estimator/value_weighted.hpp>

using namespace purekv;
using clie = cross_layer<group_mean<accumulated_attention>>;
using unweighted = cross_layer<group_mean<accumulated_attention>, combine::maximum, weigh_by::nothing>;

namespace {

// What a source layer said: a score for each KV head and each of its positions.
struct source {
  std::vector<std::int32_t> positions;
  std::vector<float> scores;  // [kv_heads, stride]
  std::ptrdiff_t stride;

  source(test::random& random, int kv_heads, std::vector<std::int32_t> list)
      : positions(std::move(list)), stride(static_cast<std::ptrdiff_t>(positions.size()) + random.between(0, 3)) {
    scores.resize(static_cast<std::size_t>(kv_heads * stride));
    random.fill_uniform(scores, 0, 2);
  }
  template <class Input> Input give(Input in) const {
    in.source = scores.data();
    in.source_stride = stride;
    in.source_positions = positions.data();
    in.source_tokens = static_cast<std::int32_t>(positions.size());
    return in;
  }
  double of(int head, int position) const {
    for (std::size_t i = 0; i < positions.size(); ++i)
      if (positions[i] == position) return scores[static_cast<std::size_t>(head * stride) + i];
    return 0;
  }
};

template <class Layer> void check(Layer const& l, source const& s) {
  auto const said = test::scores_of(clie{}, s.give(l.input()));
  auto const alone = test::scores_of(unweighted{}, s.give(l.input()));
  for (int h = 0; h < l.shape.kv_heads; ++h)
    for (int t = 0; t < l.length(h); ++t) {
      CAPTURE(h);
      CAPTURE(t);
      float const actual = said[static_cast<std::size_t>(h)][static_cast<std::size_t>(t)];
      CHECK(test::close(actual, s.of(h, l.position(h, t)) * l.value_norm(h, t), 1e-6));
      CHECK(alone[static_cast<std::size_t>(h)][static_cast<std::size_t>(t)] ==
            static_cast<float>(s.of(h, l.position(h, t))));
    }
}

}  // namespace

TEST_CASE("cross_layer: the source's score of the same position times the norm of this layer's value") {
  SEEDED(random);
  static_assert(CrossLayerEstimator<clie>);
  static_assert(clie::mass_queries == 0);
  static_assert(!CrossLayerEstimator<value_weighted<recency>>);
  for (test::layer_case const& c : test::layer_cases(random, false)) {
    test::layer<fixtures::owned_ragged<float>> const ragged(random, c);
    test::layer<fixtures::owned_contiguous<half>> const contiguous(random, c);
    std::vector<std::int32_t> whole(700), some;
    std::iota(whole.begin(), whole.end(), 0);
    for (int p : whole)
      if (random.between(0, 2) > 0) some.push_back(p);
    for (auto const& positions :
         {whole, some, std::vector<std::int32_t>{}, std::vector<std::int32_t>{random.between(0, 5)}}) {
      source const s(random, c.kv_heads, positions);
      check(ragged, s);
      check(contiguous, s);
    }
  }
}

TEST_CASE("cross_layer: a source with exactly the cached positions") {
  SEEDED(random);
  test::layer<fixtures::owned_contiguous<bfloat16>> const l(random, {3, 4, 64, {77, 77, 77}, true});
  std::vector<std::int32_t> positions;
  for (int t = 0; t < 77; ++t) positions.push_back(l.position(0, t));
  check(l, source(random, 3, positions));
}

TEST_CASE("cross_layer: with itself as the source it is value_weighted") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> const l(random, {2, 4, 64, {50, 50}, true});
  std::vector<std::int32_t> positions;
  for (int t = 0; t < 50; ++t) positions.push_back(l.position(0, t));
  source s(random, 2, positions);
  auto const own = test::scores_of(group_mean<accumulated_attention>{}, l.input());
  for (std::size_t h = 0; h < 2; ++h)
    std::copy(own[h].begin(), own[h].end(), s.scores.begin() + static_cast<std::ptrdiff_t>(h) * s.stride);
  CHECK(test::scores_of(clie{}, s.give(l.input())) ==
        test::scores_of(value_weighted<group_mean<accumulated_attention>>{}, l.input()));
}

TEST_CASE("cross_layer: NaN values give NaN, unknown positions 0 whatever their value") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {1, 1, 8, {4}});
  std::vector<std::int32_t> positions;
  for (int t = 0; t < 3; ++t) positions.push_back(l.position(0, t));
  source s(random, 1, positions);
  s.scores[0] = test::nan;
  l.cache.view.run(1, 0, 1).values[0] = test::nan;
  l.cache.view.run(1, 0, 3).values[0] = test::nan;
  auto const said = test::scores_of(clie{}, s.give(l.input()))[0];
  CHECK(std::isnan(said[0]));
  CHECK(std::isnan(said[1]));
  CHECK(!std::isnan(said[2]));
  CHECK(said[3] == 0);
}
