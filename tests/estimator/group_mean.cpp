// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/group_mean.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

#include <purekv/estimator/accumulated_attention.hpp>

using namespace purekv;

TEST_CASE("group_mean: the mean of the query heads that share a KV head") {
  SEEDED(random);
  static_assert(group_mean<accumulated_attention>::rows == score_rows::kv_heads);
  static_assert(group_mean<accumulated_attention>::mass_queries == all_queries);
  test::check_estimator(random, group_mean<accumulated_attention>{}, [](auto const& l, int, int head, int t) {
    double sum = 0;
    for (int g = 0; g < l.shape.group; ++g) sum += l.mass_of(head * l.shape.group + g, t);
    return sum / l.shape.group;
  });
}

TEST_CASE("group_mean: NaN and inf") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {2, 2, 8, {9, 9}});
  l.mass_at(2, 3) = test::nan;
  l.mass_at(0, 4) = test::infinity;
  auto const said = test::scores_of(group_mean<accumulated_attention>{}, l.input());
  CHECK(std::isnan(said[1][3]));
  CHECK(!std::isnan(said[0][3]));
  CHECK(said[0][4] == test::infinity);
  l.mass_at(3, 3) = test::nan;
  CHECK(std::isnan(test::scores_of(group_mean<accumulated_attention>{}, l.input())[1][3]));
}
