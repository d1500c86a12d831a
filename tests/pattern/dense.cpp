// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/dense.hpp>

#include <doctest/doctest.h>

TEST_CASE("dense shows every key, in one full range up to the last query") {
  purekv::dense const pattern{};
  for (int q : {0, 1, 77}) {
    for (int k = 0; k <= q; ++k) CHECK(pattern.visible(3, q, k));
    int ranges = 0;
    pattern.runs(q / 2, q, [&](int first, int last, bool full) {
      ++ranges;
      CHECK(first == 0);
      CHECK(last == q);
      CHECK(full);
    });
    CHECK(ranges == 1);
  }
}
