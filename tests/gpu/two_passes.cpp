// SPDX-License-Identifier: Apache-2.0
#include <purekv/two_passes.cuh>
// The header under test comes first.
#include "support/gpu_attention.hpp"
#include "support/pattern_checks.hpp"

#include <purekv/attend.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/validate.cuh>

#include <utility>

using namespace purekv;

namespace gpu_two_passes_test {

using fixtures::attention_input;
using fixtures::attention_output;
using fixtures::owned_contiguous;
using fixtures::owned_ragged;
using fixtures::shape;
using fixtures::size;
using fixtures::square;

/// Segments one behind the other, where the device reads them.
fixtures::buffer<segment> in_order(std::vector<segment> const& segments) {
  fixtures::buffer<segment> all(segments.begin(), segments.end());
  for (std::size_t i = 0; i < all.size(); ++i) all[i].begin = i > 0 ? all[i - 1].end() : 0;
  return all;
}

spatial_temporal over(fixtures::buffer<segment> const& segments) {
  return {{segments.data(), static_cast<std::int32_t>(segments.size())}};
}

/// Both plans, and the memory that they lie in.
struct planned {
  fixtures::owned_workspace memory;
  two_pass_plan plan{};

  template <class Input>
  planned(test::random& random, spatial_temporal const& pattern, Input const& in,
          heads_hold heads = heads_hold::anything)
      : memory(bytes(random, pattern, in, heads)) {
    test::gpu_device device(random);
    auto const call = [&](workspace const& work) {
      return device.status_of([&](gpu const& exec) {
        return purekv::plan(exec, two_passes{pattern}, in.queries, in.cache.view, work, plan, heads);
      });
    };
    CHECK(call(memory.one_byte_less()).code == errc::workspace_too_small);
    CHECK(plan.first.tiles == nullptr);
    status const s = call(memory.view());
    REQUIRE_MESSAGE(s.ok(), s.message);
    CHECK(memory.guards_untouched());
  }

 private:
  template <class Input>
  static std::size_t bytes(test::random& random, spatial_temporal const& pattern, Input const& in, heads_hold heads) {
    test::gpu_device device(random);
    return plan_workspace(device.exec(), two_passes{pattern}, in.queries, in.cache.view, heads);
  }
};

/// The plan of the first pass against the predicate: every query is in one tile, a tile lists every key that one of its
/// queries sees, and its masks say which. Returns how many tiles have no list.
template <class Input> int check_first(spatial_temporal const& pattern, Input const& in, tile_plan const& plan) {
  auto const& cache = in.cache.view;
  int unlisted = 0;
  for (int h = 0; h < cache.kv_heads; ++h) {
    std::vector<int> met(size(in.queries.rows.tokens));
    for (int t = 0; t < plan.tile_count(h); ++t) {
      query_tile const& tile = plan.tile(h, t);
      REQUIRE((tile.count > 0 && tile.count <= plan.tile_queries));
      for (int i = 0; i < tile.count; ++i) {
        int const query = plan.query(tile, i);
        REQUIRE((query >= in.queries.begin(tile.sequence) && query < in.queries.end(tile.sequence)));
        if (i > 0) CHECK(query > plan.query(tile, i - 1));
        ++met[size(query)];
      }
      std::vector<int> keys;
      key_run run{0, 0, 0};
      REQUIRE((tile.runs == 0 || tile.runs == 1));
      if (tile.runs == 1) {
        run = plan.runs[tile.runs_begin];
        CHECK(run.full == 0);
        REQUIRE(run.count > 0);
        unlisted += run.masks < 0;
        for (int k = 0; k < run.count; ++k)
          keys.push_back(plan.is_listed(run) ? plan.list(tile, run)[k] : run.begin + k);
        CHECK(std::is_sorted(keys.begin(), keys.end()));
        CHECK(std::adjacent_find(keys.begin(), keys.end()) == keys.end());
        REQUIRE((keys.front() == run.begin && keys.back() < cache.length(tile.sequence, h)));
      }
      int wrong = 0;
      for (int i = 0; i < tile.count; ++i) {
        std::int32_t const position = in.positions[size(plan.query(tile, i))];
        for (int k = 0, at = 0; k < cache.length(tile.sequence, h); ++k) {
          std::int32_t const key = *cache.run(tile.sequence, h, k).positions;
          bool const visible = key <= position && pattern.visible(0, position, key);
          bool const listed = at < static_cast<int>(keys.size()) && keys[size(at)] == k;
          wrong += visible && !listed;
          if (listed && run.masks >= 0)
            wrong += ((plan.seen(run, i, at / 64 * 64, std::min(64, run.count - at / 64 * 64)) >> at % 64 & 1) != 0) !=
                     visible;
          at += listed;
        }
      }
      CHECK(wrong == 0);
    }
    CHECK(std::all_of(met.begin(), met.end(), [](int count) { return count == 1; }));
  }
  return unlisted;
}

/// Both passes with the plan that the device makes, against the oracle of the whole pattern.
template <class TO, class Input>
attention_output<TO> check(test::random& random, Input const& in, shape const& s, spatial_temporal const& pattern,
                           fixtures::tap_request const& request = {}) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.span[0]);
  CAPTURE(s.queries[0]);
  heads_hold const heads =
      s.keep_percent == 100 && random.between(0, 1) == 0 ? heads_hold::the_same : heads_hold::anything;
  planned const made(random, pattern, in, heads);
  CHECK(check_first(two_passes{pattern}.first(), in, made.plan.first) == 0);
  return test::check_call<TO>(
      random, in, s, oracle::attend(pattern, in.queries, in.cache.view), request,
      [&](gpu const& exec, attend_taps const& taps) {
        return attend_workspace(exec, made.plan, in.queries, in.cache.view, taps);
      },
      [&](gpu const& exec, rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
        return attend(exec, two_passes{pattern}, made.plan, in.queries, in.cache.view, out, taps, work);
      },
      2 * oracle::rounding_error<TO>(1.0));  // of the first pass's results
}

