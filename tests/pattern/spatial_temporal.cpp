// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/spatial_temporal.hpp>
// The header under test comes first.
#include "support/pattern_checks.hpp"

#include <cmath>
#include <map>
#include <utility>

using namespace purekv;

namespace {

token_layout layout_of(std::vector<segment> const& segments) {
  return {segments.data(), static_cast<std::int32_t>(segments.size())};
}

// What each position is, written out one by one.
struct place {
  modality kind;
  int stream, frame, number, y, x;  // frame: counted over the whole layout; number: within its stream
  int height, width;                // of its frame
  double middle, dt;                // of its time
};

std::vector<place> places_of(std::vector<segment> const& segments) {
  std::vector<place> places;
  std::map<std::pair<modality, int>, int> seen;
  int frame = 0;
  for (segment const& s : segments)
    for (int t = 0; t < s.frames; ++t, ++frame) {
      int const number = seen[{s.kind, s.stream}]++;
      for (int y = 0; y < s.height; ++y)
        for (int x = 0; x < s.width; ++x)
          places.push_back({s.kind, s.stream, frame, number, y, x, s.height, s.width,
                            double{s.t0} + (t + 0.5) * double{s.dt}, s.dt});
    }
  return places;
}

// The cells of one axis that are seen from `own`, of `count` there are.
bool in_window(int own, int other, int count, std::int64_t radius, bool clamped) {
  if (radius >= 2 * count + own) return true;
  std::int64_t first = own - radius;
  if (clamped) {  // of all windows within the frame the one that moved least; all there is if none fits
    std::int64_t best = -1;
    for (std::int64_t f = 0; f + 2 * radius < count; ++f)
      if (best < 0 || std::abs(f - first) < std::abs(best - first)) best = f;
    first = best < 0 ? 0 : best;
  }
  return first <= other && other <= first + 2 * radius;
}

bool near(spatial_temporal const& p, place const& q, place const& k, int radius) {
  auto const axis = [&](int a, int b, int size, int unit) {
    return in_window(a / unit, b / unit, (size + unit - 1) / unit, radius, p.clamped);
  };
  return axis(q.y, k.y, k.height, p.cell.height) && axis(q.x, k.x, k.width, p.cell.width);
}

bool expected(spatial_temporal const& p, place const& q, place const& k, int k_position);

// Whether a pair belongs to the temporal part, seen or not.
bool in_temporal_part(spatial_temporal const& p, place const& q, place const& k, int k_position) {
  auto const moving = [](place const& a) { return a.kind == modality::image || a.kind == modality::video; };
  return k_position >= p.sinks && moving(q) && moving(k) && q.kind == k.kind && q.stream == k.stream &&
         !(p.first_frame && k.number == 0) && q.number / p.cell.frames - k.number / p.cell.frames > p.spatial_frames;
}

bool expected_of_part(spatial_temporal const& p, place const& q, place const& k, int k_position) {
  bool const seen = expected(p, q, k, k_position);
  if (p.temporal == temporal_part::included) return seen;
  return seen && in_temporal_part(p, q, k, k_position) == (p.temporal == temporal_part::alone);
}

bool expected(spatial_temporal const& p, place const& q, place const& k, int k_position) {
  auto const moving = [](place const& a) { return a.kind == modality::image || a.kind == modality::video; };
  auto const times_meet = [&] { return std::abs(q.middle - k.middle) <= std::max(q.dt, k.dt) / 2 + p.time_reach; };
  if (k_position < p.sinks) return true;
  if (!moving(q) || !moving(k)) {
    bool const audio = q.kind == modality::audio || k.kind == modality::audio;
    return !(p.audio_by_time && audio && (moving(q) || moving(k))) || times_meet();
  }
  if (q.kind != k.kind || q.stream != k.stream)
    return p.others == other_streams::shown || (p.others == other_streams::same_time && times_meet());
  if (p.first_frame && k.number == 0) return true;
  int const d = q.number / p.cell.frames - k.number / p.cell.frames;
  return (d <= p.spatial_frames && near(p, q, k, p.spatial_radius)) ||
         (d >= 1 && d <= p.temporal_frames && d % p.temporal_stride == 0 && near(p, q, k, p.temporal_radius));
}

void check_visible(spatial_temporal const& pattern, std::vector<segment> const& segments) {
  std::vector<place> const places = places_of(segments);
  int const n = static_cast<int>(places.size());
  status const checked = pattern.check(n - 1);
  REQUIRE_MESSAGE(checked.ok(), checked.message);
  int wrong = 0;
  for (int q = 0; q < n; ++q)
    for (int k = 0; k <= q; ++k)
      wrong += pattern.visible(0, q, k) != expected_of_part(pattern, places[std::size_t(q)], places[std::size_t(k)], k);
  CHECK(wrong == 0);
}

// Exact ranges for single queries; for tiles and all other ranges a cover.
void check_runs(test::random& random, spatial_temporal const& pattern) {
  int const n = pattern.layout.tokens();
  test::check_all_ranges(random, pattern, n, n, 10);
  for (int q = 0; q < n;) {
    int const end = pattern.tile_end(q);
    REQUIRE((end > q && end <= n));
    int const first = random.between(q, end - 1);
    test::check_ranges(pattern, q, end - 1);
    test::check_ranges(pattern, first, random.between(first, end - 1));
    for (test::key_range const& r : test::ranges_of(pattern, first, first)) CHECK(r.full);
    test::check_ranges(pattern, first, first);
    q = end;
  }
}

// What tiles of queries at the same places of several frames are said to see.
void check_columns(test::random& random, spatial_temporal const& pattern, std::vector<segment> const& segments) {
  segment const& own = segments[std::size_t(random.between(0, static_cast<int>(segments.size()) - 1))];
  if (!own.has_frames()) return;
  int const first = random.between(0, own.frame_tokens() - 1), last = random.between(first, own.frame_tokens() - 1);
  std::vector<int> queries;
  for (segment const& s : segments)
    for (int t = 0; t < s.frames; ++t)
      for (int place = first; place <= last; ++place)
        if (s.kind == own.kind && s.stream == own.stream && s.height == own.height && s.width == own.width &&
            random.between(0, 2) > 0)
          queries.push_back(s.begin + t * s.frame_tokens() + place);
  if (queries.empty()) return;
  std::vector<bool> listed(std::size_t(queries.back()) + 1);
  int next = pattern.sinks;
  bool in_order = true;
  pattern.column_runs(queries.front(), queries.back(), first, last,
                      [&](std::int32_t k_first, std::int32_t k_last, bool) {
                        in_order = in_order && next <= k_first && k_first <= k_last && k_last < queries.back();
                        next = k_last + 1;
                        for (int k = k_first; in_order && k <= k_last; ++k) listed[std::size_t(k)] = true;
                      });
  CHECK(in_order);
  int missing = 0;
  for (int q : queries)
    for (int k = 0; k <= q; ++k) missing += pattern.visible(0, q, k) && !listed[std::size_t(k)];
  CHECK(missing == 0);
}

struct variant {
  char const* name;
  void (*set)(spatial_temporal& p, test::random& random);
};

// What has been proposed, by its name in docs/policies/spatial_temporal.md, and everything at once.
variant const variants[] = {
    {"own frame and same place", [](spatial_temporal&, test::random&) {}},
    {"own frame in a neighbourhood",
     [](spatial_temporal& p, test::random& random) { p.spatial_radius = random.between(0, 3); }},
    {"own and previous frames",
     [](spatial_temporal& p, test::random& random) { p.spatial_frames = random.between(1, 3); }},
    {"a neighbourhood of the place",
     [](spatial_temporal& p, test::random& random) { p.temporal_radius = random.between(1, 2); }},
    {"a window of frames", [](spatial_temporal& p, test::random& random) { p.temporal_frames = random.between(0, 3); }},
    {"every n-th frame", [](spatial_temporal& p, test::random& random) { p.temporal_stride = random.between(2, 3); }},
    {"the first frame as sink", [](spatial_temporal& p, test::random&) { p.first_frame = true; }},
    {"spatial head", [](spatial_temporal& p, test::random&) { p.temporal_frames = 0; }},
    {"temporal head", [](spatial_temporal& p, test::random&) { p.spatial_radius = 0; }},
    {"whole frames of a window, and the first",
     [](spatial_temporal& p, test::random& random) {
       p.spatial_frames = random.between(0, 2);
       p.temporal_frames = 0;
       p.first_frame = true;
     }},
    {"the tile's own places",
     [](spatial_temporal& p, test::random&) {
       p.cell = {1, 1, 1 << 30};
     }},
    {"windows of tiles",
     [](spatial_temporal& p, test::random& random) {
       p.cell = {random.between(1, 3), random.between(1, 3), random.between(1, 3)};
       p.spatial_radius = p.temporal_radius = random.between(0, 2);
       p.temporal_frames = random.between(1, 2);
       p.clamped = true;
     }},
    {"other streams", [](spatial_temporal& p, test::random&) { p.others = other_streams::shown; }},
    {"other streams at the same time",
     [](spatial_temporal& p, test::random& random) {
       p.others = other_streams::same_time;
       p.time_reach = random.between(0, 1) == 0 ? 0.0f : random.uniform(0, 2);
     }},
    {"audio by its time",
     [](spatial_temporal& p, test::random& random) {
       p.audio_by_time = true;
       p.time_reach = random.between(0, 1) == 0 ? 0.0f : random.uniform(0, 2);
     }},
    {"anything",
     [](spatial_temporal& p, test::random& random) {
       auto const some = [&](int most) { return random.between(0, 2) == 0 ? most : random.between(0, 3); };
       p.spatial_frames = random.between(0, 2);
       p.spatial_radius = some(spatial_temporal::everything);
       p.temporal_frames = some(spatial_temporal::everything);
       p.temporal_radius = some(0);
       p.temporal_stride = random.between(1, 3);
       p.first_frame = random.between(0, 1) == 1;
       p.cell = {random.between(1, 3), random.between(1, 4), random.between(1, 6)};
       p.clamped = random.between(0, 1) == 1;
       p.others = static_cast<other_streams>(random.between(0, 2));
       p.audio_by_time = random.between(0, 1) == 1;
       p.time_reach = random.uniform(0, 3);
     }},
};

}  // namespace

