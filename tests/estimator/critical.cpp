// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/critical.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"
#include "support/kvpress.hpp"

#include <purekv/budget/fixed.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_max.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/estimator/pooled.hpp>
#include <purekv/estimator/reconstruction.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/score.hpp>

using namespace purekv;
using fixtures::size;

namespace {

double const first_stage = std::numeric_limits<float>::max();

/// A projection whose rows lie apart, NaN between them.
template <class T> struct random_projection {
  std::vector<T> weight;
  output_projection<T> view;
  random_projection(test::random& r, int hidden, int heads, int dim) {
    std::ptrdiff_t const stride = heads * dim + r.between(0, 3);
    weight.assign(size(hidden * stride), fixtures::nan_of<T>());
    for (int i = 0; i < hidden; ++i)
      for (int j = 0; j < heads * dim; ++j) weight[size(i * stride + j)] = T(r.normal());
    view = {weight.data(), hidden, heads, dim, stride};
  }
};

/// mean over the group of |W_g v|_1, and how much of it float dot products may miss.
struct projected_norm {
  double value = 0, bound = 0;
};

template <class Layer, class T>
projected_norm projected(Layer const& l, output_projection<T> const& w, int kv_head, int t) {
  projected_norm norm;
  for (int g = kv_head * l.shape.group; g < (kv_head + 1) * l.shape.group; ++g)
    for (int r = 0; r < w.hidden; ++r) {
      double y = 0, magnitude = 0;
      for (int i = 0; i < l.shape.value_width(); ++i) {
        double const x =
            oracle::exact(w.weight[r * w.row_stride + g * l.shape.value_width() + i]) * l.value_of(kv_head, t, i);
        y += x;
        magnitude += std::abs(x);
      }
      norm.value += std::abs(y) / l.shape.group;
      norm.bound += oracle::eps * (4 + std::sqrt(l.shape.value_width())) * magnitude / l.shape.group;
    }
  return norm;
}

/// Compares critical<E> with the formula, E's own scores given.
template <class E, class B, class T, class Layer> void check(critical<E, B, T> const& c, Layer const& l) {
  auto const inner = test::scores_of(c.estimator, l.input()), said = test::scores_of(c, l.input());
  for (int h = 0; h < l.shape.kv_heads; ++h) {
    std::vector<double> scores(inner[size(h)].begin(), inner[size(h)].end());
    int const keep = l.length(h) == 0 ? 0 : c.budget.keep({l.length(h)});
    auto const best =
        oracle::select_head(scores, std::vector<bool>(scores.size(), false),
                            static_cast<int>(std::int64_t{keep} * c.share_numerator / c.share_denominator));
    for (int t = 0; t < l.length(h); ++t) {
      CAPTURE(h);
      CAPTURE(t);
      bool const pinned = std::binary_search(best.begin(), best.end(), t);
      projected_norm const norm = projected(l, c.projection, h, t);
      double const factor = scores[size(t)] + static_cast<double>(c.epsilon);
      double const expected = pinned ? first_stage : factor * norm.value;
      double const bound = pinned ? 0 : factor * norm.bound + 4 * oracle::eps * expected;
      CAPTURE(expected);
      CAPTURE(said[size(h)][size(t)]);
      CHECK(std::abs(static_cast<double>(said[size(h)][size(t)]) - expected) <= bound);
    }
  }
}

}  // namespace

TEST_CASE("critical: the best half of the budget, the others times the norm of the projected value") {
  SEEDED(random);
  using mean = group_mean<accumulated_attention>;
  static_assert(critical<mean, ratio>::rows == score_rows::kv_heads);
  static_assert(critical<mean, ratio>::mass_queries == all_queries);
  static_assert(critical<group_max<reconstruction>, ratio>::mass_by == mass_reduction::maximum);
  for (test::layer_case const& c : test::layer_cases(random, false)) {
    CAPTURE(c.group);
    CAPTURE(c.dim);
    int const heads = c.kv_heads * c.group, hidden = random.between(1, 30);
    random_projection<float> const w(random, hidden, heads, c.value_width());
    random_projection<half> const narrow(random, hidden, heads, c.value_width());
    if (c.group == 1)
      check(critical<mean, ratio>{.budget = {1, 3}, .projection = w.view},
            test::layer<fixtures::owned_ragged<float>>(random, c));
    if (c.group == 4)
      check(critical<mean, fixed, half>{.budget = {9}, .projection = narrow.view},
            test::layer<fixtures::owned_contiguous<bfloat16>>(random, c));
    if (c.group == 7)
      check(
          critical<pooled<group_max<accumulated_attention>, 3>, ratio>{
              .budget = {1, 2}, .projection = w.view, .share_numerator = 1, .share_denominator = 4},
          test::layer<fixtures::owned_contiguous<half>>(random, c));
    if (c.group == 8)
      check(critical<mean, ratio, half>{.budget = {1, 1},
                                        .projection = narrow.view,
                                        .share_numerator = random.between(0, 1),
                                        .share_denominator = 1,
                                        .epsilon = 0.5f},
            test::layer<fixtures::owned_ragged<float>>(random, c));
  }
}

