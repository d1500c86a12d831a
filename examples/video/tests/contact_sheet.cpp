// SPDX-License-Identifier: Apache-2.0
#include "../contact_sheet.hpp"
#include "../../engine/error.hpp"
#include "../question.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

namespace video {

namespace {

using engine::bad_input;

// 2 layers of 2 KV heads over 6 tokens: 0 is before the video, 7 and later are behind it.
kept_positions const kept{{{0, 1, 2, 7}, {1, 6}}, {{1, 2, 3, 8}, {1}}};
video_shape const shape{3, 1, 2};
std::vector<layer_group> const groups{{"all", {0, 1}}, {"upper", {1}}};

clip noise() {
  std::mt19937 random(std::random_device{}());
  clip c{shape, std::vector<std::uint8_t>(6 * 48)};
  for (std::uint8_t& value : c.pixels) value = static_cast<std::uint8_t>(random());
  return c;
}

}  // namespace

TEST_CASE("the share of a group's heads that keep a token") {
  CHECK(kept_shares(kept, groups[0], shape) == std::vector<double>{1, 0.5, 0.25, 0, 0, 0.25});
  CHECK(kept_shares(kept, groups[1], shape) == std::vector<double>{1, 0.5, 0.5, 0, 0, 0});
  CHECK_THROWS_WITH_AS(kept_shares(kept, {"top", {0, 2}}, shape), "group 'top': there is no layer 2 among 2",
                       bad_input);
  CHECK_THROWS_AS(kept_shares(kept, {"low", {-1}}, shape), bad_input);
  CHECK_THROWS_WITH_AS(kept_shares(kept, {"none", {}}, shape), "group 'none': there are no KV heads in it", bad_input);
  CHECK_THROWS_AS(kept_shares({{}}, {"none", {0}}, shape), bad_input);
}

TEST_CASE("the video as it is, and below it each group in the light of its shares") {
  clip const c = noise();
  picture const p = contact_sheet(c, kept, groups);
  // 3 frames of 8 x 4 pixels are enlarged as far as allowed: 8 times, gaps of 3 between frames, of 8 between rows.
  REQUIRE(p.width == 3 + 3 * (64 + 3));
  REQUIRE(p.height == 8 + 3 * (32 + 8));
  std::vector<std::uint8_t> expected(static_cast<std::size_t>(p.width * p.height * 3), 255);
  double const shares[3][6]{{}, {1, 0.5, 0.25, 0, 0, 0.25}, {1, 0.5, 0.5, 0, 0, 0}};
  for (int row = 0; row < 3; ++row)
    for (int token = 0; token < 6; ++token)
      for (int i = 0; i < 48; ++i) {
        int const value = c.pixels[static_cast<std::size_t>(token * 48 + i)];
        double const light = (100 + 155 * value / 255.0) * (0.15 + 0.85 * shares[row][token]);
        int const left = 3 + token / 2 * 67 + token % 2 * 32 + i / 3 % 4 * 8, top = 8 + row * 40 + i / 12 * 8;
        for (int y = top; y < top + 8; ++y)
          for (int x = left; x < left + 8; ++x)
            expected[static_cast<std::size_t>((y * p.width + x) * 3 + i % 3)] =
                static_cast<std::uint8_t>(row == 0 ? value : std::lround(light));
      }
  CHECK(p.rgb == expected);
}

TEST_CASE("a sheet is about 1600 pixels wide") {
  for (video_shape const& s : {video_shape{16, 6, 6}, {12, 8, 8}, {16, 3, 9}}) {
    CAPTURE(s.width);
    int const width =
        contact_sheet({s, std::vector<std::uint8_t>(static_cast<std::size_t>(s.tokens() * 48))}, {}, {}).width;
    CHECK(width <= 1600);
    CHECK(width > 1100);
  }
  picture const p = contact_sheet({{16, 6, 6}, std::vector<std::uint8_t>(576 * 48)}, {}, {});
  CHECK(p.width == 1587);
  CHECK(p.height == 112);
}

TEST_CASE("a caption says what the rows are") {
  CHECK(caption(noise(), kept, groups) ==
        "Rows from the top, bright: kept by every KV head, dark: evicted by all\n"
        "  the video\n"
        "  all: 33 % of the video kept\n"
        "  upper: 33 % of the video kept\n");
}

TEST_CASE("a video that is not of its shape") {
  clip c = noise();
  c.pixels.pop_back();
  CHECK_THROWS_WITH_AS(contact_sheet(c, kept, groups), "the video has 287 values, not 48 for each of 6 patches",
                       bad_input);
}

}  // namespace video
