// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/across_heads.hpp>
// The header under test comes first.
#include <doctest/doctest.h>
#include <purekv/budget/fixed.hpp>
#include <purekv/budget/ratio.hpp>

using namespace purekv;

TEST_CASE("across_heads: keeps what it wraps keeps, and says that heads share it") {
  across_heads<ratio> const budget{{1, 5}};
  static_assert(Budget<across_heads<ratio>>);
  static_assert(across_heads<ratio>::heads_share);
  for (int tokens : {0, 1, 4, 100, INT32_MAX}) CHECK(budget.keep({tokens}) == ratio{1, 5}.keep({tokens}));
  CHECK(across_heads<fixed>{{7}}.keep({100, 3, 30}) == 7);
}

TEST_CASE("across_heads: the floor is a fifth of the keep unless told, at least 1, at most the keep") {
  across_heads<ratio> const budget{{1, 5}};
  CHECK(budget.floor(100) == 20);
  CHECK(budget.floor(9) == 1);
  CHECK(budget.floor(1) == 1);
  CHECK(budget.floor(0) == 0);
  CHECK(across_heads<ratio>{{1, 5}, 1, 2}.floor(9) == 4);
  CHECK(across_heads<ratio>{{1, 5}, 0, 1}.floor(9) == 1);
  CHECK(across_heads<ratio>{{1, 5}, 1, 1}.floor(INT32_MAX) == INT32_MAX);
}

TEST_CASE("across_heads: floors outside [0, 1] and what it wraps are checked") {
  CHECK(across_heads<ratio>{{1, 5}}.check().ok());
  CHECK(across_heads<ratio>{{1, 5}, 0, 1}.check().ok());
  CHECK(across_heads<ratio>{{1, 5}, -1, 5}.check().code == errc::bad_policy);
  CHECK(across_heads<ratio>{{1, 5}, 6, 5}.check().code == errc::bad_policy);
  CHECK(across_heads<ratio>{{1, 5}, 0, 0}.check().code == errc::bad_policy);
  CHECK(across_heads<ratio>{{0, 5}}.check().code == errc::bad_policy);
}