/// Parameters as in the tests of the pattern, those of the temporal part above all.
void vary(test::random& random, spatial_temporal& p) {
  auto const rarely = [&] { return random.between(0, 2) == 0; };
  p.sinks = random.between(0, 6);
  if (rarely()) p.spatial_frames = random.between(0, 2);
  if (rarely()) p.spatial_radius = random.between(0, 2);
  if (rarely()) p.temporal_frames = random.between(0, 4);
  p.temporal_radius = random.between(0, 2);
  if (rarely()) p.temporal_stride = random.between(2, 3);
  p.first_frame = rarely();
  if (rarely()) p.cell = {random.between(1, 2), random.between(1, 2), random.between(1, 3)};
  p.clamped = rarely();
  p.others = static_cast<other_streams>(random.between(0, 2));
  p.audio_by_time = rarely();
}

/// (query head, key) pairs that tiles compute, blocks of 128 rows and the keys of all runs together rounded up to 16.
double pairs_of(tile_plan const& plan) {
  double pairs = 0;
  for (int h = 0; h < (plan.per_kv_head ? plan.kv_heads : 1); ++h)
    for (int t = 0; t < plan.tile_count(h); ++t) {
      query_tile const& tile = plan.tile(h, t);
      int keys = 0;
      for (int r = 0; r < tile.runs; ++r) keys += plan.runs[tile.runs_begin + r].count;
      pairs += 128.0 * ((keys + 15) / 16 * 16);
    }
  return pairs;
}

}  // namespace gpu_two_passes_test

using namespace gpu_two_passes_test;

TEST_CASE("two passes on a GPU: executed density in blocks of 128 rows") {
  SEEDED(random);
  struct video_prompt {
    int head, frames, height, width, tail, group;
    double most;  // of dense attention's pairs
  } const prompts[] = {
      {35, 9, 13, 13, 40, 4, .314},  // VideoLLaMA2, 16 frames
      {35, 8, 13, 13, 40, 7, .291},  // VideoLLaMA2.1
      {20, 8, 12, 22, 40, 7, .225},  // Qwen2.5-VL, 8, 16, 32, 64 and 384 frames
      {20, 16, 16, 24, 40, 7, .098}, {20, 32, 24, 32, 40, 7, .042},
      {20, 64, 12, 16, 40, 7, .043}, {20, 384, 8, 16, 40, 7, .015},
  };
  for (video_prompt const& p : prompts) {
    CAPTURE(p.frames);
    auto const segments =
        in_order({segment::text(0, p.head), segment::video(0, p.frames, p.height, p.width), segment::text(0, p.tail)});
    spatial_temporal const pattern = over(segments);
    attention_input<float, owned_ragged<float>> const in(random, square(p.group, 1, 1, pattern.layout.tokens()));
    planned const made(random, pattern, in);
    double dense = 0;
    int const tile = 128 / p.group, tokens = pattern.layout.tokens();
    for (int first = 0; first < tokens; first += tile)
      dense += 128.0 * ((std::min(first + tile, tokens) + 127) / 128 * 128);
    double const second =
        executed_pairs(two_passes{pattern}.second(), made.plan.second, in.queries, in.cache.view, {128, 16});
    double const density = (pairs_of(made.plan.first) + second) / dense;
    CHECK(density <= p.most + 0.0005);  // figures of three digits
  }
}

