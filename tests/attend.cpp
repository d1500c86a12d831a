// SPDX-License-Identifier: Apache-2.0
#include <purekv/attend.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>
#include <purekv/plan.hpp>

using namespace fixtures;
using purekv::bfloat16;
using purekv::half;

namespace {

purekv::dense const dense{};

struct attend_operation {
  static std::size_t bytes(auto const&... in) { return purekv::attend_workspace(in...); }
  static purekv::status run(auto const&... in) { return purekv::attend(in...); }
};
template <class TO> operation_check<attend_operation, TO> const check{};

/// Layout of memory drawn at random: it must never matter.
shape any_layout(generator& random, shape s) {
  auto const any_order = [&] { return between(random, 0, 1) == 0 ? order::head_major : order::token_major; };
  s.q_order = any_order();
  s.cache_order = any_order();
  s.out_order = any_order();
  s.gap = between(random, 0, 1) * between(random, 1, 9);
  s.poison = between(random, 0, 1) == 0 ? beyond::nan : beyond::attractive;
  return s;
}

tap_request any_taps(generator& random, int queries) {
  tap_request request;
  request.mass = between(random, 0, 2) > 0;
  request.lse = between(random, 0, 3) > 0;
  request.block_mass = between(random, 0, 2) > 0;
  request.mass_rows = between(random, 0, 1) == 0 ? purekv::score_rows::heads : purekv::score_rows::kv_heads;
  switch (between(random, 0, 3)) {
    case 0:
      break;
    case 1:
      request.mass_queries = purekv::last(between(random, 1, queries + 1));
      break;
    case 2:
      request.mass_queries = {between(random, 0, queries), between(random, 0, queries), true};
      break;
    default:
      request.mass_queries = {between(random, 0, queries), between(random, 0, queries + 1)};
  }
  return request;
}

template <class TQ, class Owned, class TO, class P>
void check_shapes(generator& random, P const& pattern, std::initializer_list<shape> shapes) {
  for (shape const& plain : shapes) {
    shape const s = any_layout(random, plain);
    attention_input<TQ, Owned> const in(random, s);
    check<TO>(in, s, pattern, any_taps(random, s.queries[0]));
  }
}

}  // namespace

TEST_CASE("attend: float, dense") {
  SEEDED(random);
  check_shapes<float, owned_contiguous<float>, float>(
      random, dense,
      {square(1, 1, 64, 1), square(4, 1, 64, 5), square(7, 1, 64, 15), square(8, 2, 64, 16), square(3, 1, 64, 17),
       square(2, 2, 64, 63), square(4, 2, 128, 64), square(8, 1, 128, 65), square(14, 2, 64, 127),
       square(4, 1, 128, 128), square(6, 2, 128, 129), square(8, 2, 64, 300), square(4, 4, 128, 300),
       square(70, 1, 64, 33), square(300, 1, 32, 9), square(4, 1, 64, 1001)});
}

TEST_CASE("attend: dims outside the fast path") {
  SEEDED(random);
  check_shapes<float, owned_contiguous<float>, float>(
      random, dense,
      {square(9, 3, 1, 65), square(4, 2, 5, 64), square(2, 1, 32, 63), square(4, 4, 72, 17), square(8, 1, 80, 129),
       square(7, 1, 96, 65), square(4, 2, 100, 128), square(2, 1, 256, 40), square(2, 2, 3, 300), square(7, 1, 112, 70),
       square(2, 1, 192, 90)});
}

TEST_CASE("attend: half throughout") {
  SEEDED(random);
  check_shapes<half, owned_contiguous<half>, half>(
      random, dense,
      {square(4, 1, 64, 1), square(7, 1, 64, 65), square(8, 1, 128, 127), square(3, 3, 100, 17), square(8, 2, 128, 300),
       square(2, 1, 5, 16)});
}

TEST_CASE("attend: bfloat16 throughout") {
  SEEDED(random);
  check_shapes<bfloat16, owned_contiguous<bfloat16>, bfloat16>(
      random, dense,
      {square(2, 2, 128, 5), square(8, 1, 64, 129), square(7, 1, 128, 64), square(4, 2, 80, 15), square(4, 1, 64, 300),
       square(3, 1, 1, 63)});
}

