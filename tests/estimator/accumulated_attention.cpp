// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/accumulated_attention.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

using namespace purekv;

TEST_CASE("accumulated_attention: the mass of all queries, per query head") {
  SEEDED(random);
  static_assert(accumulated_attention::mass_queries == all_queries);
  static_assert(!has_signed_scores<accumulated_attention>());
  test::check_estimator(
      random, accumulated_attention{}, [](auto const& l, int row, int, int t) { return l.mass_of(row, t); }, 0);
}

TEST_CASE("accumulated_attention: NaN and inf pass as they are") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {2, 2, 8, {9, 9}});
  l.mass_at(1, 3) = test::nan;
  l.mass_at(2, 4) = test::infinity;
  auto const said = test::scores_of(accumulated_attention{}, l.input());
  CHECK(std::isnan(said[1][3]));
  CHECK(said[2][4] == test::infinity);
}
