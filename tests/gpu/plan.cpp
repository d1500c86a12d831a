// SPDX-License-Identifier: Apache-2.0
#include <purekv/plan.cuh>
// The header under test comes first.
#include "support/gpu.hpp"
#include "support/plan_checks.hpp"

#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/one_of.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>
#include <purekv/validate.cuh>

using namespace purekv;

namespace gpu_plan_test {

using fixtures::shape;
using fixtures::size;
using fixtures::square;

template <class Owned> using input = fixtures::attention_input<float, Owned>;
using ragged = fixtures::owned_ragged<float>;
#if defined(__CUDACC__)
using contiguous = ragged;  // half the kernels to compile
#else
using contiguous = fixtures::owned_contiguous<float>;
#endif

/// A plan by the device, and the memory that it lies in.
struct planned {
  fixtures::owned_workspace memory;
  tile_plan plan{};

  template <class P, class Owned>
  planned(test::random& random, P const& pattern, input<Owned> const& in, heads_hold heads = heads_hold::anything)
      : memory(bytes(random, pattern, in, heads)) {
    test::gpu_device device(random);
    device.run([&](gpu const& exec) {
      return purekv::plan(exec, pattern, in.queries, in.cache.view, memory.view(), plan, heads);
    });
    CHECK(memory.guards_untouched());
  }

 private:
  template <class P, class Owned>
  static std::size_t bytes(test::random& random, P const& pattern, input<Owned> const& in, heads_hold heads) {
    test::gpu_device device(random);
    return plan_workspace(device.exec(), pattern, in.queries, in.cache.view, heads);
  }
};

struct found {
  double share;  // of the pairs that causality allows
  int runs = 0, with_masks = 0, partial = 0;
};

/// Plans, checks the plan against the predicate, and attends with it.
template <class Owned, class P>
found check(test::random& random, shape const& s, P const& pattern, heads_hold heads = heads_hold::anything) {
  input<Owned> const in(random, s);
  CAPTURE(s.heads);
  CAPTURE(s.span[0]);
  planned const made(random, pattern, in, heads);
  tile_plan const& plan = made.plan;
  double const pairs = check_plan(pattern, in, plan);
  CHECK(executed_pairs(pattern, plan, in.queries, in.cache.view, {1, 1}) == pairs);
  CHECK(plan.per_kv_head == (s.kv_heads > 1 && (heads == heads_hold::anything || detail::is_per_head<P>())));
  found result{pairs / std::max(1.0, causal_pairs(in.queries, in.cache.view))};
  for (int h = 0; h < (plan.per_kv_head ? s.kv_heads : 1); ++h) {
    CHECK(plan.tile_count(h) <= plan.tiles_per_head);
    for (int t = 0; t < plan.tiles_per_head; ++t) {
      query_tile const& tile = plan.tile(h, t);
      if (t >= plan.tile_count(h)) CHECK((tile.count == 0 && tile.runs == 0));
      for (int r = 0; r < tile.runs; ++r) {
        key_run const& run = plan.runs[tile.runs_begin + r];
        ++result.runs;
        result.partial += run.full == 0;
        result.with_masks += run.masks >= 0;
        if (run.full != 0) CHECK(run.masks == -1);
      }
    }
  }

  if (s.queries[0] <= 400) {  // the oracle's time
    auto const reference = oracle::attend(pattern, in.queries, in.cache.view);
    fixtures::tap_request const request{};
    fixtures::attention_output<float> out(in, s, request);
    fixtures::owned_workspace work(attend_workspace(cpu{}, plan, in.queries, in.cache.view, out.taps));
    REQUIRE(attend(cpu{}, pattern, plan, in.queries, in.cache.view, out.out.view, out.taps, work.view()).ok());
    compare_with_oracle(in, s, out, reference, request);
  }
  return result;
}

}  // namespace gpu_plan_test

using namespace gpu_plan_test;

TEST_CASE("plan on a GPU: dense is one run for each tile, and tiles are as full as they can be") {
  SEEDED(random);
  for (int group : {1, 4, 7, 40, 130})
    for (int tokens : {0, 1, 17, 32, 33, 129}) {
      CAPTURE(group);
      CAPTURE(tokens);
      CHECK(check<contiguous>(random, square(group, 1, 4, tokens), dense{}).share == (tokens > 0 ? 1 : 0));
    }
  shape s = square(6, 2, 8, 200);
  s.span = {200, 0, 33, 1, 0};
  s.queries = {150, 0, 33, 0, 0};
  found const f = check<contiguous>(random, s, dense{});
  CHECK(f.share == 1);
  CHECK(f.runs == 2 * (4 + 1));
  CHECK(check<ragged>(random, s, dense{}, heads_hold::the_same).runs == 5);
  check<contiguous>(random, square(1, 1, 1, 1030), dense{});  // the last tile reaches over a chunk's end
}

