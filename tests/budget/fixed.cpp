// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/fixed.hpp>
// The header under test comes first.
#include <doctest/doctest.h>

using namespace purekv;

TEST_CASE("fixed: so many tokens, or all there are") {
  CHECK(fixed{64}.keep({1000}) == 64);
  CHECK(fixed{64}.keep({64}) == 64);
  CHECK(fixed{64}.keep({63}) == 63);
  CHECK(fixed{1}.keep({1}) == 1);
  CHECK(fixed{64}.keep({0}) == 0);
  CHECK(fixed{INT32_MAX}.keep({INT32_MAX}) == INT32_MAX);
}

TEST_CASE("fixed: less than one token is refused") {
  CHECK(fixed{1}.check().ok());
  CHECK(fixed{0}.check().code == errc::bad_policy);
  CHECK(fixed{-1}.check().code == errc::bad_policy);
  CHECK(fixed{}.check().code == errc::bad_policy);
}
