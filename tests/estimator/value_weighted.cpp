// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/value_weighted.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_mean.hpp>

using namespace purekv;

TEST_CASE("value_weighted: the score times the norm of the value") {
  SEEDED(random);
  static_assert(value_weighted<accumulated_attention>::rows == score_rows::heads);
  test::check_estimator(random, value_weighted<accumulated_attention>{}, [](auto const& l, int row, int head, int t) {
    return l.mass_of(row, t) * l.value_norm(head, t);
  });
  test::check_estimator(random, value_weighted<group_mean<accumulated_attention>>{},
                        [](auto const& l, int, int head, int t) {
                          double sum = 0;
                          for (int g = 0; g < l.shape.group; ++g) sum += l.mass_of(head * l.shape.group + g, t);
                          return sum / l.shape.group * l.value_norm(head, t);
                        });
}

TEST_CASE("value_weighted: a larger value never lowers a score") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {1, 1, 16, {20}});
  auto const before = test::scores_of(value_weighted<accumulated_attention>{}, l.input())[0];
  for (int t = 0; t < 20; ++t)
    for (int i = 0; i < 16; ++i) l.cache.view.run(1, 0, t).values[i] *= 3;
  auto const after = test::scores_of(value_weighted<accumulated_attention>{}, l.input())[0];
  for (std::size_t t = 0; t < 20; ++t) CHECK(after[t] >= before[t]);
}

TEST_CASE("value_weighted: NaN and inf in values stay with their token") {
  SEEDED(random);
  test::layer<fixtures::owned_contiguous<half>> l(random, {2, 3, 70, {9, 9}});
  l.cache.view.run(1, 0, 3).values[69] = half(test::nan);
  l.cache.view.run(1, 1, 4).values[1] = half(-test::infinity);
  l.mass_at(0, 5) = 0;
  auto const said = test::scores_of(value_weighted<accumulated_attention>{}, l.input());
  for (int row = 0; row < 6; ++row)
    for (int t = 0; t < 9; ++t) {
      float const score = said[static_cast<std::size_t>(row)][static_cast<std::size_t>(t)];
      CHECK(std::isnan(score) == (row < 3 && t == 3));
      CHECK(std::isinf(score) == (row >= 3 && t == 4));
    }
  CHECK(said[0][5] == 0);
}