TEST_CASE("critical: more tokens, rows and dims than are taken together") {
  SEEDED(random);
  using mean = group_mean<accumulated_attention>;
  random_projection<half> const w(random, 131, 4, 20), wide(random, 9, 2, 521);
  check(critical<mean, fixed, half>{.budget = {12}, .projection = w.view},
        test::layer<fixtures::owned_ragged<half>>(random, {2, 2, 20, {150, 64}}));
  check(critical<mean, fixed, half>{.budget = {4}, .projection = wide.view},
        test::layer<fixtures::owned_contiguous<float>>(random, {1, 2, 521, {11}}));
}

TEST_CASE("critical: a larger value never lowers a score") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {2, 2, 16, {40, 31}});
  random_projection<float> const w(random, 20, 4, 16);
  critical<group_mean<accumulated_attention>, ratio> const c{.budget = {1, 2}, .projection = w.view};
  auto const before = test::scores_of(c, l.input());
  for (int h = 0; h < 2; ++h)
    for (int t = 0; t < l.length(h); ++t)
      for (int i = 0; i < 16; ++i) l.cache.view.run(1, h, t).values[i] *= 3;
  auto const after = test::scores_of(c, l.input());
  for (std::size_t h = 0; h < 2; ++h)
    for (std::size_t t = 0; t < before[h].size(); ++t) CHECK(after[h][t] >= before[h][t]);
}

TEST_CASE("critical: NaN scores come last in the first stage, NaN values stay with their token") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {1, 1, 8, {10}});
  for (int t = 0; t < 10; ++t) l.mass_at(0, t) = t % 2 == 0 ? test::nan : static_cast<float>(t);
  l.cache.view.run(1, 0, 1).values[3] = test::nan;
  l.cache.view.run(1, 0, 3).values[3] = test::infinity;
  random_projection<float> const w(random, 20, 1, 8);
  auto const said = test::scores_of(
      critical<group_mean<accumulated_attention>, fixed>{.budget = {6}, .projection = w.view}, l.input())[0];
  for (std::size_t t : {5u, 7u, 9u}) CHECK(said[t] == std::numeric_limits<float>::max());
  for (std::size_t t : {0u, 1u, 2u, 4u, 6u, 8u}) CHECK(std::isnan(said[t]));
  CHECK(std::isinf(said[3]));
}

namespace {

/// Scores from a table of the caller's: [rows, tokens].
struct scores_given {
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  float const* data = nullptr;
  static constexpr std::int64_t scratch(layer_shape) { return 0; }
  void score(Team auto const& team, auto const& in, score_out out, float*) const {
    for (int h = 0; h < in.kv_heads(); ++h)
      for_share(team, in.tokens(h),
                [&](int t) { out.row(h)[t] = data[(in.sequence * in.kv_heads() + h) * in.tokens(h) + t]; });
    team.sync();
  }
};

struct projected_layer : test::kvpress_layer {
  test::npy<float> weight = test::read_npy<float>("in_o_proj"), snapkv = test::read_npy<float>("score_snapkv_w8_k5");
  critical<scores_given, ratio> c{.estimator = {snapkv.data.data()},
                                  .budget = {1, 2},
                                  .projection = {weight.data.data(), weight.size(0), heads, dim, weight.size(1)}};
  projected_layer() : test::kvpress_layer(test::rotation::after) {}
};

}  // namespace

TEST_CASE("critical: kvpress's CriticalKV over SnapKV") {
  projected_layer const layer;
  layer.compare(layer.scores(layer.c), "score_criticalkv_on_snapkv");
}

TEST_CASE("critical: a projection that does not fit the layer, and shares that make no sense, are refused") {
  projected_layer const layer;
  evidence const seen{dense{}, layer.view, nullptr, 0};
  fixtures::owned_scores out(layer.sequences, layer.kv_heads, layer.tokens);
  fixtures::owned_workspace work(score_workspace(cpu{}, layer.c, seen, layer.cache.view));
  auto const says = [&](errc code, auto const& change) {
    critical<scores_given, ratio> c = layer.c;
    change(c);
    CHECK(score(cpu{}, c, seen, layer.cache.view, {}, out.view, work.view()).code == code);
    CHECK(out.rest_untouched([](int, int) { return 0; }));
  };
  says(errc::null_data, [](auto& c) { c.projection = {}; });
  says(errc::mismatch, [](auto& c) { c.projection.heads = 2; });
  says(errc::mismatch, [](auto& c) { c.projection.dim = 32; });
  says(errc::bad_shape, [](auto& c) { c.projection.hidden = 0; });
  says(errc::bad_shape, [](auto& c) { c.projection.row_stride = 63; });
  says(errc::bad_policy, [](auto& c) { c.share_numerator = -1; });
  says(errc::bad_policy, [](auto& c) { c.share_numerator = 3; });
  says(errc::bad_policy, [](auto& c) { c.share_denominator = 0; });
  says(errc::bad_policy, [](auto& c) { c.epsilon = -1; });
  says(errc::bad_policy, [](auto& c) { c.budget = {0, 1}; });
}