namespace gpu_plan_test {

template <int Rows> struct in_tiles_of : dense { static constexpr std::int32_t tile_rows = Rows; };

}  // namespace gpu_plan_test

TEST_CASE("plan on a GPU: a pattern may want tiles of fewer rows, and never gets more than a block holds") {
  SEEDED(random);
  input<ragged> const in(random, square(7, 1, 1, 40));
  CHECK(planned(random, in_tiles_of<64>{}, in).plan.tile_queries == 9);
  CHECK(detail::most_tile_queries<dense>(7) == 18);
  CHECK(detail::most_tile_queries<in_tiles_of<256>>(7) == 18);
  CHECK(detail::most_tile_queries<in_tiles_of<4>>(7) == 1);
}

TEST_CASE("plan on a GPU: windows, sinks and video, over whole and over pruned caches") {
  SEEDED(random);
  fixtures::buffer<segment> const segments = {segment::text(0, 21), segment::video(21, 5, 4, 6), segment::text(141, 9),
                                              segment::video(150, 3, 7, 7), segment::text(297, 25)};
  spatial_temporal video{{segments.data(), 5}};
  for (int group : {1, 4, 7})
    for (int keep : {100, 60, 5}) {
      CAPTURE(group);
      CAPTURE(keep);
      shape s = square(2 * group, 2, 4, 322);
      s.keep_percent = keep;
      s.scattered = random.between(0, 1) == 0;
      s.queries = {s.scattered ? 150 : 322};
      heads_hold const heads = keep == 100 && random.between(0, 1) == 0 ? heads_hold::the_same : heads_hold::anything;
      video.spatial_radius = random.between(0, 1) == 0 ? spatial_temporal::everything : random.between(0, 3);
      video.temporal_radius = random.between(0, 2);
      video.temporal_frames = random.between(0, 1) == 0 ? spatial_temporal::everything : random.between(0, 3);
      found const window = check<ragged>(random, s, sinks_and_window{3, 20}, heads);
      found const frames = check<ragged>(random, s, video, heads);
      CHECK(window.with_masks == window.partial);
      CHECK(frames.with_masks == frames.partial);
      if (keep == 100 && !s.scattered) CHECK(window.share < 0.65);
      check<contiguous>(random, s, one_of<sinks_and_window, spatial_temporal>(video), heads);
    }
}

namespace gpu_plan_test {

struct never {
  PUREKV_HD bool operator()(std::int32_t, std::int32_t, std::int32_t) const { return false; }
};

struct for_all_heads {
  fixtures::scattered of_one;
  PUREKV_HD bool operator()(std::int32_t, std::int32_t q, std::int32_t k) const { return of_one(0, q, k); }
};

}  // namespace gpu_plan_test

TEST_CASE("plan on a GPU: a predicate is looked at in granules, and what nobody sees is left out") {
  SEEDED(random);
  for (int block : {1, 16, 64}) {
    shape s = square(6, 2, 4, block == 64 ? 500 : 260);
    s.keep_percent = random.between(0, 1) == 0 ? 100 : 70;
    fixtures::scattered const rare{random(), 10, block};
    found const one = check<ragged>(random, s, custom<for_all_heads, no_classifier, false>{{rare}});
    CHECK(one.with_masks == one.partial);
    found const each = check<ragged>(random, s, custom<fixtures::scattered>{rare});
    CHECK(each.with_masks == 0);
    CHECK((block != 64 || one.share < each.share));
  }
}

TEST_CASE("plan on a GPU: nothing to see, and more granules than a tile is looked at in") {
  SEEDED(random);
  found const none = check<contiguous>(random, square(4, 2, 4, 200), custom<never>{});
  CHECK(none.runs == 0);
  shape s = square(1, 1, 1, 9000);
  s.queries = {3};
  found const half = check<contiguous>(random, s, custom<fixtures::scattered>{{random(), 50, 16}});
  CHECK(half.share > 0.5);
  CHECK(half.runs > 100);
}

