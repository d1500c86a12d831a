// SPDX-License-Identifier: Apache-2.0
#include <purekv/plan.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/plan_checks.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

#include <cmath>

using namespace fixtures;

namespace {

template <class Owned, class P> double check(generator& random, shape const& s, P const& pattern) {
  attention_input<float, Owned> const in(random, s);
  CAPTURE(s.heads);
  CAPTURE(s.span[0]);
  double pairs = 0;
  std::vector<std::vector<purekv::key_run>> runs;
  for (int ranks : {1, 3}) {
    owned_workspace memory(purekv::plan_workspace(pattern, in.queries, in.cache.view));
    purekv::tile_plan plan{};
    plan.tiles_per_head = -1;
    auto const call = [&](purekv::workspace work) {
      std::vector<purekv::tile_plan> plans(size(ranks), plan);
      auto const status = status_on_ranks(ranks, [&](purekv::cpu exec) {
        return purekv::plan(exec, pattern, in.queries, in.cache.view, work, plans[size(exec.rank())]);
      });
      plan = plans.back();
      return status;
    };
    if (memory.view().bytes > 0) {
      CHECK(call(memory.one_byte_less()).code == purekv::errc::workspace_too_small);
      CHECK(plan.tiles_per_head == -1);
    }
    auto const done = call(memory.view());
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(memory.guards_untouched());
    pairs = check_plan(pattern, in, plan);
    CHECK(purekv::executed_pairs(pattern, plan, in.queries, in.cache.view, {1, 1}) == pairs);
    double const in_blocks =
        purekv::executed_pairs(pattern, plan, in.queries, in.cache.view, {purekv::detail::block_lanes, 1});
    CHECK(in_blocks >= pairs);
    CHECK(purekv::executed_pairs(pattern, plan, in.queries, in.cache.view) <= in_blocks);
    if constexpr (!requires { pattern.last_visible(0); })
      CHECK(pairs <= purekv::causal_pairs(in.queries, in.cache.view));
    CHECK(plan.per_kv_head == (s.kv_heads > 1 && (s.keep_percent < 100 || purekv::detail::is_per_head<P>())));
  }
  return pairs / std::max(1.0, purekv::causal_pairs(in.queries, in.cache.view));
}

}  // namespace

TEST_CASE("plan: dense is one run for each tile") {
  SEEDED(random);
  CHECK(check<owned_contiguous<float>>(random, square(4, 2, 8, 300), purekv::dense{}) == 1);
  CHECK(check<owned_contiguous<float>>(random, square(300, 1, 4, 5), purekv::dense{}) == 1);
  CHECK(check<owned_contiguous<float>>(random, square(4, 2, 8, 0), purekv::dense{}) == 0);
  shape s = square(6, 2, 8, 200);
  s.span = {200, 0, 33, 1};
  s.queries = {150, 0, 33, 0};
  CHECK(check<owned_contiguous<float>>(random, s, purekv::dense{}) == 1);
}

TEST_CASE("plan: windows, sinks and video, over whole and over pruned caches") {
  SEEDED(random);
  purekv::segment const segments[] = {purekv::segment::text(0, 21), purekv::segment::video(21, 5, 4, 6),
                                      purekv::segment::text(141, 9), purekv::segment::video(150, 3, 7, 7),
                                      purekv::segment::text(297, 25)};
  purekv::spatial_temporal video{};
  video.layout = {segments, 5};
  for (int keep : {100, 60, 5}) {
    shape s = square(4, 2, 4, 322);
    s.keep_percent = keep;
    for (bool scattered : {false, true}) {
      s.scattered = scattered;
      s.queries = {scattered ? 150 : 322};
      double const window_share = check<owned_ragged<float>>(random, s, purekv::sinks_and_window{3, 20});
      double const video_share = check<owned_ragged<float>>(random, s, video);
      if (keep == 100 && !scattered) {
        CHECK(window_share < 0.5);
        CHECK(video_share < 1);
      }
    }
  }
}

