// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/recency.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

using namespace purekv;

TEST_CASE("recency: the position") {
  SEEDED(random);
  static_assert(recency::mass_queries == 0);
  test::check_estimator(
      random, recency{}, [](auto const& l, int, int head, int t) { return double(l.position(head, t)); }, 0);
}

TEST_CASE("recency: never descends, and is exact to 2^24") {
  fixtures::owned_contiguous<float> cache(1, 1, 6, 1);
  auto const zero = [](int) { return 0.0f; };
  for (int position : {0, (1 << 24) - 1, 1 << 24, INT32_MAX - 100, INT32_MAX - 1, INT32_MAX})
    fixtures::push(cache.view, 0, 0, position, zero, zero);
  layer_input<contiguous_cache<float>> const in{.cache = cache.view, .sequence = 0, .heads = 1};
  std::vector<float> const said = test::scores_of(recency{}, in)[0];
  CHECK(said[1] < said[2]);
  CHECK(said[2] == 16777216.0f);
  for (std::size_t t = 1; t < 6; ++t) CHECK(said[t - 1] <= said[t]);
}