TEST_CASE("plan on a GPU: heads of several kinds, and images that see themselves in both directions") {
  SEEDED(random);
  fixtures::buffer<segment> const segments = {segment::text(0, 21), segment::video(21, 4, 6, 9), segment::text(237, 9)};
  spatial_temporal const both{{segments.data(), 3}};
  by_head<spatial_temporal> heads{{both, both}};
  heads.kinds[0].temporal_frames = 0;
  heads.kinds[1].spatial_radius = 0;
  fixtures::buffer<std::uint8_t> const of_one_kind = {0, 0, 0, 1, 1, 1}, mixed = {0, 1, 0, 1, 1, 1};
  heads.heads = 6;
  fixtures::buffer<segment> const media(std::begin(fixtures::mixed_media), std::end(fixtures::mixed_media));
  token_layout const layout{media.data(), 5};
  for (int keep : {100, 60}) {
    shape s = square(6, 2, 4, 246);
    s.keep_percent = keep;
    heads.kind_of = of_one_kind.data();
    double const apart = check<ragged>(random, s, heads, heads_hold::the_same).share;
    heads.kind_of = mixed.data();
    double const together = check<ragged>(random, s, heads).share;
    CHECK(apart < check<ragged>(random, s, both).share);
    CHECK(apart < together);

    s = square(6, 2, 4, fixtures::mixed_media_tokens);
    s.keep_percent = keep;
    check<ragged>(random, s, bidirectional<>{layout});
    using predicate = custom<fixtures::scattered>;
    check<ragged>(random, s, bidirectional<predicate>{layout, predicate{{random(), 30, 8}}});
  }
}

namespace gpu_plan_test {

/// A prompt of text, a video and text.
struct video_prompt {
  int head, frames, height, width, tail, group;
  double most;  // of the executed density

  int places() const { return height * width; }
  int tokens() const { return head + frames * places() + tail; }
};

template <class P>
double executed(test::random& random, P const& pattern, int tokens, int group, tile_grain const& grain) {
  input<contiguous> const in(random, square(group, 1, 1, tokens));
  planned const made(random, pattern, in);
  return executed_pairs(pattern, made.plan, in.queries, in.cache.view, grain);
}

}  // namespace gpu_plan_test

TEST_CASE("plan on a GPU: executed density of spatial_temporal in blocks of 128 rows") {
  SEEDED(random);
  video_prompt const prompts[] = {
      {35, 9, 13, 13, 40, 4, .414},  // VideoLLaMA2, 16 frames
      {35, 8, 13, 13, 40, 7, .359},  // VideoLLaMA2.1
      {20, 8, 12, 22, 40, 7, .272},  // Qwen2.5-VL, 8, 16 and 32 frames
      {20, 16, 16, 24, 40, 7, .139}, {20, 32, 24, 32, 40, 7, .064},
  };
  for (video_prompt const& p : prompts) {
    CAPTURE(p.frames);
    fixtures::buffer<segment> prompt = {segment::text(0, p.head), segment::video(p.head, p.frames, p.height, p.width),
                                        segment::text(p.head + p.frames * p.places(), p.tail)};
    spatial_temporal const pattern{{prompt.data(), 3}};
    double const dense_pairs = executed(random, dense{}, p.tokens(), p.group, {128, 128});
    CHECK(executed(random, pattern, p.tokens(), p.group, {128, 16}) <= p.most * dense_pairs);
  }
}

namespace gpu_plan_test {

/// Segments one behind the other.
fixtures::buffer<segment> in_order(std::vector<segment> const& segments) {
  fixtures::buffer<segment> all(segments.begin(), segments.end());
  for (std::size_t i = 1; i < all.size(); ++i) all[i].begin = all[i - 1].end();
  return all;
}

}  // namespace gpu_plan_test

TEST_CASE("plan on a GPU: short pieces share tiles, so that there is not much more work than dense attention") {
  SEEDED(random);
  for (int group : {1, 7, 40}) {
    CAPTURE(group);
    auto const share = [&](std::vector<segment> const& list, auto const& change) {
      auto const segments = in_order(list);
      spatial_temporal pattern{{segments.data(), static_cast<int>(segments.size())}};
      change(pattern);
      int const tokens = pattern.layout.tokens();
      return executed(random, pattern, tokens, group, {128, 16}) / executed(random, dense{}, tokens, group, {128, 16});
    };
    auto const as_it_is = [](spatial_temporal&) {};
    CHECK(share({segment::text(0, 700)}, as_it_is) == 1);
    // Of 128 queries the last tile is the short one, where dense attention's is the first: 2624 / 2304 keys.
    CHECK(share({segment::video(0, 700, 1, 1)}, as_it_is) < 1.15);
    CHECK(share({segment::text(0, 100), segment::video(0, 150, 1, 2), segment::text(0, 333)}, as_it_is) < 1.25);
    CHECK(share({segment::text(0, 600), segment::video(0, 3, 2, 3), segment::text(0, 70)}, as_it_is) < 1.25);
    // Apart, short frames that see only themselves are less work.
    int const places = 128 / group / 3 + 1;
    double const together = share({segment::video(0, 600 / places, 1, places)}, as_it_is);
    CHECK(share({segment::video(0, 600 / places, 1, places)},
                [](spatial_temporal& p) { p.temporal_frames = p.sinks = 0; }) < 0.5 * together);
    for (int trial = 0; trial < 2; ++trial) {
      std::vector<segment> list;
      for (int i = random.between(1, 30); i > 0; --i)
        list.push_back(random.between(0, 2) == 0
                           ? segment::text(0, random.between(1, 90))
                           : segment::video(0, random.between(1, 9), random.between(1, 5), random.between(1, 7)));
      CHECK(share(list, as_it_is) < 2);
    }
  }
}

