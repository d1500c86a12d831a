// SPDX-License-Identifier: Apache-2.0
#include <purekv/detail/scattered_rows.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/plan_checks.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/one_of.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

using namespace fixtures;
using purekv::bfloat16;
using purekv::half;
using purekv::spatial_temporal;

// Attention through the operation, over plans that have scattered runs: every test makes sure that they do.

namespace {

/// 9 tokens of text, 6 frames of 7 x 9, 5 tokens of text.
purekv::segment const segments[] = {purekv::segment::text(0, 9), purekv::segment::video(9, 6, 7, 9),
                                    purekv::segment::text(387, 5)};
constexpr int tokens = 392;
spatial_temporal const video{.layout = {segments, 3}};

struct planned {
  owned_workspace memory;
  purekv::tile_plan plan;

  template <class P, class Input>
  planned(P const& pattern, Input const& in) : memory(purekv::plan_workspace(pattern, in.queries, in.cache.view)) {
    REQUIRE(purekv::plan(purekv::cpu{}, pattern, in.queries, in.cache.view, memory.view(), plan).ok());
  }
  int scattered_runs(int kv_heads) const {
    int count = 0;
    for (int h = 0; h < (plan.per_kv_head ? kv_heads : 1); ++h)
      for (int t = 0; t < plan.tiles_per_head; ++t)
        for (int r = 0; r < plan.tile(h, t).runs; ++r)
          count += plan.runs[plan.tile(h, t).runs_begin + r].scattered != 0;
    return count;
  }
};

struct attend_operation {
  static std::size_t bytes(auto const&... in) { return purekv::attend_workspace(in...); }
  static purekv::status run(auto const&... in) { return purekv::attend(in...); }
};

template <class TO, class P, class Input>
attention_output<TO> check(Input const& in, shape const& s, P const& pattern, tap_request request = {}) {
  request.block_mass = true;
  CHECK(planned(pattern, in).scattered_runs(s.kv_heads) > 0);
  return operation_check<attend_operation, TO>{}(in, s, pattern, request, {1, 3});
}

shape any_layout(generator& random, shape s) {
  s.q_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
  s.out_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
  s.gap = between(random, 0, 1) * between(random, 1, 9);
  s.poison = between(random, 0, 1) == 0 ? beyond::nan : beyond::attractive;
  return s;
}

}  // namespace

TEST_CASE("scattered rows: groups and widths, queries of a group that two blocks of rows share") {
  SEEDED(random);
  int const widths[][2] = {{64, 64}, {72, 40}, {80, 128}, {96, 96}, {128, 72}, {256, 5}, {5, 70}};
  for (int group : {1, 4, 7, 8, 12}) {
    auto const [dim, value_dim] = widths[between(random, 0, 6)];
    shape s = any_layout(random, square(2 * group, 2, dim, tokens));
    s.value_dim = value_dim;
    attention_input<float, owned_contiguous<float>> const in(random, s);
    check<float>(in, s, video, {.mass = true});
  }
}

TEST_CASE("scattered rows: half and bfloat16, pruned caches, chunks, several sequences") {
  SEEDED(random);
  shape s = any_layout(random, square(8, 2, 64, tokens));
  s.span = {tokens, 0, 250, 1};
  s.queries = {200, 0, 90, 1};
  s.keep_percent = between(random, 30, 90);
  {
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(in, s, video);
  }
  s.scattered = true;
  s.dim = 100;
  attention_input<bfloat16, owned_contiguous<bfloat16>> const in(random, s);
  check<bfloat16>(in, s, video);
}

TEST_CASE("scattered rows: more keys than are attended to together") {
  SEEDED(random);
  purekv::segment const long_video[] = {purekv::segment::text(0, 3), purekv::segment::video(3, 141, 3, 6)};
  shape s = any_layout(random, square(4, 1, 24, 3 + 141 * 18));
  s.queries = {50};
  attention_input<float, owned_contiguous<float>> in(random, s);
  check<float>(in, s, spatial_temporal{.layout = {long_video, 2}});
  // The largest logits among the first keys, among the last, and none that counts among the others.
  for (int k : {9, 3 + 120 * 18 + 4})
    for (int d = 0; d < 24; ++d) in.cache.view.run(0, 0, k).keys[d] *= 40;
  check<float>(in, s, spatial_temporal{.layout = {long_video, 2}});
}

