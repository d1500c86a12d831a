// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/across_model.hpp>
// The header under test comes first.
#include <doctest/doctest.h>
#include <purekv/budget/fixed.hpp>
#include <purekv/budget/ratio.hpp>

using namespace purekv;

TEST_CASE("across_model: keeps what it wraps keeps, and says that heads and layers share it") {
  across_model<ratio> const budget{{1, 5}};
  static_assert(Budget<across_model<ratio>>);
  static_assert(across_model<ratio>::heads_share && across_model<ratio>::layers_share);
  for (int tokens : {0, 1, 4, 100, INT32_MAX}) CHECK(budget.keep({tokens}) == ratio{1, 5}.keep({tokens}));
  CHECK(across_model<fixed>{{7}}.keep({100, 3, 30}) == 7);
}

TEST_CASE("across_model: no floor unless told; it may be 0, and is at most the keep") {
  CHECK(across_model<ratio>{{1, 5}}.floor(100) == 0);
  CHECK(across_model<ratio>{{1, 5}, 1, 2}.floor(9) == 4);
  CHECK(across_model<ratio>{{1, 5}, 1, 5}.floor(4) == 0);
  CHECK(across_model<ratio>{{1, 5}, 1, 1}.floor(INT32_MAX) == INT32_MAX);
}

TEST_CASE("across_model: floors outside [0, 1] and what it wraps are checked") {
  CHECK(across_model<ratio>{{1, 5}}.check().ok());
  CHECK(across_model<ratio>{{1, 5}, 1, 1}.check().ok());
  CHECK(across_model<ratio>{{1, 5}, -1, 5}.check().code == errc::bad_policy);
  CHECK(across_model<ratio>{{1, 5}, 6, 5}.check().code == errc::bad_policy);
  CHECK(across_model<ratio>{{1, 5}, 0, 0}.check().code == errc::bad_policy);
  CHECK(across_model<ratio>{{0, 5}}.check().code == errc::bad_policy);
}