TEST_CASE("plan on a GPU: what is left over of a long piece comes first, short ones fill a tile") {
  SEEDED(random);
  auto const counts = [&](spatial_temporal const& pattern, int missing = INT32_MAX) {
    input<contiguous> in(random, square(4, 1, 1, pattern.layout.tokens() - (missing < INT32_MAX ? 1 : 0)));
    for (std::int32_t& position : in.positions) position += position >= missing ? 1 : 0;
    planned const made(random, pattern, in);
    std::vector<int> all;
    for (int t = 0; t < made.plan.tile_count(0); ++t) all.push_back(made.plan.tile(0, t).count);
    return all;
  };
  auto const segments = in_order({segment::text(0, 45), segment::video(0, 3, 1, 9), segment::text(0, 7)});
  spatial_temporal const mixed{{segments.data(), 3}};
  CHECK(counts(mixed) == std::vector<int>{13, 32, 27, 7});
  CHECK(counts(mixed, 3) == std::vector<int>{12, 32, 27, 7});
}

TEST_CASE("plan on a GPU: tiles of many sequences and of more than one chunk, whatever the layout") {
  SEEDED(random);
  for (int group : {1, 7, 40, 200}) {
    CAPTURE(group);
    std::vector<segment> list;
    int tokens = 0;
    while (tokens < (group == 1 ? 1100 : group == 7 ? 300 : 100)) {
      list.push_back(random.between(0, 2) == 0
                         ? segment::text(0, random.between(1, 50))
                         : segment::video(0, random.between(1, 3), random.between(1, 3), random.between(1, 40)));
      tokens += list.back().tokens();
    }
    auto const segments = in_order(list);
    spatial_temporal pattern{{segments.data(), static_cast<int>(segments.size())}};
    pattern.temporal_frames = random.between(0, 2);
    shape s = square(group, 1, 1, tokens);
    check<contiguous>(random, s, pattern);
    // Frames much shorter than a tile, which would be less work apart, but are too many.
    auto const short_frames = in_order({segment::video(0, tokens / 2, 1, 2)});
    check<contiguous>(random, square(group, 1, 1, tokens / 2 * 2),
                      spatial_temporal{{short_frames.data(), 1}, 0, 0, 0, 0});
    s.span = {1, tokens, 3, tokens / 2};
    s.queries = {0, tokens / 3, 3, tokens / 2};
    s.keep_percent = 50;
    check<ragged>(random, s, pattern);
    s.scattered = true;
    check<ragged>(random, s, pattern);
  }
}

namespace gpu_plan_test {

/// Every other key: as many runs as can be.
struct every_other {
  PUREKV_HD bool visible(std::int32_t, std::int32_t, std::int32_t k) const { return k % 2 == 0; }
  template <class F> PUREKV_HD void runs(std::int32_t, std::int32_t q_last, F const& emit) const {
    for (std::int32_t k = 0; k <= q_last + 4; k += 2) emit(k, k, true);  // more than causality allows
  }
};

/// A run that goes on beyond what causality allows.
struct further {
  PUREKV_HD bool visible(std::int32_t, std::int32_t, std::int32_t) const { return true; }
  template <class F> PUREKV_HD void runs(std::int32_t, std::int32_t q_last, F const& emit) const {
    emit(0, q_last + 5, true);
    emit(q_last + 6, q_last + 9, true);
  }
};

}  // namespace gpu_plan_test

TEST_CASE("plan on a GPU: runs end where causality does") {
  SEEDED(random);
  for (int keep : {100, 60}) {
    shape s = square(1, 1, 1, 300);
    s.keep_percent = keep;
    check<ragged>(random, s, further{});
  }
}