TEST_CASE("spatial_temporal: every variant shows what its formula says, and its ranges agree") {
  SEEDED(random);
  for (variant const& v : variants) {
    CAPTURE(v.name);
    for (int trial = 0; trial < 12; ++trial) {
      std::vector<segment> segments = test::random_segments(random, random.between(1, 9));
      for (segment& s : segments) {
        s.t0 = random.uniform(-3, 6);
        s.dt = random.uniform(0.1f, 2);
        if (s.kind == modality::audio) s.frames = random.between(1, 6);
      }
      for (std::size_t i = 1; i < segments.size(); ++i) segments[i].begin = segments[i - 1].end();
      spatial_temporal pattern{layout_of(segments), random.between(0, trial % 4 == 0 ? 40 : 6)};
      v.set(pattern, random);
      check_visible(pattern, segments);
      check_runs(random, pattern);
      for (temporal_part part : {temporal_part::alone, temporal_part::excluded}) {
        pattern.temporal = part;
        check_visible(pattern, segments);
        check_runs(random, pattern);
      }
      pattern.temporal = temporal_part::alone;
      for (int i = 0; i < 8; ++i) check_columns(random, pattern, segments);
    }
  }
}

TEST_CASE("spatial_temporal: columns of frames of one size are met by the same columns alone") {
  std::vector<segment> const segments{segment::text(0, 7), segment::video(7, 5, 2, 4), segment::text(47, 5)};
  spatial_temporal pattern{layout_of(segments)};
  pattern.temporal = temporal_part::alone;
  auto const keys = [&](int frame_first, int frame_last, int place_first, int place_last) {
    int count = 0;
    pattern.column_runs(7 + 8 * frame_first, 7 + 8 * frame_last, place_first, place_last,
                        [&](std::int32_t first, std::int32_t last, bool) { count += last - first + 1; });
    return count;
  };
  CHECK(keys(0, 4, 1, 2) == 2 * 4);
  CHECK(keys(2, 4, 0, 0) == 4);
  CHECK(keys(0, 0, 0, 7) == 0);
  pattern.temporal_stride = 3;
  CHECK(keys(4, 4, 0, 0) == 1);
  CHECK(keys(1, 2, 0, 0) == 0);
  pattern.temporal_stride = 1;
  pattern.temporal_frames = 2;
  CHECK(keys(4, 4, 0, 0) == 2);
}