TEST_CASE("two passes on a GPU: prompts of every form, half") {
  SEEDED(random);
  struct prompt {
    std::vector<segment> segments;
    int heads, kv_heads, dim;
  } const prompts[] = {
      {{segment::text(0, 9), segment::video(0, 6, 3, 5), segment::text(0, 7)}, 4, 1, 64},
      {{segment::video(0, 9, 2, 3), segment::text(0, 3)}, 7, 1, 40},
      {{segment::text(0, 5), segment::video(0, 25, 1, 4)}, 7, 1, 64},                      // columns of two tiles
      {{segment::text(0, 5), segment::video(0, 1, 4, 5), segment::text(0, 6)}, 8, 2, 64},  // one frame
      {{segment::text(0, 5), segment::video(0, 45, 1, 4)}, 2, 1, 16},  // more ranges of keys than a warp has lanes
      {{segment::text(0, 12)}, 2, 1, 16},                              // no video
      {{segment::video(0, 3, 1, 1)}, 1, 1, 16},
      {{segment::video(0, 3, 4, 4), segment::text(0, 4), segment::video(0, 3, 4, 4), segment::text(0, 2),
        segment::video(0, 2, 2, 5)},
       4,
       2,
       32},  // text between the frames of a stream, which change their size
      {{segment::text(0, 3), segment::video(0, 7, 3, 3)}, 40, 1, 16},
      {{segment::text(0, 3), segment::video(0, 3, 2, 2)}, 150, 1, 16},  // a query is more than a tile
  };
  for (prompt const& p : prompts) {
    auto const segments = in_order(p.segments);
    spatial_temporal const pattern = over(segments);
    shape const s = test::any_layout(random, square(p.heads, p.kv_heads, p.dim, pattern.layout.tokens()));
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(random, in, s, pattern);
  }
}

TEST_CASE("two passes on a GPU: bfloat16 and results in float, every width") {
  SEEDED(random);
  auto const segments = in_order({segment::text(0, 6), segment::video(0, 5, 2, 4), segment::text(0, 5)});
  spatial_temporal const pattern = over(segments);
  for (auto [heads, kv_heads, dim] : {std::array{4, 1, 72}, {7, 1, 128}, {8, 2, 16}, {2, 1, 256}}) {
    shape const s = test::any_layout(random, square(heads, kv_heads, dim, pattern.layout.tokens()));
    attention_input<bfloat16, owned_contiguous<bfloat16>> const in(random, s);
    check<float>(random, in, s, pattern, {.lse = random.between(0, 1) == 0});
    check<bfloat16>(random, in, s, pattern);
  }
}

TEST_CASE("two passes on a GPU: chunks, pruned caches and scattered queries of any layout, with any parameters") {
  SEEDED(random);
  for (int trial = 0; trial < 12; ++trial) {
    auto const segments = in_order(test::random_segments(random, random.between(2, 8)));
    spatial_temporal pattern = over(segments);
    vary(random, pattern);
    int const tokens = pattern.layout.tokens();
    int const groups[] = {1, 4, 7, 8};
    shape s = square(groups[random.between(0, 3)], random.between(1, 2), 16, 0);
    s.heads *= s.kv_heads;
    s.span = {tokens, random.between(1, tokens), 0, tokens};
    s.queries = {random.between(1, tokens), s.span[1], 0, random.between(0, tokens)};
    s.keep_percent = random.between(0, 1) == 0 ? 100 : random.between(10, 90);
    s.scattered = random.between(0, 1) == 0;
    s.sinks = random.between(0, 2) == 0;
    s.soft_cap = random.between(0, 3) == 0 ? 1.5f : 0;
    if (random.between(0, 1) == 0) s.value_dim = 24;
    s = test::any_layout(random, s);
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(random, in, s, pattern, {.lse = true, .mass = random.between(0, 2) == 0});
  }
}