TEST_CASE("attend: a ragged batch with empty sequences, whole prompts and chunks") {
  SEEDED(random);
  shape s;
  s.heads = 4;
  s.kv_heads = 2;
  s.span = {0, 5, 64, 1, 130, 70, 300, 40};
  s.queries = {0, 5, 64, 1, 130, 1, 77, 0};
  s = any_layout(random, s);
  for (auto rows : {purekv::score_rows::heads, purekv::score_rows::kv_heads}) {
    attention_input<float, owned_contiguous<float>> const in(random, s);
    check<float>(in, s, dense, {.mass = true, .mass_rows = rows});
    check<float>(in, s, dense, {.lse = false, .mass = true, .mass_queries = purekv::last(16), .mass_rows = rows});
    check<float>(in, s, dense, {.mass = true, .mass_rows = rows, .mass_by = purekv::mass_reduction::maximum});
  }
}

TEST_CASE("attend: no queries at all") {
  SEEDED(random);
  shape s = square(4, 2, 64, 0);
  attention_input<float, owned_contiguous<float>> const nothing(random, s);
  check<float>(nothing, s, dense, {.mass = true});
  s.span = {20};
  attention_input<float, owned_contiguous<float>> const only_keys(random, s);
  check<float>(only_keys, s, dense, {.mass = true});
}

TEST_CASE("attend: a null offset is one sequence") {
  SEEDED(random);
  shape const s = square(4, 2, 64, 37);
  attention_input<float, owned_contiguous<float>> in(random, s);
  in.queries.batch.offset = nullptr;
  check<float>(in, s, dense);
}

TEST_CASE("attend: a ragged cache after eviction, lengths and positions of their own per head") {
  SEEDED(random);
  shape s;
  s.heads = 6;
  s.kv_heads = 3;
  s.span = {300, 65, 9, 500};
  s.queries = {60, 65, 3, 2};
  s.scattered = true;
  for (int keep : {50, 10, 0}) {
    s.keep_percent = keep;
    s.dim = keep == 50 ? 128 : 64;
    s = any_layout(random, s);
    attention_input<float, owned_ragged<half>> const in(random, s);
    check<bfloat16>(in, s, dense, {.mass = true, .mass_queries = purekv::last(20)});
  }
}

TEST_CASE("attend: a contiguous cache with a length of its own per head") {
  SEEDED(random);
  shape s;
  s.span = {200, 130};
  s.queries = {200, 20};
  s.keep_percent = 40;
  s = any_layout(random, s);
  attention_input<float, owned_contiguous<float>> const in(random, s);
  check<float>(in, s, dense, {.mass = true});
}

TEST_CASE("attend: any predicate, one for each head") {
  SEEDED(random);
  for (int block : {1, 7, 64})
    for (int percent : {3, 60}) {
      scattered const predicate{random(), percent, block};
      auto const pattern = pattern_of<true>(predicate);
      shape s;
      s.heads = 6;
      s.kv_heads = 2;
      s.span = {200, 0, 33};
      s.queries = {150, 0, 33};
      s.scattered = block == 7;
      s = any_layout(random, s);
      {
        attention_input<float, owned_contiguous<float>> const in(random, s);
        check<float>(in, s, pattern, {.mass = true, .mass_rows = purekv::score_rows::heads});
      }
      s.keep_percent = 70;
      attention_input<bfloat16, owned_ragged<half>> const in(random, s);
      check<float>(in, s, pattern, {.mass = true, .mass_queries = {3, 50}});
    }
}

TEST_CASE("attend: any predicate, the same for all heads") {
  SEEDED(random);
  for (int block : {1, 16, 100}) {
    scattered const any{random(), 40, block};
    auto const predicate = [&](int, int q, int k) { return any(0, q, k); };
    shape s = square(7, 1, 64, 257);
    s = any_layout(random, s);
    attention_input<half, owned_ragged<bfloat16>> const in(random, s);
    check<half>(in, s, pattern_of<false>(predicate), {.mass = true});
  }
}

