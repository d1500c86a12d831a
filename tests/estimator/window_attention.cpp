// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/window_attention.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

using namespace purekv;

TEST_CASE("window_attention: the mass of the last queries, per query head") {
  SEEDED(random);
  static_assert(window_attention<16>::mass_queries == 16);
  static_assert(window_attention<1>::mass_queries == 1);
  test::check_estimator(
      random, window_attention<16>{}, [](auto const& l, int row, int, int t) { return l.mass_of(row, t); }, 0);
}
