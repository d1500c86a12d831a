// SPDX-License-Identifier: Apache-2.0
#include <purekv/layout.hpp>

#include "support/random.hpp"

#include <array>
#include <limits>
#include <string>
#include <type_traits>

using namespace purekv;

namespace {

token_layout view(std::vector<segment> const& segments) {
  return {segments.data(), static_cast<std::int32_t>(segments.size())};
}

std::vector<segment> random_segments(test::random& random) {
  std::vector<segment> segments;
  std::int32_t begin = 0;
  for (int n = random.between(1, 12); n > 0; --n) {
    if (random.between(0, 1) == 0)
      segments.push_back(segment::text(begin, random.between(1, 40)));
    else
      segments.push_back(segment::video(begin, random.between(1, 5), random.between(1, 6), random.between(1, 7)));
    begin = segments.back().end();
  }
  return segments;
}

}  // namespace

TEST_CASE("a segment counts its tokens") {
  segment const s = segment::video(35, 9, 13, 14);
  CHECK(s.kind == modality::video);
  CHECK(s.frame_tokens() == 182);
  CHECK(s.tokens() == 1638);
  CHECK(s.end() == 1673);
  CHECK(segment::text(4, 31).end() == 35);
  CHECK(segment::text(4, 31).kind == modality::text);
  static_assert(std::is_trivially_copyable_v<segment> && std::is_trivially_copyable_v<token_layout>);
}

TEST_CASE("every position of a layout lies where counting puts it") {
  SEEDED(random);
  for (int n = 0; n < 200; ++n) {
    std::vector<segment> const segments = random_segments(random);
    token_layout const layout = view(segments);
    REQUIRE(validate(layout).ok());
    std::int32_t position = 0;
    for (std::int32_t i = 0; i < layout.count; ++i) {
      segment const& s = segments[static_cast<std::size_t>(i)];
      for (std::int32_t t = 0; t < s.frames; ++t)
        for (std::int32_t y = 0; y < s.height; ++y)
          for (std::int32_t x = 0; x < s.width; ++x, ++position) {
            CAPTURE(position);
            REQUIRE(layout.covers(position));
            REQUIRE(layout.segment_of(position) == i);
            coordinates const c = layout.at(position);
            REQUIRE(c.segment == i);
            REQUIRE(c.t == t);
            REQUIRE(c.y == y);
            REQUIRE(c.x == x);
          }
    }
    CHECK(layout.tokens() == position);
    CHECK_FALSE(layout.covers(position));
    CHECK_FALSE(layout.covers(-1));
  }
}

TEST_CASE("an empty layout covers nothing") {
  token_layout const layout;
  CHECK(validate(layout).ok());
  CHECK(layout.tokens() == 0);
  CHECK_FALSE(layout.covers(0));
}

TEST_CASE("a layout works at compile time") {
  static constexpr std::array segments{segment::text(0, 35), segment::video(35, 9, 13, 13)};
  constexpr token_layout layout{segments.data(), 2};
  static_assert(layout.at(35 + 169 + 13 + 2).t == 1 && layout.at(35 + 169 + 13 + 2).y == 1);
}

TEST_CASE("validate names what is wrong") {
  auto code = [](std::vector<segment> const& segments) {
    status const s = validate(view(segments));
    CHECK((s.ok() || std::string(s.message).starts_with("token_layout: ")));
    return s.code;
  };
  CHECK(code({segment::text(0, 3), segment::text(3, 2)}) == errc::ok);
  CHECK(code({segment::text(0, 3), segment::text(4, 2)}) == errc::bad_shape);  // a gap
  CHECK(code({segment::text(0, 3), segment::text(2, 2)}) == errc::bad_shape);  // an overlap
  CHECK(code({segment::text(1, 3)}) == errc::bad_shape);                       // does not start at 0
  CHECK(code({segment::text(0, 0)}) == errc::bad_shape);
  CHECK(code({segment::text(0, -4)}) == errc::bad_shape);
  CHECK(code({segment::video(0, 0, 3, 3)}) == errc::bad_shape);
  CHECK(code({segment::video(0, 3, 0, 3)}) == errc::bad_shape);
  CHECK(code({segment::video(0, -1, -1, 3)}) == errc::bad_shape);
  CHECK(code({segment::video(0, 1 << 16, 1 << 8, 1 << 7)}) == errc::bad_shape);
  CHECK(code({segment::video(0, 1, 1 << 16, 1 << 16)}) == errc::bad_shape);
  CHECK(code({segment::text(0, std::numeric_limits<std::int32_t>::max()),
              segment::text(std::numeric_limits<std::int32_t>::max(), 1)}) == errc::bad_shape);
  CHECK(code({segment::text(0, std::numeric_limits<std::int32_t>::max())}) == errc::ok);
  CHECK(validate(token_layout{nullptr, 1}).code == errc::null_data);
  CHECK(validate(token_layout{nullptr, -1}).code == errc::bad_shape);
}