TEST_CASE("attend: windows and sinks") {
  SEEDED(random);
  for (int window : {1, 17, 64, 100, 1000}) {
    shape s = any_layout(random, square(4, 1, window == 64 ? 128 : 64, 333));
    {
      attention_input<float, owned_contiguous<float>> const in(random, s);
      check<float>(in, s, purekv::sliding_window{window}, {.mass = true, .mass_queries = purekv::last(33)}, {1, 3});
    }
    s.span = {333, 60};
    s.queries = {40, 60};
    s.keep_percent = 60;
    attention_input<half, owned_ragged<float>> const in(random, s);
    check<float>(in, s, purekv::sinks_and_window{5, window}, {.mass = true}, {1, 3});
  }
}

TEST_CASE("attend: positions up to the largest there is") {
  SEEDED(random);
  shape const s = square(4, 2, 64, 130);
  attention_input<float, owned_contiguous<float>> in(random, s);
  for (auto* positions : {&in.positions, &in.cache.positions})
    for (std::int32_t& p : *positions) p += INT32_MAX - 129;
  check<float>(in, s, dense, {.mass = true}, {1, 2});
  check<float>(in, s, purekv::sliding_window{40}, {.mass = true, .mass_queries = purekv::last(33)}, {1, 3});
  check<float>(in, s, purekv::sliding_window{INT32_MAX}, {.mass = true, .mass_queries = purekv::last(33)}, {1, 3});
  scattered const predicate{random(), 50, 9};
  check<float>(in, s, pattern_of<true>(predicate), {.mass = true}, {1, 2});
}

TEST_CASE("attend: video") {
  SEEDED(random);
  purekv::segment const segments[] = {purekv::segment::text(0, 21), purekv::segment::video(21, 5, 4, 6),
                                      purekv::segment::text(141, 9), purekv::segment::video(150, 3, 7, 7),
                                      purekv::segment::text(297, 25)};
  purekv::spatial_temporal pattern{};
  pattern.layout = {segments, 5};
  shape s = any_layout(random, square(4, 2, 64, 322));
  {
    attention_input<float, owned_contiguous<float>> const in(random, s);
    check<float>(in, s, pattern, {.mass = true});
  }
  s.keep_percent = 50;
  s.queries = {100};
  attention_input<float, owned_contiguous<float>> const in(random, s);
  check<float>(in, s, pattern, {.mass = true, .mass_queries = purekv::last(30)});
}

TEST_CASE("attend: every part of spatial_temporal at once, frames as small as they come") {
  SEEDED(random);
  purekv::segment const segments[] = {
      purekv::segment::video(0, 30, 1, 2),
      {.kind = purekv::modality::audio, .begin = 60, .frames = 20, .dt = 1.5f},
      purekv::segment::text(80, 1),
      {.kind = purekv::modality::image, .stream = 1, .begin = 81, .height = 5, .width = 9},
      purekv::segment::video(126, 3, 7, 7),
      {.kind = purekv::modality::image, .stream = 1, .begin = 273, .height = 1, .width = 1}};
  purekv::spatial_temporal pattern{.layout = {segments, 6}, .sinks = 3};
  for (int round = 0; round < 4; ++round) {
    shape s = any_layout(random, square(round % 2 == 0 ? 7 : 8, 1, 40, 274));
    s.keep_percent = round < 2 ? 100 : 60;
    attention_input<float, owned_ragged<float>> const in(random, s);
    check<float>(in, s, pattern, {.mass = true}, {1, 3});
    pattern.spatial_frames = 1;
    pattern.spatial_radius = 2;
    pattern.temporal_radius = 1;
    pattern.temporal_stride = 3;
    pattern.first_frame = round % 2 == 0;
    pattern.audio_by_time = true;
    pattern.others = purekv::other_streams::same_time;
    pattern.cell = {1, 1, 2};
    pattern.clamped = true;
  }
}

TEST_CASE("attend: spatial and temporal heads") {
  SEEDED(random);
  purekv::segment const segments[] = {purekv::segment::text(0, 21), purekv::segment::video(21, 5, 8, 9),
                                      purekv::segment::text(381, 9)};
  purekv::spatial_temporal const both{{segments, 3}};
  std::uint8_t const kind_of[] = {1, 1, 1, 0, 0, 1};
  purekv::by_head<purekv::spatial_temporal> heads{{both, both}, kind_of, 6};
  heads.kinds[0].temporal_frames = 0;
  heads.kinds[1].spatial_radius = 0;
  shape const s = any_layout(random, square(6, 2, 40, 390));
  attention_input<float, owned_contiguous<float>> const in(random, s);
  check<float>(in, s, heads, {.mass = true});
  check<float>(in, s, heads, {.mass = true, .mass_queries = purekv::last(30)}, {1, 3});
}