TEST_CASE("spatial_temporal: prompts of every form") {
  SEEDED(random);
  segment const image{.kind = modality::image, .height = 3, .width = 4};
  std::vector<segment> const prompts[] = {
      {segment::video(0, 3, 4, 5)},                                                   // no text at all
      {segment::video(0, 3, 4, 5), segment::text(0, 6)},                              // begins with video
      {segment::text(0, 6), segment::video(0, 3, 4, 5)},                              // ends with it
      {segment::text(0, 6), segment::video(0, 1, 4, 5), segment::text(0, 3)},         // one frame
      {segment::text(0, 6), segment::video(0, 9, 1, 1), segment::text(0, 3)},         // one patch
      {segment::video(0, 1, 1, 1)},                                                   // one token
      {segment::text(0, 9)},                                                          // no video
      {image, image, segment::text(0, 2), image},                                     // images side by side
      {segment::video(0, 2, 4, 5), segment::text(0, 1), segment::video(0, 2, 3, 7)},  // its frames change size
      {segment::text(0, 2), segment::video(0, 4, 1, 9), segment::video(0, 2, 9, 1), image, segment::text(0, 5)},
  };
  for (std::vector<segment> segments : prompts)
    for (variant const& v : variants) {
      for (std::size_t i = 1; i < segments.size(); ++i) segments[i].begin = segments[i - 1].end();
      CAPTURE(v.name);
      CAPTURE(segments.size());
      spatial_temporal pattern{layout_of(segments), random.between(0, 4)};
      v.set(pattern, random);
      check_visible(pattern, segments);
      check_runs(random, pattern);
    }
}

