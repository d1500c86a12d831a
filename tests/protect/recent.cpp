// SPDX-License-Identifier: Apache-2.0
#include <purekv/protect/recent.hpp>
// The header under test comes first.
#include <doctest/doctest.h>

using namespace purekv;

TEST_CASE("recent: the newest positions") {
  for (int last : {0, 5, 19, 40})
    for (int tokens : {0, 1, 3, 16, 100, INT32_MAX}) {
      int pinned = 0;
      for (int position = 0; position <= last; ++position) pinned += recent{tokens}.pinned(position, last);
      CHECK(pinned == (tokens <= last ? tokens : last + 1));
      CHECK(recent{tokens}.pinned(last, last) == (tokens > 0));
    }
  CHECK(recent{}.tokens == 16);
  CHECK(recent{0}.check(19).ok());
  CHECK(recent{-1}.check(19).code == errc::bad_policy);
}
