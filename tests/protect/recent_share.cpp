// SPDX-License-Identifier: Apache-2.0
#include <purekv/protect/recent_share.hpp>
// The header under test comes first.
#include <doctest/doctest.h>

using namespace purekv;

TEST_CASE("recent_share: the newest share of all positions, rounded down") {
  for (int last : {0, 5, 9, 40})
    for (recent_share const p : {recent_share{0, 3}, recent_share{1, 3}, recent_share{1, 10}, recent_share{7, 7}}) {
      int const expected = (last + 1) * p.numerator / p.denominator;
      for (int position = 0; position <= last; ++position)
        CHECK(p.pinned(position, last) == (position >= last + 1 - expected));
    }
  CHECK(recent_share{INT32_MAX, INT32_MAX}.pinned(0, INT32_MAX));
  CHECK(!recent_share{1, INT32_MAX}.pinned(INT32_MAX - 1, INT32_MAX));
}

TEST_CASE("recent_share: shares outside [0, 1] are refused") {
  CHECK(recent_share{}.check(19).ok());
  CHECK(recent_share{0, 1}.check(19).ok());
  CHECK(recent_share{-1, 2}.check(19).code == errc::bad_policy);
  CHECK(recent_share{3, 2}.check(19).code == errc::bad_policy);
  CHECK(recent_share{0, 0}.check(19).code == errc::bad_policy);
}