TEST_CASE("attend: rows that see nothing give 0 and lse -inf") {
  SEEDED(random);
  auto const every_third = [](int, int q, int) { return q % 3 == 0; };
  auto const pattern = pattern_of<false>(every_third);
  shape const s = any_layout(random, square(4, 2, 64, 100));
  attention_input<half, owned_ragged<bfloat16>> const in(random, s);
  auto const actual = check<half>(in, s, pattern, {.mass = true});
  for (int i = 0; i < 100; ++i) {
    CHECK((actual.lse.view.row(0, 1)[i] == -std::numeric_limits<float>::infinity()) == (i % 3 != 0));
    if (i % 3 != 0) CHECK(actual.out.view.row(1, i)[7].bits == 0);
  }
}

TEST_CASE("attend: the scale multiplies q . k, 0 stands for 1 / sqrt(dim)") {
  SEEDED(random);
  for (float scale : {0.0f, 0.3f, -0.2f, 1e-20f}) {
    shape s = square(4, 2, 72, 90);
    s.scale = scale;
    attention_input<float, owned_contiguous<float>> const in(random, s);
    check<float>(in, s, dense, {.mass = true});
  }
}

TEST_CASE("attend: logits in the thousands") {
  SEEDED(random);
  for (float scale : {5.0f, 100.0f}) {
    shape s = square(4, 2, 64, 200);
    s.scale = scale;
    attention_input<float, owned_contiguous<float>> const in(random, s);
    check<float>(in, s, dense, {.mass = true});
    attention_input<half, owned_contiguous<half>> const halves(random, s);
    check<half>(halves, s, dense, {.mass = true});
  }
}

TEST_CASE("attend: NaN and inf in keys, queries and values stay where they are seen") {
  SEEDED(random);
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (int round = 0; round < 6; ++round) {
    shape s = any_layout(random, square(4, 2, round % 2 == 0 ? 64 : 40, 150));
    attention_input<float, owned_contiguous<float>> in(random, s);
    auto const& cache = in.cache.view;
    auto const token = [&] { return between(random, 0, 149); };
    auto const element = [&] { return between(random, 0, s.dim - 1); };
    for (float bad : {nan, inf, -inf}) {
      cache.run(0, 0, token()).keys[element()] = bad;
      cache.run(0, 1, token()).values[element()] = bad;
      in.q.view.row(between(random, 0, 3), token())[element()] = bad;
    }
    for (int c = 0; c < s.dim; ++c) cache.run(0, 1, 0).keys[c] = nan;  // the only key of the first row
    check<float>(in, s, dense);
    scattered const predicate{random(), 50, 8};
    check<float>(in, s, pattern_of<true>(predicate));
  }
}

TEST_CASE("attend: a value whose probability is zero counts for nothing, whatever it is") {
  SEEDED(random);
  shape s = square(2, 1, 64, 300);
  attention_input<float, owned_contiguous<float>> in(random, s);
  auto const& cache = in.cache.view;
  // From `strong` on nothing else has any probability, though all before it counted until then.
  int const strong = between(random, 1, 299), weak = between(random, 0, strong - 1);
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < 300; ++i) in.q.view.row(h, i)[0] = 100;
  for (int i = 0; i < 300; ++i) cache.run(0, 0, i).keys[0] = i == strong ? 1000.0f : 0.0f;
  cache.run(0, 0, weak).values[3] = std::numeric_limits<float>::quiet_NaN();
  cache.run(0, 0, weak).values[4] = std::numeric_limits<float>::infinity();
  auto const actual = check<float>(in, s, dense);
  CHECK(std::isfinite(actual.out.view.row(1, strong)[3]));
  CHECK(std::isfinite(actual.out.view.row(1, 299)[4]));
}