TEST_CASE("plan: a predicate is looked at in granules, and what nobody sees is left out") {
  SEEDED(random);
  for (int block : {1, 16, 64}) {
    shape s = square(6, 2, 4, block == 64 ? 900 : 260);  // enough blocks for chance to even out
    s.keep_percent = between(random, 0, 1) == 0 ? 100 : 70;
    scattered const rare{random(), 10, block};
    auto const for_all_heads = [&](int, int q, int k) { return rare(0, q, k); };
    check<owned_ragged<float>>(random, s, pattern_of<false>(for_all_heads));
    check<owned_ragged<float>>(random, s, pattern_of<true>(rare));
  }
  auto const own_block = [](int, int q, int k) { return q / 64 == k / 64; };
  CHECK(check<owned_contiguous<float>>(random, square(6, 2, 4, 600), pattern_of<false>(own_block)) < 0.8);
  auto const antidiagonals = [](int, int q, int k) { return (q / 64 + k / 64) % 8 == 0; };
  CHECK(check<owned_contiguous<float>>(random, square(6, 2, 4, 512), pattern_of<false>(antidiagonals)) < 0.6);
  auto const never = [](int, int, int) { return false; };
  CHECK(check<owned_contiguous<float>>(random, square(4, 2, 4, 200), pattern_of<false>(never)) == 0);
}

TEST_CASE("plan: more granules than a tile may have runs") {
  SEEDED(random);
  shape s = square(1, 1, 1, 9000);
  s.queries = {3};
  scattered const half_of_it{random(), 50, 16};
  double const share = check<owned_contiguous<float>>(random, s, pattern_of<false>(half_of_it));
  CHECK(share > 0.5);
}

TEST_CASE("plan: heads of several kinds, in groups of one kind and mixed") {
  SEEDED(random);
  purekv::segment const segments[] = {purekv::segment::text(0, 21), purekv::segment::video(21, 5, 8, 9),
                                      purekv::segment::text(381, 9)};
  purekv::spatial_temporal const both{{segments, 3}};
  purekv::by_head<purekv::spatial_temporal> heads{{both, both}};
  heads.kinds[0].temporal_frames = 0;
  heads.kinds[1].spatial_radius = 0;
  std::uint8_t const of_one_kind[] = {0, 0, 0, 1, 1, 1}, mixed[] = {0, 1, 0, 1, 1, 1};
  heads.heads = 6;
  for (int keep : {100, 60}) {
    shape s = square(6, 2, 4, 390);
    s.keep_percent = keep;
    heads.kind_of = of_one_kind;
    double const apart = check<owned_ragged<float>>(random, s, heads);
    heads.kind_of = mixed;
    double const together = check<owned_ragged<float>>(random, s, heads);
    CHECK(apart < check<owned_ragged<float>>(random, s, both));
    CHECK(apart < together);
  }
}

TEST_CASE("plan: images that see themselves in both directions") {
  SEEDED(random);
  purekv::token_layout const layout{mixed_media, 5};
  scattered const predicate{random(), 30, 8};
  auto const any = pattern_of<true>(predicate);
  for (int keep : {100, 50}) {
    shape s = square(6, 2, 16, mixed_media_tokens);
    s.keep_percent = keep;
    check<owned_ragged<float>>(random, s, purekv::bidirectional<>{layout});
    check<owned_ragged<float>>(random, s, purekv::bidirectional<any_pattern<true>>{layout, any});
  }
}

namespace {

/// A pattern in tiles of so many rows, as a kernel may want it.
template <int Rows, class P> struct in_tiles_of : P { static constexpr std::int32_t tile_rows = Rows; };

/// A prompt of text, a video and text.
struct video_prompt {
  int head, frames, height, width, tail, group;