namespace gpu_two_passes_test {

/// A video with text before and behind it: 13 tokens, 5 frames of 3 x 4 and 7 tokens.
struct small_video {
  fixtures::buffer<segment> segments =
      in_order({segment::text(0, 13), segment::video(0, 5, 3, 4), segment::text(0, 7)});
  spatial_temporal pattern = over(segments);
  static constexpr int tokens = 80;

  static int at(int frame, int place) { return 13 + 12 * frame + place; }
};

}  // namespace gpu_two_passes_test

TEST_CASE("two passes on a GPU: mass sees what both passes do, a sink takes its share once") {
  SEEDED(random);
  small_video const video;
  for (int i = 0; i < 2; ++i) {
    shape s = test::any_layout(random, square(8, 2, 64, video.tokens));
    s.sinks = i == 0;
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<float>(random, in, s, video.pattern,
                 {.lse = i == 0,
                  .mass = true,
                  .block_mass = i == 1,
                  .mass_queries = i == 0 ? query_range{} : last(21),
                  .mass_rows = i == 0 ? score_rows::kv_heads : score_rows::heads,
                  .mass_by = i == 0 ? mass_reduction::sum : mass_reduction::maximum});
  }
}

TEST_CASE("two passes on a GPU: NaN and inf stay where they are seen, in whichever pass") {
  SEEDED(random);
  small_video const video;
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (int round = 0; round < 4; ++round) {
    shape s = test::any_layout(random, square(4, 2, 40, video.tokens));
    s.soft_cap = round == 3 ? 2.0f : 0;
    attention_input<half, owned_ragged<half>> in(random, s);
    auto const& cache = in.cache.view;
    auto const token = [&] { return random.between(0, video.tokens - 1); };
    auto const element = [&] { return random.between(0, s.dim - 1); };
    for (float bad : {nan, inf, -inf}) {
      cache.run(0, 0, token()).keys[element()] = half(bad);
      if (round != 1) cache.run(0, 1, token()).values[element()] = half(bad);
      in.q.view.row(random.between(0, 3), token())[element()] = half(bad);
    }
    check<half>(random, in, s, video.pattern);
  }
}

TEST_CASE("two passes on a GPU: what one pass finds may outweigh the other, values that are not numbers included") {
  SEEDED(random);
  small_video const video;
  for (bool in_first : {false, true}) {
    shape const s = square(2, 1, 64, video.tokens);
    attention_input<half, owned_ragged<half>> in(random, s);
    auto const& cache = in.cache.view;
    // Two keys that the query at place 5 of the last frame meets, one in each pass.
    int const temporal = video.at(1, 5), spatial = video.at(4, 2), query = video.at(4, 5);
    int const strong = in_first ? temporal : spatial, weak = in_first ? spatial : temporal;
    for (int h = 0; h < 2; ++h)
      for (int i = 0; i < video.tokens; ++i) in.q.view.row(h, i)[0] = half(100.0f);
    for (int i = 0; i < video.tokens; ++i) cache.run(0, 0, i).keys[0] = half(i == strong ? 1000.0f : 0.0f);
    cache.run(0, 0, weak).values[3] = half(std::numeric_limits<float>::quiet_NaN());
    cache.run(0, 0, weak).values[4] = half(std::numeric_limits<float>::infinity());
    auto const actual = check<half>(random, in, s, video.pattern);
    CHECK(std::isfinite(static_cast<float>(actual.out.view.row(1, query)[3])));
    CHECK(std::isfinite(static_cast<float>(actual.out.view.row(1, query)[4])));
  }
}

TEST_CASE("two passes on a GPU: logits too large for a log-sum-exp of both") {
  SEEDED(random);
  small_video const video;
  shape s = square(4, 2, 32, video.tokens);
  for (float scale : {1e-20f, 1e7f, 1e30f, -0.3f}) {
    s.scale = scale;
    attention_input<half, owned_ragged<half>> in(random, s);
    // Keys that are alike, so that many have the largest logit.
    for (int i = 0; i < video.tokens; ++i)
      for (int c = 0; c < s.dim; ++c) in.cache.view.run(0, 0, i).keys[c] = half(c == 1 ? 1.0f : 0.0f);
    check<half>(random, in, s, video.pattern);
  }
}