TEST_CASE("scattered rows: heads of a group that see different keys") {
  SEEDED(random);
  std::uint8_t const kind_of[] = {1, 1, 0, 0, 0, 1};
  purekv::by_head<spatial_temporal> heads{{video, video}, kind_of, 6};
  heads.kinds[0].spatial_radius = 0;
  heads.kinds[1].spatial_radius = 1;
  heads.kinds[1].temporal_frames = 0;
  shape s = any_layout(random, square(6, 2, 40, tokens));
  attention_input<float, owned_contiguous<half>> const in(random, s);
  check<float>(in, s, heads, {.mass = true, .mass_rows = purekv::score_rows::heads});
}

TEST_CASE("scattered rows: one_of several patterns has the bits of the one that it holds") {
  SEEDED(random);
  shape const s = any_layout(random, square(7, 1, 48, tokens));
  attention_input<float, owned_ragged<float>> const in(random, s);
  auto const own = check<float>(in, s, video);
  CHECK(check<float>(in, s, purekv::one_of<spatial_temporal, purekv::sliding_window>{video}).same_bits_as(own));
}

TEST_CASE("scattered rows: a plan for all layers has the bits of one made each time, also for a pattern without runs") {
  SEEDED(random);
  shape const s = any_layout(random, square(8, 2, 40, tokens));
  attention_input<float, owned_contiguous<half>> const in(random, s), next_layer(random, s);
  planned const made(video, in);
  auto const with_plan = [&](auto const& layer, auto const& pattern) {
    return check_attention<float>(
        layer, s, oracle::attend(video, layer.queries, layer.cache.view), {.block_mass = true},
        [&](purekv::cpu exec, purekv::attend_taps const& taps) {
          return purekv::attend_workspace(exec, made.plan, layer.queries, layer.cache.view, taps);
        },
        [&](purekv::cpu exec, purekv::rows_view<float> const& out, purekv::attend_taps const& taps,
            purekv::workspace work) {
          return purekv::attend(exec, pattern, made.plan, layer.queries, layer.cache.view, out, taps, work);
        },
        {1, 2});
  };
  CHECK(with_plan(in, video).same_bits_as(check<float>(in, s, video)));
  with_plan(next_layer, video);
  auto const predicate = [&](int h, int q, int k) { return video.visible(h, q, k); };
  with_plan(in, pattern_of<false>(predicate));
}

TEST_CASE("scattered rows: a query's own key and value beside them") {
  SEEDED(random);
  for (int group : {1, 4, 7}) {
    shape s = any_layout(random, square(2 * group, 2, 40, tokens));
    s.value_dim = group == 4 ? 24 : 0;
    s.keep_percent = 40;
    s.soft_cap = group == 7 ? 1.5f : 0;
    attention_input<float, owned_ragged<half>> const in(random, s);
    owned_rows<half> keys(2, tokens, s.dim, s.q_order, s.gap), values(2, tokens, s.out_dim(), s.q_order, s.gap);
    keys.fill_normal(random);
    values.fill_normal(random);
    if (group == 1) keys.view.row(0, 200)[3] = values.view.row(1, 201)[5] = half(NAN);
    CHECK(planned(video, in).scattered_runs(2) > 0);
    check_attention<float>(
        in, s, oracle::attend_self(video, in.queries, in.cache.view, keys.rows(), values.rows()), {.block_mass = true},
        [&](purekv::cpu exec, purekv::attend_taps const& taps) {
          return purekv::attend_workspace(exec, video, in.queries, in.cache.view, taps);
        },
        [&](purekv::cpu exec, purekv::rows_view<float> const& out, purekv::attend_taps const& taps,
            purekv::workspace work) {
          return purekv::attend(exec, video, in.queries, in.cache.view,
                                purekv::self_view<half>{keys.rows(), values.rows()}, out, taps, work);
        },
        {1, 3});
  }
}