  int tokens() const { return head + frames * height * width + tail; }
};

struct planned {
  double executed, all;  // pairs of this pattern, pairs that causality allows
  double predicted = 0;  // lanes x keys, and what widening the keys costs
};

template <class P> planned execute(P const& pattern, int tokens, int group, purekv::tile_grain const& grain) {
  SEEDED(random);
  attention_input<float, owned_contiguous<float>> const in(random, square(group, 1, 1, tokens));
  owned_workspace const memory(purekv::plan_workspace(pattern, in.queries, in.cache.view));
  purekv::tile_plan plan;
  auto const done = purekv::plan(purekv::cpu{}, pattern, in.queries, in.cache.view, memory.view(), plan);
  REQUIRE_MESSAGE(done.ok(), done.message);
  planned result{purekv::executed_pairs(pattern, plan, in.queries, in.cache.view, grain),
                 purekv::causal_pairs(in.queries, in.cache.view)};
  result.predicted = purekv::executed_pairs(pattern, plan, in.queries, in.cache.view);
  if (grain.keys == 1)
    CHECK(purekv::executed_density(pattern, plan, in.queries, in.cache.view) ==
          doctest::Approx(result.predicted / result.all));
  for (int t = 0; t < plan.tiles_per_head; ++t)
    for (int r = 0; r < plan.tile(0, t).runs; ++r)
      if (plan.runs[plan.tile(0, t).runs_begin + r].scattered == 0)
        result.predicted += 7.0 * plan.runs[plan.tile(0, t).runs_begin + r].count;
  return result;
}

template <class P> P over(P pattern, std::vector<purekv::segment>& segments) {
  for (std::size_t i = 1; i < segments.size(); ++i) segments[i].begin = segments[i - 1].end();
  pattern.layout = {segments.data(), static_cast<int>(segments.size())};
  return pattern;
}

}  // namespace

namespace {

struct densities {
  double one_pass, two_passes;
};

/// The areas of ST-SpAttn's tiles of 128 rows as shares of dense tiles of 128 x 128, from the shape of the prompt
/// alone.
densities tile_areas(video_prompt const& p) {
  auto const up = [](int keys, int to) { return (keys + to - 1) / to * to; };
  int const positions = 128 / p.group, places = p.height * p.width, video = places * p.frames;
  double all = 0, text = 0, spatial = 0, fused = 0, apart = 0;
  for (int i = 0; i < p.tokens(); i += positions) all += up(std::min(i + positions, p.tokens()), 128);
  for (auto [begin, end] : {std::pair{0, p.head}, std::pair{p.head + video, p.tokens()}})
    for (int i = begin; i < end; i += positions) text += up(std::min(i + positions, end), 16);
  for (int t = 0; t < p.frames; ++t)
    for (int i = 0; i < places; i += positions) {
      int const last = std::min(i + positions, places);
      spatial += up(p.head, 16) + up(last, 16);
      fused += up((last - i) * t, 16);
    }
  if (p.frames * p.group <= 128) {
    int const side_by_side = 128 / p.group / p.frames;
    apart = (places + side_by_side - 1) / side_by_side * up(side_by_side * p.frames, 16);
  } else {
    for (int t = 0; t < p.frames; t += positions) apart += places * up(std::min(t + positions, p.frames), 16);
  }
  return {(text + spatial + fused) / all, (text + spatial + apart) / all};
}

}  // namespace