TEST_CASE("attend: a plan changes nothing, and serves every layer of the same shape") {
  SEEDED(random);
  shape s;
  s.heads = 6;
  s.kv_heads = 2;
  s.span = {150, 0, 90};
  s.queries = {150, 0, 31};
  scattered const predicate{random(), 40, 16};
  auto const pattern = pattern_of<true>(predicate);
  attention_input<float, owned_contiguous<float>> const in(random, s), next_layer(random, s);

  owned_workspace memory(purekv::plan_workspace(pattern, in.queries, in.cache.view));
  purekv::tile_plan tiles{};
  REQUIRE(purekv::plan(purekv::cpu{}, pattern, in.queries, in.cache.view, memory.view(), tiles).ok());
  CHECK(memory.guards_untouched());

  auto const with_plan = [&](auto const& layer) {
    return check_attention<float>(
        layer, s, oracle::attend(pattern, layer.queries, layer.cache.view), {.mass = true},
        [&](purekv::cpu exec, purekv::attend_taps const& taps) {
          return purekv::attend_workspace(exec, tiles, layer.queries, layer.cache.view, taps);
        },
        [&](purekv::cpu exec, purekv::rows_view<float> const& out, purekv::attend_taps const& taps,
            purekv::workspace work) {
          return purekv::attend(exec, pattern, tiles, layer.queries, layer.cache.view, out, taps, work);
        });
  };
  CHECK(with_plan(in).same_bits_as(check<float>(in, s, pattern, {.mass = true})));
  with_plan(next_layer);
}

TEST_CASE("attend: the soft cap bends logits, infinite ones to the cap") {
  SEEDED(random);
  for (float cap : {0.01f, 1.0f, 50.0f, 0x1p100f, 0x1p-100f})
    for (float scale : {0.0f, 3.0f, -0.5f, 1e30f}) {
      shape s = any_layout(random, square(8, 2, 64, 130));
      s.soft_cap = cap;
      s.scale = scale;
      tap_request const taps{.mass = scale < 1e3f || cap < 1e3f};  // of huge logits nobody can say which is the largest
      {
        attention_input<float, owned_contiguous<float>> in(random, s);
        check<float>(in, s, dense, taps, {1, 3});
        in.cache.view.run(0, 0, between(random, 0, 129)).keys[5] = std::numeric_limits<float>::infinity();
        in.cache.view.run(0, 1, between(random, 0, 129)).keys[5] = std::numeric_limits<float>::quiet_NaN();
        check<float>(in, s, dense, taps, {1, 3});
      }
      s.queries = {50};
      s.keep_percent = 60;
      attention_input<half, owned_ragged<bfloat16>> const in(random, s);
      scattered const predicate{random(), 50, 8};
      check<float>(in, s, pattern_of<true>(predicate), taps, {1, 3});
    }
}

TEST_CASE("attend: a sink takes its share of every row, and all of one that sees nothing") {
  SEEDED(random);
  auto const some = [](int, int q, int k) { return q % 3 != 0 && k % 5 != 0; };
  for (int heads : {1, 4, 7, 8})
    for (float cap : {0.0f, 2.0f}) {
      shape s;
      s.heads = 2 * heads;
      s.kv_heads = 2;
      s.dim = 40;
      s.span = {150, 0, 70};
      s.queries = {150, 0, 33};
      s.sinks = true;
      s.soft_cap = cap;
      s = any_layout(random, s);
      {
        attention_input<float, owned_contiguous<float>> const in(random, s);
        check<float>(in, s, dense, {.mass = true}, {1, 3});
        auto const actual = check<float>(in, s, pattern_of<false>(some), {.mass = true}, {1, 3});
        CHECK(actual.out.view.row(0, 0)[3] == 0);
        CHECK(actual.lse.view.row(0, 0)[0] == doctest::Approx(in.sink_logits[0] * 1.442695f));
      }
      s.keep_percent = 20;
      attention_input<half, owned_ragged<half>> const in(random, s);
      check<half>(in, s, dense, {.mass = true}, {1, 3});
    }
}

TEST_CASE("attend: a sink that takes all leaves 0, whatever the values hold") {
  SEEDED(random);
  shape s = square(2, 1, 64, 90);
  s.sinks = true;
  attention_input<float, owned_contiguous<float>> in(random, s);
  in.cache.view.run(0, 0, 3).values[7] = std::numeric_limits<float>::quiet_NaN();
  for (float sink : {2000.0f, std::numeric_limits<float>::max()}) {
    in.sink_logits[0] = in.sink_logits[1] = sink;
    auto const actual = check<float>(in, s, dense, {.mass = true});
    CHECK(actual.out.view.row(1, 60)[7] == 0);
  }
  in.sink_logits[0] = in.sink_logits[1] = std::numeric_limits<float>::lowest();
  check<float>(in, s, dense, {.mass = true});
}