TEST_CASE("plan on a GPU: runs are joined where they are too many, and masks end where their memory does") {
  SEEDED(random);
  found const joined = check<contiguous>(random, square(100, 1, 1, 300), every_other{});
  CHECK(joined.partial == joined.runs);
  CHECK(joined.runs > 3000);
  CHECK(joined.runs <= 8192);
  CHECK(check<contiguous>(random, square(1, 1, 1, 300), every_other{}).partial == 0);
  CHECK(check<contiguous>(random, square(100, 1, 1, 180), every_other{}).runs == 8190);
  found const too_many = check<contiguous>(random, square(100, 1, 1, 181), every_other{});
  CHECK(too_many.partial == too_many.runs);
  CHECK(too_many.runs <= 8192);

  shape s = square(8, 2, 1, 5000);
  s.queries = {130};
  found const some = check<contiguous>(random, s, custom<for_all_heads, no_classifier, false>{{{random(), 50, 1}}});
  CHECK(some.with_masks > 0);
  CHECK(some.with_masks < some.partial);
}

TEST_CASE("plan on a GPU: the same plan in every run, and one that validate accepts") {
  SEEDED(random);
  fixtures::buffer<segment> const segments = {segment::text(0, 21), segment::video(21, 5, 9, 9), segment::text(426, 9)};
  spatial_temporal pattern{{segments.data(), 3}};
  pattern.spatial_radius = 2;
  pattern.temporal_radius = 1;
  input<ragged> const in(random, [] {
    shape s = square(8, 2, 1, 435);
    s.keep_percent = 80;
    return s;
  }());
  planned const one(random, pattern, in), other(random, pattern, in);
  test::gpu_device device(random);
  fixtures::buffer<violation> found(1);
  device.run([&](gpu const& exec) { return validate(exec, one.plan, in.queries, in.cache.view, found.data()); });
  CHECK(explain(found[0]).ok());
  for (int h = 0; h < 2; ++h) {
    REQUIRE(one.plan.tile_count(h) == other.plan.tile_count(h));
    for (int t = 0; t < one.plan.tile_count(h); ++t) {
      query_tile const &a = one.plan.tile(h, t), &b = other.plan.tile(h, t);
      REQUIRE(std::memcmp(&a, &b, sizeof a) == 0);
      for (int r = 0; r < a.runs; ++r) {
        key_run const &x = one.plan.runs[a.runs_begin + r], &y = other.plan.runs[b.runs_begin + r];
        REQUIRE((x.begin == y.begin && x.count == y.count && x.full == y.full && x.masks == y.masks));
      }
    }
  }
}

TEST_CASE("plan on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  input<contiguous> const in(random, square(4, 2, 8, 40));
  test::gpu_device device(random);
  auto const code = [&](auto const& change) {
    gpu exec = device.exec();
    auto q = in.queries;
    auto cache = in.cache.view;
    fixtures::owned_workspace memory(plan_workspace(exec, dense{}, q, cache));
    workspace given = memory.view();
    change(exec, q, cache, given);
    fixtures::snapshot before;
    before.watch(static_cast<unsigned char const*>(memory.view().data), static_cast<std::int64_t>(memory.view().bytes));
    tile_plan out{};
    out.queries = -7;
    errc const result = device.status_of([&](gpu const&) { return plan(exec, dense{}, q, cache, given, out); }).code;
    CHECK((result == errc::ok) == (out.queries != -7));
    CHECK((result == errc::ok || before.unchanged()));
    return result;
  };
  CHECK(code([](auto&, auto&, auto&, auto&) {}) == errc::ok);
  CHECK(code([](auto& exec, auto&, auto&, auto&) { exec.device = {}; }) == errc::unsupported_device);
  CHECK(code([](auto&, auto& q, auto&, auto&) { q.batch.positions = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto& q, auto&, auto&) { q.rows.heads = 5; }) == errc::bad_shape);
  CHECK(code([](auto&, auto& q, auto&, auto&) { q.batch.sequences = 2; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, auto& cache, auto&) { cache.positions = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto&, auto& work) { --work.bytes; }) == errc::workspace_too_small);
  CHECK(code([](auto&, auto&, auto&, auto& work) { work = {}; }) == errc::workspace_too_small);

  by_head<dense> of_two{{}, nullptr, 2};
  fixtures::owned_workspace memory(1 << 20);
  tile_plan out{};
  CHECK(
      device
          .status_of([&](gpu const& exec) { return plan(exec, of_two, in.queries, in.cache.view, memory.view(), out); })
          .code == errc::mismatch);
  CHECK(plan_workspace(device.exec(), of_two, in.queries, in.cache.view) == 0);
  CHECK(plan_workspace(device.exec(), dense{}, in.queries, in.cache.view, heads_hold::the_same) <
        plan_workspace(device.exec(), dense{}, in.queries, in.cache.view));
}