TEST_CASE("spatial_temporal: two videos with text between, and a picture") {
  // Text 0-3, video 1 at 4-11 (2 frames of 2 x 2), text 12-14, video 2 at 15-22, an image at 23-26, text 27-28.
  std::vector<segment> segments{segment::text(0, 4),
                                segment::video(4, 2, 2, 2),
                                segment::text(12, 3),
                                segment::video(15, 2, 2, 2),
                                {.kind = modality::image, .begin = 23, .height = 2, .width = 2},
                                segment::text(27, 2)};
  segments[3].stream = 1;
  spatial_temporal pattern{layout_of(segments), 0};
  CHECK(pattern.visible(0, 27, 5));   // text sees everything before it
  CHECK(pattern.visible(0, 15, 13));  // a later video sees earlier text
  CHECK(pattern.visible(0, 13, 5));
  CHECK(!pattern.visible(0, 15, 4));  // but not the other video
  CHECK(!pattern.visible(0, 23, 15));
  CHECK(pattern.visible(0, 19, 15));
  pattern.others = other_streams::same_time;
  CHECK(pattern.visible(0, 15, 6));    // frame 0 of both
  CHECK(!pattern.visible(0, 15, 10));  // frame 1
  CHECK(pattern.visible(0, 23, 15));
  pattern.others = other_streams::shown;
  CHECK(pattern.visible(0, 15, 10));
  segments[3].stream = 0;  // one video, interrupted: frames 0 to 3
  pattern.others = other_streams::hidden;
  CHECK(pattern.visible(0, 15, 4));
  CHECK(!pattern.visible(0, 15, 5));
  pattern.temporal_frames = 2;
  CHECK(!pattern.visible(0, 19, 4));
  CHECK(pattern.visible(0, 19, 8));
}

