// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/bidirectional.hpp>
// The header under test comes first.
#include "support/pattern_checks.hpp"

#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

using namespace purekv;

namespace {

// Text 0-4, an image of 2 x 3 at 5-10, text 11-13, a video of two frames of 2 x 2 at 14-17 and 18-21, text 22-24.
segment const mixed[] = {segment::text(0, 5),
                         {.kind = modality::image, .begin = 5, .height = 2, .width = 3},
                         segment::text(11, 3),
                         segment::video(14, 2, 2, 2),
                         segment::text(22, 3)};

struct in_tiles_of_96 : dense {
  static constexpr std::int32_t tile_rows = 96;
};

int frame(int position) {
  if (position >= 5 && position <= 10) return 1;
  if (position >= 14 && position <= 17) return 2;
  return position >= 18 && position <= 21 ? 3 : 0;
}

int end_of_frame(int position) {
  int const ends[] = {position, 10, 17, 21};
  return ends[frame(position)];
}

}  // namespace

TEST_CASE("bidirectional: an image, or a frame of a video, sees itself whole; for the rest the pattern is causal") {
  bidirectional<sliding_window> const pattern{{mixed, 5}, {3}};
  for (int q = 0; q < 30; ++q) {
    CAPTURE(q);
    CHECK(pattern.last_visible(q) == end_of_frame(q));
    for (int k = 0; k < 30; ++k) {
      bool const together = frame(q) != 0 && frame(q) == frame(k);
      CHECK(pattern.visible(1, q, k) == (together || (k <= q && q - k < 3)));
    }
  }
}

TEST_CASE("bidirectional: queries of one tile belong to one frame, or to none") {
  bidirectional<> const pattern{{mixed, 5}};
  for (int q = 0; q < 25; ++q) {
    int const first_of_next[] = {q < 5 ? 5 : q < 14 ? 14 : INT32_MAX, 11, 18, 22};
    CHECK(pattern.tile_end(q) == first_of_next[frame(q)]);
  }
  bidirectional<spatial_temporal> const nested{{mixed, 5}, {{mixed, 5}}};
  CHECK(nested.tile_end(0) == 5);
  CHECK(nested.tile_end(23) == 25);
  static_assert(bidirectional<in_tiles_of_96>::tile_rows == 96);
}

TEST_CASE("bidirectional: ranges agree with visible") {
  SEEDED(random);
  for (int round = 0; round < 20; ++round) {
    auto const segments = test::random_segments(random, 12);
    token_layout const layout{segments.data(), 12};
    test::check_all_ranges(random, bidirectional<>{layout}, layout.tokens(), 20, 40);
    test::check_all_ranges(random, bidirectional<sliding_window>{layout, {random.between(1, 40)}}, layout.tokens(), 20,
                           40);
    test::check_all_ranges(random, bidirectional<spatial_temporal>{layout, {layout, 2}}, layout.tokens(), 20, 40);
    // As the planner asks: no further than the tile.
    bidirectional<sliding_window> const pattern{layout, {random.between(1, 40)}};
    for (int q = 0; q < layout.tokens();) {
      int const end = std::min(pattern.tile_end(q), layout.tokens());
      test::check_ranges(pattern, q, end - 1);
      q = end;
    }
  }
}

TEST_CASE("bidirectional: a frame is one full range") {
  bidirectional<> const pattern{{mixed, 5}};
  auto const ranges = test::ranges_of(pattern, 6, 8);
  REQUIRE(ranges.size() == 1);
  CHECK((ranges[0].first == 0 && ranges[0].last == 10 && ranges[0].full));
  auto const windowed = test::ranges_of(bidirectional<sliding_window>{{mixed, 5}, {2}}, 18, 21);
  REQUIRE(windowed.size() == 2);
  CHECK((windowed[0].first == 17 && windowed[0].last == 17 && !windowed[0].full));
  CHECK((windowed[1].first == 18 && windowed[1].last == 21 && windowed[1].full));
}

TEST_CASE("bidirectional: what it wraps keeps its own words") {
  auto const by_head = [](int head, int, int) { return head == 1; };
  using wrapped = bidirectional<custom<std::remove_const_t<decltype(by_head)>>>;
  static_assert(wrapped::per_head && Pattern<wrapped>);
  wrapped const pattern{{mixed, 5}, {by_head}};
  CHECK(!pattern.visible(0, 6, 4));
  CHECK(pattern.visible(1, 6, 4));
  CHECK(pattern.visible(0, 6, 9));
  CHECK(!pattern.visible(0, 3, 3));
  CHECK((bidirectional<sliding_window>{{mixed, 5}, {0}}.check(3).code == errc::bad_policy));
}

TEST_CASE("bidirectional: the layout must cover every position") {
  bidirectional<> const pattern{{mixed, 5}};
  CHECK(pattern.check(24).ok());
  CHECK(pattern.check(25).code == errc::bad_positions);
  segment const gap[] = {segment::text(0, 3), segment::text(4, 3)};
  CHECK(bidirectional<>{{gap, 2}}.check(2).code == errc::bad_shape);
}