TEST_CASE("scattered rows: soft caps, sinks, logits in the thousands, NaN and inf") {
  SEEDED(random);
  for (float cap : {0.0f, 2.0f})
    for (bool odd : {false, true}) {
      shape s = any_layout(random, square(7, 1, 40, tokens));
      s.soft_cap = cap;
      s.sinks = true;
      s.spread = odd ? 1 : 300;
      attention_input<float, owned_ragged<float>> in(random, s);
      if (odd)
        for (float x : {NAN, HUGE_VALF, -HUGE_VALF})
          for (int i = 0; i < 4; ++i) {
            // Of frames before the last, which all but their own see place by place.
            in.cache.view.run(0, 0, between(random, 9, 323)).keys[between(random, 0, 39)] = x;
            in.cache.view.run(0, 0, between(random, 9, 323)).values[between(random, 0, 39)] = x;
          }
      check<float>(in, s, video);
    }
}

TEST_CASE("scattered rows: a value whose probability is zero in the end counts for nothing, whatever it is") {
  SEEDED(random);
  shape const s = square(2, 1, 40, tokens);
  attention_input<float, owned_contiguous<float>> in(random, s);
  auto const& cache = in.cache.view;
  // A query of the last frame sees `weak` among scattered keys, where it counts, and then `strong` in its own frame.
  int const last_frame = 9 + 5 * 63, strong = last_frame + between(random, 0, 30), seer = between(random, strong, 386);
  int const weak = seer - 63 * between(random, 1, 5);
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < tokens; ++i) in.q.view.row(h, i)[0] = 100;
  for (int i = 0; i < tokens; ++i) cache.run(0, 0, i).keys[0] = i == strong ? 1000.0f : 0.0f;
  cache.run(0, 0, weak).values[3] = NAN;
  cache.run(0, 0, weak).values[4] = HUGE_VALF;
  auto const actual = check<float>(in, s, video);
  CHECK(std::isfinite(actual.out.view.row(1, seer)[3]));
  CHECK(std::isfinite(actual.out.view.row(0, seer)[4]));
}

TEST_CASE("scattered rows: executed pairs are those that are visible, of other runs blocks of rows x keys") {
  SEEDED(random);
  for (int group : {1, 4, 7}) {
    shape s = square(2 * group, 2, 4, tokens);
    s.keep_percent = group == 4 ? 60 : 100;
    attention_input<float, owned_ragged<float>> const in(random, s);
    planned const made(video, in);
    CHECK(made.scattered_runs(2) > 0);
    check_plan(video, in, made.plan);
    auto const& cache = in.cache.view;
    double expected = 0;
    for (int h = 0; h < 2; ++h)
      for (int t = 0; t < made.plan.tiles_per_head; ++t) {
        purekv::query_tile const& tile = made.plan.tile(h, t);
        int const block = purekv::detail::block_lanes;
        for (int r = 0; r < tile.runs; ++r) {
          purekv::key_run const& run = made.plan.runs[tile.runs_begin + r];
          for (int k = run.begin; k < run.begin + run.count; ++k) {
            std::int32_t const at = *cache.run(0, h, k).positions;
            if (run.scattered != 0)
              for (int i = 0; i < tile.count; ++i) {
                std::int32_t const q = in.positions[size(tile.first + i)];
                expected += at <= q && video.visible(0, q, at) ? group : 0;
              }
            else
              for (int row = 0; row < tile.count * group; row += block) {
                int const last = std::min(row + block, tile.count * group) - 1;
                expected += at <= in.positions[size(tile.first + last / group)] ? block : 0;
              }
          }
        }
      }
    CHECK(purekv::executed_pairs(video, made.plan, in.queries, cache) == expected);
    CHECK(purekv::executed_pairs(video, made.plan, in.queries, cache, {purekv::detail::block_lanes, 1}) > expected);
  }
}