TEST_CASE("attend: images see themselves in both directions") {
  SEEDED(random);
  purekv::token_layout const layout{mixed_media, 5};
  for (int group : {1, 4, 7, 8}) {
    shape s = any_layout(random, square(2 * group, 2, 40, mixed_media_tokens));
    {
      attention_input<float, owned_contiguous<float>> const in(random, s);
      check<float>(in, s, purekv::bidirectional<>{layout}, {.mass = true}, {1, 3});
      check<float>(in, s, purekv::bidirectional<purekv::sliding_window>{layout, {30}}, {.mass = true}, {1, 3});
    }
    s.keep_percent = 40;
    s.span = {mixed_media_tokens, 150, 0};
    s.queries = {120, 150, 0};  // the second sequence is cut within a frame: it sees what is there
    s.scattered = true;
    attention_input<half, owned_ragged<half>> const in(random, s);
    scattered const predicate{random(), 40, 8};
    auto const any = pattern_of<true>(predicate);
    check<float>(in, s, purekv::bidirectional<>{layout}, {.mass = true}, {1, 3});
    check<float>(in, s, purekv::bidirectional<any_pattern<true>>{layout, any},
                 {.mass = true, .mass_queries = purekv::last(40)}, {1, 3});
  }
}

namespace {

struct pairs_of_positions {
  bool operator()(int, int, int) const { return true; }
  std::int32_t last_visible(std::int32_t q) const { return q | 1; }
};
struct no_block_is_known {
  purekv::coverage operator()(int, int, int, int) const { return purekv::coverage::partial; }
};

}  // namespace

TEST_CASE("attend: a custom predicate that looks ahead") {
  SEEDED(random);
  shape const s = any_layout(random, square(6, 2, 64, 131));
  attention_input<float, owned_contiguous<float>> const in(random, s);
  auto const actual = check<float>(in, s, purekv::custom{pairs_of_positions{}}, {.mass = true}, {1, 3});
  check<float>(in, s, purekv::custom{pairs_of_positions{}, no_block_is_known{}}, {.mass = true}, {1, 3});
  CHECK(actual.lse.view.row(0, 0)[0] != check<float>(in, s, dense).lse.view.row(0, 0)[0]);
}

TEST_CASE("attend: values of another width than the keys") {
  SEEDED(random);
  for (auto [dim, value_dim] : {std::pair{192, 128}, {576, 512}, {40, 24}, {5, 70}, {24, 1}})
    for (int group : {1, 4, 7, 8}) {
      shape s = any_layout(random, square(2 * group, 2, dim, between(random, 1, 100)));
      s.value_dim = value_dim;
      {
        attention_input<float, owned_contiguous<float>> in(random, s);
        check<float>(in, s, dense, {.mass = true}, {1, 3});
        in.cache.view.run(0, 1, 0).values[value_dim - 1] = std::numeric_limits<float>::quiet_NaN();
        check<float>(in, s, dense, {}, {1, 3});
      }
      s.span = {90, 0, 20};
      s.queries = {30, 0, 20};
      s.keep_percent = 60;
      attention_input<half, owned_ragged<bfloat16>> const in(random, s);
      check<half>(in, s, purekv::sinks_and_window{2, 25}, {.mass = true}, {1, 3});
    }
}

TEST_CASE("attend: values that are part of the key rows") {
  SEEDED(random);
  shape s = square(8, 1, 36, 120);
  s.gap = 4;
  attention_input<float, owned_contiguous<float>> in(random, s);
  in.cache.view.values = in.cache.view.keys;
  in.cache.view.value_dim = s.value_dim = 32;
  in.cache.view.value_sequence_stride = in.cache.view.sequence_stride;
  in.cache.view.value_head_stride = in.cache.view.head_stride;
  in.cache.view.value_token_stride = in.cache.view.token_stride;
  check<float>(in, s, dense, {.mass = true});
}
