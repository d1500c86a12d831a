// SPDX-License-Identifier: Apache-2.0
#include <purekv/protect/any_of.hpp>
// The header under test comes first.
#include <doctest/doctest.h>
#include <purekv/protect/none.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/protect/sinks.hpp>
#include <purekv/protect/text.hpp>
#include <purekv/protect/within_window.hpp>

using namespace purekv;

TEST_CASE("any_of: what one of its parts pins") {
  any_of<sinks, recent> const both{{2}, {3}};
  static_assert(Protect<any_of<sinks, recent>>);
  for (int position = 0; position < 20; ++position) CHECK(both.pinned(position, 19) == (position < 2 || position > 16));
  segment const segments[] = {segment::video(0, 2, 2, 2), segment::text(8, 2), segment::video(10, 5, 1, 2)};
  any_of const three{sinks{1}, recent{1}, text{{segments, 3}}};
  for (int position = 0; position < 20; ++position)
    CHECK(three.pinned(position, 19) == (position == 0 || position == 19 || position == 8 || position == 9));
  CHECK(any_of<sinks, recent>{}.pinned(3, 100));
  CHECK(any_of<sinks, recent>{}.pinned(85, 100));
  CHECK(!any_of<sinks, recent>{}.pinned(84, 100));
  CHECK(!any_of<none>{}.pinned(0, 0));
}

TEST_CASE("any_of: evicts what one of its parts evicts, and nothing if none can") {
  static_assert(!EvictingProtect<any_of<sinks, recent>>);
  any_of<sinks, within_window<>> const p{{2}, {5}};
  for (int position = 0; position < 20; ++position) CHECK(p.evicted(position, 19) == (position <= 14));
}

TEST_CASE("any_of: the first of its parts that is refused says so") {
  CHECK(any_of<sinks, recent>{{2}, {3}}.check(9).ok());
  CHECK(any_of<sinks, recent>{{2}, {-3}}.check(9).code == errc::bad_policy);
  CHECK(any_of<sinks, recent>{{-2}, {3}}.check(9).code == errc::bad_policy);
  CHECK(any_of<text, sinks>{{}, {-1}}.check(9).code == errc::bad_positions);
}
