// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/spatial_temporal.hpp>
// The header under test comes first.
#include "support/pattern_checks.hpp"

using namespace purekv;

namespace {

token_layout layout_of(std::vector<segment> const& segments) {
  return {segments.data(), static_cast<std::int32_t>(segments.size())};
}

// What each position is, written out one by one.
struct place {
  modality kind;
  int stream, frame, y, x;  // frame: counted over the whole layout
};

std::vector<place> places_of(std::vector<segment> const& segments) {
  std::vector<place> places;
  int frame = 0;
  for (segment const& s : segments)
    for (int t = 0; t < s.frames; ++t, ++frame)
      for (int y = 0; y < s.height; ++y)
        for (int x = 0; x < s.width; ++x) places.push_back({s.kind, s.stream, frame, y, x});
  return places;
}

bool expected(place const& q, place const& k, int k_position, int sinks) {
  auto const moving = [](place const& p) { return p.kind == modality::image || p.kind == modality::video; };
  if (k_position < sinks || !moving(q) || !moving(k)) return true;
  if (q.frame == k.frame) return true;
  return q.kind == k.kind && q.stream == k.stream && q.y == k.y && q.x == k.x;
}

}  // namespace

TEST_CASE("spatial_temporal: own frame, same place in earlier frames, text and sinks") {
  SEEDED(random);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<segment> const segments = test::random_segments(random, random.between(1, 9));
    std::vector<place> const places = places_of(segments);
    int const sinks = random.between(0, 6);
    spatial_temporal const pattern{layout_of(segments), sinks};
    int const n = static_cast<int>(places.size());
    REQUIRE(pattern.check(n - 1).ok());
    int wrong = 0;
    for (int q = 0; q < n; ++q)
      for (int k = 0; k <= q; ++k)
        wrong += pattern.visible(0, q, k) != expected(places[std::size_t(q)], places[std::size_t(k)], k, sinks);
    CHECK(wrong == 0);
  }
}

TEST_CASE("spatial_temporal: ranges agree with visible, for tiles and for any other range") {
  SEEDED(random);
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<segment> const segments = test::random_segments(random, random.between(1, 9));
    spatial_temporal const pattern{layout_of(segments), random.between(0, 40)};
    int const n = pattern.layout.tokens();
    test::check_all_ranges(random, pattern, n, n, 20);
    for (int q = 0; q < n;) {
      int const end = pattern.tile_end(q);
      REQUIRE((end > q && end <= n));
      int const first = random.between(q, end - 1);
      test::check_ranges(pattern, q, end - 1);
      test::check_ranges(pattern, first, random.between(first, end - 1));
      test::check_ranges(pattern, first, first);
      q = end;
    }
  }
}

TEST_CASE("spatial_temporal: VideoLLaMA2's layout costs what the formula says") {
  // Density of the union of frame and place (D1, r = 0) with P text tokens, T frames of S places, L text tokens:
  // [P(P+1)/2 + TSP + TS(S+1)/2 + S T(T-1)/2 + L(P+TS) + L(L+1)/2] / [N(N+1)/2]
  std::int64_t const P = 35, T = 9, S = 13 * 13, L = 40, N = P + T * S + L;
  std::vector<segment> const segments{segment::text(0, 35), segment::video(35, 9, 13, 13),
                                      segment::text(35 + 9 * 169, 40)};
  spatial_temporal const pattern{layout_of(segments)};
  std::int64_t pairs = 0, in_ranges = 0, ranges = 0;
  for (int q = 0; q < N; ++q) {
    for (int k = 0; k <= q; ++k) pairs += pattern.visible(0, q, k);
    for (test::key_range const& r : test::ranges_of(pattern, q, q)) {
      CHECK(r.full);
      in_ranges += r.last - r.first + 1;
      ++ranges;
    }
  }
  std::int64_t const formula =
      P * (P + 1) / 2 + T * S * P + T * S * (S + 1) / 2 + S * T * (T - 1) / 2 + L * (P + T * S) + L * (L + 1) / 2;
  CHECK(pairs == formula);
  CHECK(in_ranges == formula);
  CHECK(static_cast<double>(pairs) / (static_cast<double>(N) * (N + 1) / 2) == doctest::Approx(0.198).epsilon(0.005));
  CHECK(ranges < N * (2 + T));

  // A tile of 16 places in frame 8: text and sinks, the 16 places of 8 frames, its own frame.
  int const frame = 35 + 8 * 169;
  std::vector<test::key_range> const tile = test::ranges_of(pattern, frame + 32, frame + 47);
  REQUIRE(tile.size() == 10);
  CHECK((tile[0].first == 0 && tile[0].last == 34 && tile[0].full));
  CHECK((tile[3].first == 35 + 2 * 169 + 32 && tile[3].last == 35 + 2 * 169 + 47 && !tile[3].full));
  CHECK((tile[9].first == frame && tile[9].last == frame + 47 && tile[9].full));
}

TEST_CASE("spatial_temporal: tiles end with the frame or the segment") {
  std::vector<segment> const segments{segment::text(0, 7), segment::video(7, 3, 2, 4), segment::text(31, 5)};
  spatial_temporal const pattern{layout_of(segments)};
  CHECK(pattern.tile_end(0) == 7);
  CHECK(pattern.tile_end(7) == 15);
  CHECK(pattern.tile_end(14) == 15);
  CHECK(pattern.tile_end(15) == 23);
  CHECK(pattern.tile_end(30) == 31);
  CHECK(pattern.tile_end(31) == 36);
}

TEST_CASE("spatial_temporal: layouts that do not cover the positions, or make no sense, are refused") {
  std::vector<segment> segments{segment::text(0, 7), segment::video(7, 3, 2, 4)};
  spatial_temporal pattern{layout_of(segments)};
  CHECK(pattern.check(30).ok());
  CHECK(pattern.check(31).code == errc::bad_positions);
  CHECK(pattern.check(INT32_MAX).code == errc::bad_positions);
  CHECK(spatial_temporal{}.check(-1).ok());
  CHECK(spatial_temporal{}.check(0).code == errc::bad_positions);
  pattern.sinks = -1;
  CHECK(pattern.check(30).code == errc::bad_policy);
  pattern.sinks = 0;
  segments[1].begin = 8;
  CHECK(pattern.check(30).code == errc::bad_shape);
  segments[1].begin = 7;
  segments[1].height = 0;
  CHECK(pattern.check(6).code == errc::bad_shape);
  pattern.layout.segments = nullptr;
  CHECK(pattern.check(6).code == errc::null_data);

  // Workspace queries come before any check: what is not covered counts as text there.
  spatial_temporal const empty{};
  CHECK(empty.visible(0, 9, 3));
  test::check_ranges(empty, 3, 9);
}
