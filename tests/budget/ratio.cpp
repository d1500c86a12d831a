// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/ratio.hpp>
// The header under test comes first.
#include "support/random.hpp"

using namespace purekv;

TEST_CASE("ratio: the floor of the exact share, at least 1") {
  CHECK(ratio{1, 10}.keep({10}) == 1);      // floor(10 * (1 - 0.9)) in binary fractions is 0
  CHECK(ratio{1, 10}.keep({100}) == 10);    // ... 9
  CHECK(ratio{1, 10}.keep({1000}) == 100);  // ... 99
  CHECK(ratio{1, 5}.keep({4}) == 1);
  CHECK(ratio{1, 5}.keep({0}) == 0);
  CHECK(ratio{2, 3}.keep({7}) == 4);
  CHECK(ratio{1, 1}.keep({7}) == 7);
  CHECK(ratio{INT32_MAX, INT32_MAX}.keep({INT32_MAX}) == INT32_MAX);
  CHECK(ratio{1, INT32_MAX}.keep({INT32_MAX}) == 1);
}

TEST_CASE("ratio: keep is the largest count within the share") {
  SEEDED(random);
  for (int trial = 0; trial < 2000; ++trial) {
    int const denominator = random.between(1, INT32_MAX), numerator = random.between(1, denominator);
    int const tokens = random.between(1, random.between(0, 1) == 0 ? 100 : INT32_MAX);
    std::int64_t const keep = ratio{numerator, denominator}.keep({tokens});
    CAPTURE(tokens);
    CHECK((keep >= 1 && keep <= tokens));
    CHECK((keep + 1) * denominator > std::int64_t{tokens} * numerator);
    if (keep > 1) CHECK(keep * denominator <= std::int64_t{tokens} * numerator);
  }
}

TEST_CASE("ratio: compression(n) keeps an n-th") {
  CHECK(ratio::compression(5).keep({1000}) == 200);
  CHECK(ratio::compression(30).keep({2000}) == 66);
}

TEST_CASE("ratio: shares outside (0, 1] are refused") {
  CHECK(ratio{1, 5}.check().ok());
  CHECK(ratio{5, 5}.check().ok());
  CHECK(ratio{}.check().ok());
  CHECK(ratio{0, 5}.check().code == errc::bad_policy);
  CHECK(ratio{-1, 5}.check().code == errc::bad_policy);
  CHECK(ratio{6, 5}.check().code == errc::bad_policy);
  CHECK(ratio{1, 0}.check().code == errc::bad_policy);
  CHECK(ratio{-2, -3}.check().code == errc::bad_policy);
  CHECK(ratio::compression(0).check().code == errc::bad_policy);
  CHECK(ratio::compression(-4).check().code == errc::bad_policy);
}
