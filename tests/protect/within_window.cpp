// SPDX-License-Identifier: Apache-2.0
#include <purekv/protect/within_window.hpp>
// The header under test comes first.
#include <doctest/doctest.h>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/protect/sinks.hpp>

using namespace purekv;

TEST_CASE("within_window: evicts what neither the newest token nor any later one sees") {
  for (int window : {1, 2, 7, 100})
    for (int last : {0, 1, 6, 7, 50}) {
      within_window<> const p{window};
      for (int position = 0; position <= last; ++position) {
        CAPTURE(position);
        CHECK(p.evicted(position, last) == !sliding_window{window}.visible(0, last, position));
        if (p.evicted(position, last)) CHECK(!sliding_window{window}.visible(0, last + 1, position));
      }
    }
  CHECK(!within_window<>{}.evicted(0, INT32_MAX - 1));
}

TEST_CASE("within_window: pins what its inner protect pins") {
  within_window<sinks> const p{10, {4}};
  for (int position = 0; position < 30; ++position) CHECK(p.pinned(position, 29) == (position < 4));
}

TEST_CASE("within_window: no window, and what its inner protect refuses") {
  CHECK(within_window<sinks>{1, {4}}.check(9).ok());
  CHECK(within_window<sinks>{0, {4}}.check(9).code == errc::bad_policy);
  CHECK(within_window<sinks>{1, {-4}}.check(9).code == errc::bad_policy);
}
