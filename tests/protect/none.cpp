// SPDX-License-Identifier: Apache-2.0
#include <purekv/protect/none.hpp>
// The header under test comes first.
#include <doctest/doctest.h>

using namespace purekv;

TEST_CASE("none: nothing is pinned") {
  for (int position : {0, 7, 100}) CHECK(!none{}.pinned(position, 100));
  CHECK(none{}.check(100).ok());
}
