// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/head_mean.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_max.hpp>
#include <purekv/estimator/pooled.hpp>

using namespace purekv;

TEST_CASE("head_mean: the mean of all query heads of the layer, the same for every KV head") {
  SEEDED(random);
  static_assert(head_mean<accumulated_attention>::rows == score_rows::kv_heads);
  static_assert(head_mean<accumulated_attention>::needs_equal_heads);
  static_assert(pooled<head_mean<accumulated_attention>, 3>::needs_equal_heads);
  test::check_estimator(random, head_mean<accumulated_attention>{}, [](auto const& l, int, int, int t) {
    double sum = 0;
    for (int h = 0; h < l.heads(); ++h) sum += l.mass_of(h, t);
    return sum / l.heads();
  });
}

TEST_CASE("head_mean: reduces KV heads too") {
  SEEDED(random);
  test::check_estimator(random, head_mean<group_max<accumulated_attention>>{}, [](auto const& l, int, int, int t) {
    double sum = 0;
    for (int head = 0; head < l.shape.kv_heads; ++head) {
      double most = -oracle::infinity;
      for (int g = 0; g < l.shape.group; ++g) most = std::max(most, l.mass_of(head * l.shape.group + g, t));
      sum += most;
    }
    return sum / l.shape.kv_heads;
  });
}

TEST_CASE("head_mean: NaN") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {2, 2, 8, {9, 9}, true});
  l.mass_at(2, 3) = test::nan;
  auto const said = test::scores_of(head_mean<accumulated_attention>{}, l.input());
  CHECK(std::isnan(said[0][3]));
  CHECK(std::isnan(said[1][3]));
  CHECK(!std::isnan(said[0][4]));
  for (int h = 0; h < 4; ++h) l.mass_at(h, 3) = test::nan;
  CHECK(std::isnan(test::scores_of(head_mean<accumulated_attention>{}, l.input())[1][3]));
}
