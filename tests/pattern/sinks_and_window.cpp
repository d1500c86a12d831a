// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/sinks_and_window.hpp>
// The header under test comes first.
#include "support/pattern_checks.hpp"

using namespace purekv;

TEST_CASE("sinks_and_window: the first positions and the last") {
  sinks_and_window const pattern{4, 3};
  for (int q = 0; q < 50; ++q)
    for (int k = 0; k <= q; ++k) CHECK(pattern.visible(1, q, k) == (k <= 3 || k >= q - 2));
}

TEST_CASE("sinks_and_window: ranges agree with visible") {
  SEEDED(random);
  for (int sinks : {0, 1, 4, 70})
    for (int window : {1, 2, 16, 64, 500}) test::check_all_ranges(random, sinks_and_window{sinks, window}, 300, 100);
  test::check_ranges(sinks_and_window{INT32_MAX, INT32_MAX}, 5, 9);
}

TEST_CASE("sinks_and_window: negative sinks and windows below 1 are refused") {
  CHECK(sinks_and_window{0, 1}.check(9).ok());
  CHECK(sinks_and_window{-1, 1}.check(9).code == errc::bad_policy);
  CHECK(sinks_and_window{4, 0}.check(9).code == errc::bad_policy);
}