TEST_CASE("two passes on a GPU: what lies in the result before is not read") {
  SEEDED(random);
  small_video const video;
  shape const s = square(4, 2, 64, video.tokens);
  attention_input<half, owned_ragged<half>> const in(random, s);
  planned const made(random, video.pattern, in);
  attention_output<half> first(in, s, {}), second(in, s, {});
  for (half& x : second.out.memory) x = half(std::numeric_limits<float>::quiet_NaN());
  for (auto* out : {&first, &second}) {
    test::gpu_device device(random);
    fixtures::owned_workspace work(attend_workspace(device.exec(), made.plan, in.queries, in.cache.view, out->taps));
    device.run([&](gpu const& exec) {
      return attend(exec, two_passes{video.pattern}, made.plan, in.queries, in.cache.view, out->out.view, out->taps,
                    work.view());
    });
  }
  for (int h = 0; h < 4; ++h)
    for (int i = 0; i < video.tokens; ++i)
      for (int c = 0; c < s.dim; ++c)
        CHECK(fixtures::same_bits(first.out.view.row(h, i)[c], second.out.view.row(h, i)[c]));
}

TEST_CASE("two passes on a GPU: where lists of keys do not fit, the pattern is asked pair by pair") {
  SEEDED(random);
  auto const segments = in_order({segment::text(0, 8), segment::video(0, 38, 8, 8)});
  spatial_temporal pattern = over(segments);
  pattern.spatial_radius = 0;
  pattern.temporal_radius = spatial_temporal::everything;
  shape s = square(1, 1, 16, pattern.layout.tokens());
  s.queries = {250};
  attention_input<half, owned_ragged<half>> const in(random, s);
  planned const made(random, pattern, in);
  CHECK(check_first(two_passes{pattern}.first(), in, made.plan.first) > 0);
  auto const bytes = [&](gpu const& exec, attend_taps const& taps) {
    return attend_workspace(exec, made.plan, in.queries, in.cache.view, taps);
  };
  test::check_call<half>(
      random, in, s, oracle::attend(pattern, in.queries, in.cache.view), {}, bytes,
      [&](gpu const& exec, rows_view<half> const& out, attend_taps const& taps, workspace const& work) {
        return attend(exec, two_passes{pattern}, made.plan, in.queries, in.cache.view, out, taps, work);
      },
      2 * oracle::rounding_error<half>(1.0));
}

TEST_CASE("two passes on a GPU: the validating kernel knows their plans, the CPU refuses them") {
  SEEDED(random);
  small_video const video;
  shape const s = square(4, 2, 16, video.tokens);
  attention_input<half, owned_ragged<half>> const in(random, s);
  planned made(random, video.pattern, in);
  test::gpu_device device(random);
  fixtures::buffer<violation> found(1);
  auto const valid = [&](tile_plan const& plan) {
    device.run([&](gpu const& exec) { return validate(exec, plan, in.queries, in.cache.view, found.data()); });
    return found[0].broken == violation::rule::none;
  };
  CHECK(valid(made.plan.first));
  CHECK(valid(made.plan.second));
  tile_plan const& plan = made.plan.first;
  auto* const order = const_cast<std::int32_t*>(plan.order);
  std::swap(order[plan.tile(0, 1).first], order[plan.tile(0, 1).first + 1]);
  CHECK(!valid(plan));
  std::swap(order[plan.tile(0, 1).first], order[plan.tile(0, 1).first + 1]);
  CHECK(valid(plan));
  for (int t = 0; t < plan.tile_count(0); ++t)
    if (query_tile const& tile = plan.tile(0, t); tile.runs > 0) {
      key_run const& run = plan.runs[tile.runs_begin];
      auto& last = const_cast<std::int32_t&>(plan.list(tile, run)[run.count - 1]);
      std::int32_t const was = std::exchange(last, video.tokens);
      CHECK(!valid(plan));
      last = was;
      break;
    }

  attention_output<half> const out(in, s, {});
  fixtures::owned_workspace work(1 << 20);
  CHECK(attend(cpu{}, two_passes{video.pattern}.first(), plan, in.queries, in.cache.view, out.out.view, out.taps,
               work.view())
            .code == errc::mismatch);
  CHECK(device
            .status_of([&](gpu const& exec) {
              return attend(exec, dense{}, plan, in.queries, in.cache.view, out.out.view, out.taps, work.view());
            })
            .code == errc::mismatch);
  CHECK(out.untouched());
}

