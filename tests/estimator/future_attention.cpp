// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/future_attention.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"
#include "support/kvpress.hpp"

#include <purekv/average_rotation.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/estimator/value_weighted.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/score.hpp>

using namespace purekv;
using fixtures::size;

namespace {

/// Moments of two sequences, the first of which nobody may read: random means, covariances A A^T / dim.
struct random_moments {
  std::vector<float> mean, covariance;
  query_moments view;
  random_moments(test::random& r, int heads, int dim, float spread)
      : mean(size(2 * heads * dim), test::nan), covariance(size(2 * heads * dim * dim), test::nan) {
    view = {mean.data(), covariance.data(), 2, heads, dim};
    for (int h = 0; h < heads; ++h) {
      std::vector<float> a(size(dim * dim));
      r.fill_normal(a, spread / std::sqrt(static_cast<float>(dim)));
      for (int i = 0; i < dim; ++i) {
        view.mean_of(1, h)[i] = spread * r.normal();
        for (int j = 0; j < dim; ++j) {
          float sum = 0;
          for (int k = 0; k < dim; ++k) sum += a[size(i * dim + k)] * a[size(j * dim + k)];
          view.covariance_of(1, h)[i * dim + j] = sum;
        }
      }
    }
  }
};

/// The scores of one row by the formula, and by how much a float logit may make each differ.
template <class Layer> struct expected_row {
  std::vector<double> score;
  double tolerance = 0;

  expected_row(Layer const& l, future_attention const& e, int row) {
    int const h = row / l.shape.group, dim = l.shape.dim;
    double const scale = e.scale != 0 ? static_cast<double>(e.scale) : 1 / std::sqrt(static_cast<double>(dim));
    std::vector<double> logits;
    double most = -oracle::infinity, magnitude = 0;
    for (int t = 0; t < l.length(h); ++t) {
      double first = 0, second = 0, size_of_it = 0;
      for (int i = 0; i < dim; ++i) {
        double const m = e.future.mean_of(1, row)[i], k = l.key_of(h, t, i);
        first += m * k;
        size_of_it += scale * std::abs(m * k);
        for (int j = 0; e.future.covariance != nullptr && j < dim; ++j) {
          double const c = e.future.covariance_of(1, row)[i * dim + j];
          second += k * c * l.key_of(h, t, j);
          size_of_it += scale * scale / 2 * std::abs(k * c * l.key_of(h, t, j));
        }
      }
      logits.push_back(scale * first + scale * scale / 2 * second);
      magnitude = std::max(magnitude, size_of_it);
      if (l.position(h, t) >= e.sinks) most = std::max(most, logits.back());
    }
    double sum = 0;
    for (int t = 0; t < l.length(h); ++t)
      if (l.position(h, t) >= e.sinks) sum += std::exp(logits[size(t)] - most);
    for (int t = 0; t < l.length(h); ++t)
      score.push_back(
          l.position(h, t) < e.sinks ? 1 : std::exp(logits[size(t)] - most) / sum + static_cast<double>(e.epsilon));
    tolerance = 1e-5 + 2 * oracle::eps * (4 + std::sqrt(dim)) * magnitude;
  }
};

template <class Layer> void check(Layer const& l, future_attention const& e) {
  auto const said = test::scores_of(e, l.input());
  for (int row = 0; row < l.heads(); ++row) {
    CAPTURE(row);
    expected_row<Layer> const expected(l, e, row);
    for (std::size_t t = 0; t < said[size(row)].size(); ++t) {
      CAPTURE(t);
      CAPTURE(expected.score[t]);
      CAPTURE(said[size(row)][t]);
      // Weights so small that float has no accurate number for them rank below everything that matters.
      CHECK((test::close(said[size(row)][t], expected.score[t], expected.tolerance) ||
             (expected.score[t] < 1e-30 && said[size(row)][t] < 1e-30f)));
    }
  }
}

}  // namespace

TEST_CASE("future_attention: softmax of m k + k C k / 2 beyond the sinks") {
  SEEDED(random);
  static_assert(future_attention::rows == score_rows::heads);
  static_assert(future_attention::mass_queries == 0);
  for (test::layer_case const& c : test::layer_cases(random, false)) {
    CAPTURE(c.group);
    CAPTURE(c.dim);
    random_moments const m(random, c.kv_heads * c.group, c.dim, random.uniform(0.2f, 1.5f));
    future_attention e{m.view, random.between(0, 6)};
    if (c.group == 4) {
      e.future.covariance = nullptr;
      check(test::layer<fixtures::owned_contiguous<half>>(random, c), e);
    } else if (c.group == 7) {
      e.epsilon = 0.01f;
      check(test::layer<fixtures::owned_contiguous<bfloat16>>(random, c), e);
    } else {
      e.scale = random.between(0, 1) == 0 ? 0 : 0.1f;
      check(test::layer<fixtures::owned_ragged<float>>(random, c), e);
    }
  }
}

TEST_CASE("future_attention: more tokens than a chunk of the sum") {
  SEEDED(random);
  test::layer_case const c{2, 2, 9, {1025, 1500}};
  random_moments const m(random, 4, 9, 1);
  check(test::layer<fixtures::owned_ragged<float>>(random, c), future_attention{m.view});
}

TEST_CASE("future_attention: more dims than are taken together") {
  SEEDED(random);
  random_moments const m(random, 1, 515, 0.5f);
  check(test::layer<fixtures::owned_contiguous<half>>(random, {1, 1, 515, {10}}), future_attention{m.view});
}