TEST_CASE("plan: executed density of spatial_temporal in tiles of tensor cores") {
  // 128 rows of whole queries against keys rounded up to 16. One pass: the plan as it is. Two passes: text and own
  // frame; then every place with itself, in tiles of one place or more through all frames, which is the own frame of a
  // prompt whose "frames" are those tiles, position-major. A group of 7 fills 126 of 128 rows; tiles that begin within
  // a query would come to .139 and .098, .064 and .042.
  struct {
    video_prompt prompt;
    densities expected;
  } const shapes[] = {
      {{35, 9, 13, 13, 40, 4}, {0.414, 0.314}},   // VideoLLaMA2, 16 frames
      {{20, 16, 16, 24, 40, 7}, {0.140, 0.102}},  // Qwen2.5-VL, 16 and 32 frames
      {{20, 32, 24, 32, 40, 7}, {0.063, 0.042}},
  };
  using tiled = in_tiles_of<128, purekv::spatial_temporal>;
  for (auto const& s : shapes) {
    video_prompt const& p = s.prompt;
    densities const& expected = s.expected;
    CAPTURE(p.frames);
    std::vector<purekv::segment> prompt{purekv::segment::text(0, p.head),
                                        purekv::segment::video(0, p.frames, p.height, p.width),
                                        purekv::segment::text(0, p.tail)};
    tiled whole = over(tiled{}, prompt), spatial = whole;
    spatial.temporal_frames = 0;
    int const places = p.height * p.width, side_by_side = std::max(1, 128 / p.group / p.frames);
    std::vector<purekv::segment> transposed{purekv::segment::video(0, places / side_by_side, side_by_side, p.frames)};
    if (places % side_by_side != 0) transposed.push_back(purekv::segment::video(0, 1, places % side_by_side, p.frames));
    tiled place_by_place = over(tiled{}, transposed);
    place_by_place.sinks = 0;
    place_by_place.temporal_frames = 0;

    purekv::tile_grain const grain{128, 16};
    double const dense = execute(in_tiles_of<128, purekv::dense>{}, p.tokens(), p.group, {128, 128}).executed;
    double const fused = execute(whole, p.tokens(), p.group, grain).executed / dense;
    double const apart = (execute(spatial, p.tokens(), p.group, grain).executed +
                          execute(place_by_place, places * p.frames, p.group, grain).executed) /
                         dense;
    // The plan joins text and the first frame before they are rounded.
    CHECK(fused == doctest::Approx(tile_areas(p).one_pass).epsilon(0.005));
    CHECK(apart == doctest::Approx(tile_areas(p).two_passes).epsilon(0.005));
    CHECK(std::abs(tile_areas(p).one_pass - expected.one_pass) < 0.0005);
    CHECK(std::abs(tile_areas(p).two_passes - expected.two_passes) < 0.0006);

    // On the CPU, where the same place of earlier frames is computed query by query and keys are not rounded up to 16,
    // one pass executes less than two would there.
    planned const here =
        execute(over(purekv::spatial_temporal{}, prompt), p.tokens(), p.group, {purekv::detail::block_lanes, 1, true});
    CHECK(here.executed / here.all < 0.65 * expected.one_pass);
    CHECK(here.executed / here.all < 0.95 * expected.two_passes);
  }
}

TEST_CASE("plan: no more work than dense attention, however the frames are cut") {
  SEEDED(random);
  for (int group : {1, 4, 7, 40}) {
    CAPTURE(group);
    auto const share = [&](std::vector<purekv::segment> segments) {
      auto const pattern = over(purekv::spatial_temporal{}, segments);
      int const tokens = pattern.layout.tokens();
      return execute(pattern, tokens, group, {}).predicted / execute(purekv::dense{}, tokens, group, {}).predicted;
    };
    using purekv::segment;
    CHECK(share({segment::text(0, 700)}) == 1);
    CHECK(share({segment::video(0, 1, 20, 30)}) == 1);     // one frame
    CHECK(share({segment::video(0, 700, 1, 1)}) < 1.001);  // one patch each: everything is visible
    CHECK(share({segment::text(0, 100), segment::video(0, 150, 1, 2), segment::text(0, 333)}) < 1.02);
    CHECK(share({segment::text(0, 600), segment::video(0, 3, 2, 3), segment::text(0, 70)}) < 1.02);
    CHECK(share({segment::text(0, 35), segment::video(0, 9, 13, 13), segment::text(0, 40)}) < 0.65);
    for (int trial = 0; trial < 8; ++trial) {
      std::vector<segment> segments;
      for (int i = between(random, 1, 30); i > 0; --i)
        segments.push_back(between(random, 0, 2) == 0 ? segment::text(0, between(random, 1, 90))
                                                      : segment::video(0, between(random, 1, 9), between(random, 1, 5),
                                                                       between(random, 1, 7)));
      CHECK(share(segments) < 1.02);
    }
  }
}