TEST_CASE("two passes on a GPU: bad input is refused, and nothing is written") {
  SEEDED(random);
  small_video const video;
  shape const s = square(4, 2, 16, video.tokens);
  attention_input<half, owned_ragged<half>> const in(random, s);
  planned const made(random, video.pattern, in);
  attention_output<half> const out(in, s, {});
  fixtures::owned_workspace work(1 << 20);
  test::gpu_device device(random);
  two_passes const passes{video.pattern};
  auto const code = [&](auto const& change) {
    gpu exec = device.exec();
    two_passes of = passes;
    two_pass_plan plan = made.plan;
    query_view<half> q = in.queries;
    change(exec, of, plan, q);
    return device
        .status_of(
            [&](gpu const&) { return attend(exec, of, plan, q, in.cache.view, out.out.view, out.taps, work.view()); })
        .code;
  };
  CHECK(code([](gpu& exec, auto&, auto&, auto&) { exec.device = {}; }) == errc::unsupported_device);
  CHECK(code([](auto&, two_passes& p, auto&, auto&) { p = {p.first()}; }) == errc::bad_policy);
  CHECK(code([](auto&, auto&, two_pass_plan& p, auto&) { p.first.queries = 3; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, two_pass_plan& p, auto&) { p.second.heads = 8; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, auto&, query_view<half>& q) { q.rows.data = nullptr; }) == errc::null_data);
  CHECK(out.untouched());

  two_pass_plan plan{};
  auto const plan_code = [&](two_passes const& of, query_view<half> const& q) {
    return device
        .status_of([&](gpu const& exec) { return purekv::plan(exec, of, q, in.cache.view, work.view(), plan); })
        .code;
  };
  query_view<half> odd = in.queries;
  odd.rows.heads = 3;
  CHECK(plan_code({passes.second()}, in.queries) == errc::bad_policy);
  CHECK(plan_code(passes, odd) == errc::bad_shape);
  CHECK(plan.first.tiles == nullptr);
}

TEST_CASE("two passes: predicted where frames are many, not where they are few") {
  auto const faster = [](std::vector<segment> const& list, int heads, int kv_heads) {
    auto const segments = in_order(list);
    return predict_passes(over(segments), heads, kv_heads).two_are_faster();
  };
  CHECK(!faster({segment::text(0, 35), segment::video(0, 9, 13, 13), segment::text(0, 40)}, 32, 8));
  CHECK(!faster({segment::text(0, 20), segment::video(0, 8, 12, 22), segment::text(0, 40)}, 28, 4));
  CHECK(faster({segment::text(0, 20), segment::video(0, 32, 24, 32), segment::text(0, 40)}, 28, 4));
  CHECK(faster({segment::text(0, 20), segment::video(0, 64, 12, 16), segment::text(0, 40)}, 28, 4));
  CHECK(faster({segment::text(0, 20), segment::video(0, 384, 8, 16), segment::text(0, 40)}, 28, 4));
  CHECK(!faster({segment::text(0, 900)}, 28, 4));
  // Text between the frames: their columns go on.
  std::vector<segment> apart;
  for (int t = 0; t < 64; ++t) {
    apart.push_back(segment::text(0, 5));
    apart.push_back(segment::video(0, 1, 12, 16));
  }
  CHECK(faster(apart, 28, 4));
}

TEST_CASE("two passes: the prediction is what plans compute") {
  SEEDED(random);
  auto const segments = in_order({segment::text(0, 20), segment::video(0, 20, 6, 9), segment::text(0, 18)});
  spatial_temporal const pattern = over(segments);
  int const group = 7, tokens = pattern.layout.tokens();
  attention_input<float, owned_ragged<float>> const in(random, square(group, 1, 1, tokens));
  planned const made(random, pattern, in);
  double const text = 128.0 * (16 + 32 + 1120);  // tiles of 2, 18 and 18 tokens
  pass_costs const costs = predict_passes(pattern, group, 1);
  double const predicted = costs.two - detail::pass_tuning::launch - detail::pass_tuning::row * group * 20 * 54;
  CHECK(predicted == doctest::Approx(pairs_of(made.plan.first) + pairs_of(made.plan.second) - text).epsilon(0.1));
}
