// SPDX-License-Identifier: Apache-2.0
#include <purekv/protect/sinks.hpp>
// The header under test comes first.
#include <doctest/doctest.h>

using namespace purekv;

TEST_CASE("sinks: the first positions") {
  for (int position = 0; position < 20; ++position) {
    CHECK(sinks{}.pinned(position, 19) == (position <= 3));
    CHECK(sinks{7}.pinned(position, 19) == (position <= 6));
    CHECK(!sinks{0}.pinned(position, 19));
    CHECK(sinks{1000}.pinned(position, 19));
  }
  CHECK(sinks{0}.check(19).ok());
  CHECK(sinks{-1}.check(19).code == errc::bad_policy);
}