TEST_CASE("spatial_temporal: audio beside the frames of its time") {
  // Four frames of 2 x 1 at two per second; 25 audio tokens a second, of which 50 belong to them.
  std::vector<segment> segments{segment::text(0, 3),
                                segment::video(3, 4, 2, 1),
                                {.kind = modality::audio, .begin = 11, .frames = 50},
                                segment::text(61, 1)};
  segments[1].dt = 0.5f;
  segments[2].dt = 0.04f;
  spatial_temporal pattern{layout_of(segments), 0};
  CHECK(pattern.visible(0, 60, 3));
  pattern.audio_by_time = true;
  REQUIRE(pattern.check(61).ok());
  for (int token = 0; token < 50; ++token)
    for (int frame = 0; frame < 4; ++frame)
      for (int y = 0; y < 2; ++y) CHECK(pattern.visible(0, 11 + token, 3 + 2 * frame + y) == (token * 2 / 25 == frame));
  CHECK(pattern.visible(0, 60, 11));  // audio sees earlier audio and text, and text sees all
  CHECK(pattern.visible(0, 60, 1));
  CHECK(pattern.visible(0, 61, 3));
  pattern.time_reach = 0.25f;
  CHECK(pattern.visible(0, 11 + 10, 5));
  CHECK(!pattern.visible(0, 11 + 10, 7));
  CHECK(pattern.tile_end(11) == 61);
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
  spatial_temporal pattern{layout_of(segments)};
  CHECK(pattern.tile_end(0) == 7);
  CHECK(pattern.tile_end(7) == 15);
  CHECK(pattern.tile_end(14) == 15);
  CHECK(pattern.tile_end(15) == 23);
  CHECK(pattern.tile_end(30) == 31);
  CHECK(pattern.tile_end(31) == 36);
  pattern.cell = {1, 1, 4};  // a row of the frame
  CHECK(pattern.tile_end(7) == 11);
  CHECK(pattern.tile_end(13) == 15);
  pattern.cell = {1, 3, 3};
  CHECK(pattern.tile_end(7) == 15);
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
  auto const refused = [&](auto const& spoil) {
    spatial_temporal bad = pattern;
    spoil(bad);
    return bad.check(30).code;
  };
  CHECK(refused([](auto&) {}) == errc::ok);
  CHECK(refused([](auto& p) { p.spatial_frames = -1; }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.temporal_frames = -1; }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.spatial_radius = -1; }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.temporal_radius = -1; }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.temporal_stride = 0; }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.temporal = static_cast<temporal_part>(3); }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.cell.frames = 0; }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.cell.height = 0; }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.cell.width = -2; }) == errc::bad_policy);
  CHECK(refused([](auto& p) { p.others = static_cast<other_streams>(3); }) == errc::bad_policy);
  for (float bad : {-1.0f, std::nanf(""), HUGE_VALF})
    CHECK(refused([&](auto& p) { p.time_reach = bad; }) == errc::bad_policy);
  // Times matter only to those who read them.
  for (float bad : {0.0f, -1.0f, std::nanf(""), HUGE_VALF}) {
    segments[1].dt = bad;
    CHECK(pattern.check(30).ok());
    CHECK(refused([](auto& p) { p.audio_by_time = true; }) == errc::bad_shape);
    CHECK(refused([](auto& p) { p.others = other_streams::same_time; }) == errc::bad_shape);
  }
  segments[1].dt = 1;
  segments[1].t0 = HUGE_VALF;
  CHECK(refused([](auto& p) { p.audio_by_time = true; }) == errc::bad_shape);
  segments[1].t0 = 0;
  segments[0].dt = 0;  // text has none
  CHECK(refused([](auto& p) { p.audio_by_time = true; }) == errc::ok);
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
