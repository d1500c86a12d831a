// SPDX-License-Identifier: Apache-2.0
#include <purekv/protect/text.hpp>
// The header under test comes first.
#include <doctest/doctest.h>

using namespace purekv;

TEST_CASE("text: every position that the layout calls text") {
  segment const segments[] = {
      segment::text(0, 7), segment::video(7, 2, 3, 4), segment{.kind = modality::audio, .begin = 31, .frames = 5},
      segment{.kind = modality::image, .begin = 36, .height = 2, .width = 2}, segment::text(40, 1)};
  text const pinned{{segments, 5}};
  for (int position = 0; position < 41; ++position)
    CHECK(pinned.pinned(position, 40) == (position < 7 || position == 40));
  CHECK(!pinned.pinned(41, 41));
  CHECK(pinned.check(40).ok());
  CHECK(pinned.check(41).code == errc::bad_positions);
  CHECK(text{}.check(0).code == errc::bad_positions);
  CHECK(text{{nullptr, 1}}.check(0).code == errc::null_data);
}
