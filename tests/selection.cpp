// SPDX-License-Identifier: Apache-2.0
#include <purekv/selection.hpp>

#include <doctest/doctest.h>

#include <array>
#include <type_traits>

using namespace purekv;

static_assert(std::is_trivially_copyable_v<selection>);

TEST_CASE("a selection per KV head has a row for each, one per layer a row for each sequence") {
  selection s;
  s.scope = selection_scope::kv_head;
  CHECK(s.row_of(2, 3, 4) == 11);
  s.scope = selection_scope::layer;
  CHECK(s.row_of(2, 3, 4) == 2);
}

TEST_CASE("rows are ragged") {
  std::array<std::int64_t, 4> offset{0, 2, 2, 5};
  std::array<std::int32_t, 5> token{1, 7, 0, 3, 4};
  selection const s{offset.data(), token.data(), 5, 3};
  CHECK(s.count(0) == 2);
  CHECK(s.count(1) == 0);
  CHECK(s.count(2) == 3);
  CHECK(s.tokens(0)[1] == 7);
  CHECK(s.tokens(2)[0] == 0);
}
