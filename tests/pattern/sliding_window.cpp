// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/sliding_window.hpp>
// The header under test comes first.
#include "support/pattern_checks.hpp"

using namespace purekv;

TEST_CASE("sliding_window: a query sees itself and the positions before it, window in all") {
  for (int window : {1, 2, 7, 64}) {
    sliding_window const pattern{window};
    for (int q = 0; q < 100; ++q) {
      int seen = 0;
      for (int k = 0; k <= q; ++k) seen += pattern.visible(3, q, k);
      CHECK(seen == std::min(window, q + 1));
      CHECK(pattern.visible(0, q, q));
    }
  }
  CHECK(sliding_window{INT32_MAX}.visible(0, INT32_MAX, 1));
}

TEST_CASE("sliding_window: ranges agree with visible") {
  SEEDED(random);
  for (int window : {1, 2, 3, 16, 63, 64, 65, 500}) test::check_all_ranges(random, sliding_window{window}, 300, 100);
  CHECK(test::ranges_of(sliding_window{INT32_MAX}, 7, 9).size() == 1);
  std::vector<test::key_range> const ranges = test::ranges_of(sliding_window{10}, 100, 103);
  REQUIRE(ranges.size() == 2);
  CHECK((ranges[0].first == 91 && ranges[0].last == 93 && !ranges[0].full));
  CHECK((ranges[1].first == 94 && ranges[1].last == 103 && ranges[1].full));
}

TEST_CASE("sliding_window: a window below 1 is refused") {
  CHECK(sliding_window{1}.check(1000).ok());
  CHECK(sliding_window{0}.check(1000).code == errc::bad_policy);
  CHECK(sliding_window{-5}.check(1000).code == errc::bad_policy);
}