TEST_CASE("future_attention: rows add up to 1 without sinks") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> const l(random, {1, 3, 20, {600}});
  random_moments const m(random, 3, 20, 1);
  for (auto const& row : test::scores_of(future_attention{m.view, 0}, l.input()))
    CHECK(std::accumulate(row.begin(), row.end(), 0.0) == doctest::Approx(1).epsilon(1e-5));
}

TEST_CASE("future_attention: NaN stays with its token, inf takes all, and nothing else is disturbed") {
  SEEDED(random);
  test::layer<fixtures::owned_contiguous<half>> l(random, {3, 2, 33, {30, 30, 30}});
  random_moments const m(random, 6, 33, 1);
  for (int h = 0; h < 6; ++h)
    for (int i = 0; i < 33; ++i)
      for (int j = 0; j < 33; ++j) m.view.covariance_of(1, h)[i * 33 + j] = i == j ? 1.0f : 0.0f;
  future_attention const e{m.view, 0};
  auto const before = test::scores_of(e, l.input());
  l.cache.view.run(1, 0, 7).keys[32] = half(test::nan);
  for (int t = 0; t < 30; ++t) l.cache.view.run(1, 2, t).keys[0] = half(test::nan);
  auto const said = test::scores_of(e, l.input());
  for (std::size_t row = 0; row < 6; ++row)
    for (std::size_t t = 0; t < 30; ++t) {
      CHECK(std::isnan(said[row][t]) == (row >= 4 || (row < 2 && t == 7)));
      if (row < 2 && t != 7) CHECK(said[row][t] >= before[row][t]);
      if (row == 2 || row == 3) CHECK(said[row][t] == before[row][t]);
    }

  future_attention mean_only = e;
  mean_only.future.covariance = nullptr;
  for (int i = 0; i < 33; ++i) m.view.mean_of(1, 2)[i] = std::abs(m.view.mean_of(1, 2)[i]) + 0.1f;
  l.cache.view.run(1, 1, 5).keys[3] = half(test::infinity);
  auto const infinite = test::scores_of(mean_only, l.input())[2];
  for (std::size_t t = 0; t < 30; ++t) CHECK(infinite[t] == (t == 5 ? 1.0f : 0.0f));
}

namespace {

/// kvpress's test layer: moments of its queries from position 4 on, turned 512 positions ahead.
struct layer_to_come : test::kvpress_layer {
  test::npy<float> frequency = test::read_npy<float>("in_inv_freq");
  std::vector<float> mean = std::vector<float>(size(sequences * heads * dim)),
                     covariance = std::vector<float>(size(sequences * heads * dim * dim));
  query_moments moments{mean.data(), covariance.data(), sequences, heads, dim};

  layer_to_come() : test::kvpress_layer(test::rotation::before) {
    REQUIRE(purekv::moments(cpu{}, view, 4, moments).ok());
    std::vector<std::int32_t> const first(size(sequences), tokens);
    REQUIRE(average_rotation(cpu{}, {frequency.data.data(), dim / 2}, first.data(), 512, moments).ok());
  }
};

}  // namespace

TEST_CASE("future_attention: kvpress's expected attention") {
  layer_to_come const layer;
  constexpr int sinks = 4;  // kvpress gives them its maximum
  future_attention e{layer.moments};
  group_mean<future_attention> mean;
  mean.estimator = e;
  layer.compare(layer.scores(mean), "score_expected_c1_v0", sinks);
  value_weighted<group_mean<future_attention>> weighted;
  weighted.estimator.estimator = e;
  layer.compare(layer.scores(weighted), "score_expected_c1_v1", sinks);
  weighted.estimator.estimator.epsilon = 0.01f;
  layer.compare(layer.scores(weighted), "score_expected_eps", sinks);
  e.future.covariance = nullptr;
  mean.estimator = e;
  layer.compare(layer.scores(mean), "score_expected_c0_v0", sinks);
  weighted.estimator.estimator = e;
  layer.compare(layer.scores(weighted), "score_expected_c0_v1", sinks);
}

TEST_CASE("future_attention: moments that do not fit the layer are refused, however it is wrapped") {
  layer_to_come const layer;
  value_weighted<group_mean<future_attention>> e;
  evidence const seen{dense{}, layer.view, nullptr, 0};
  fixtures::owned_scores out(layer.sequences, layer.kv_heads, layer.tokens);
  fixtures::owned_workspace work(score_workspace(cpu{}, e, seen, layer.cache.view));
  auto const says = [&](errc code, future_attention const& with) {
    e.estimator.estimator = with;
    CHECK(score(cpu{}, e, seen, layer.cache.view, {}, out.view, work.view()).code == code);
    CHECK(out.rest_untouched([](int, int) { return 0; }));
  };
  says(errc::bad_shape, {});
  query_moments m = layer.moments;
  m.mean = nullptr;
  says(errc::null_data, {m});
  m = layer.moments;
  m.sequences = 1;
  says(errc::mismatch, {m});
  m = layer.moments;
  m.heads = layer.kv_heads;
  says(errc::mismatch, {m});
  m = layer.moments;
  m.dim = 8;
  says(errc::mismatch, {m});
  says(errc::bad_policy, {layer.moments, -1});
  says(errc::bad_policy, {layer.moments, 4, -1});
  says(errc::bad_policy, {layer.moments, 4, test::nan});
  says(errc::bad_policy, {layer.moments, 4, 0, test::infinity});
}
