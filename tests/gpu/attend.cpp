// SPDX-License-Identifier: Apache-2.0
#include <purekv/attend.cuh>
// The header under test comes first.
#include "support/gpu_attention.hpp"

#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/one_of.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

using namespace purekv;

namespace gpu_attend_test {

using fixtures::attention_input;
using fixtures::attention_output;
using fixtures::owned_contiguous;
using fixtures::owned_ragged;
using fixtures::shape;
using fixtures::square;
using test::any_layout;
using test::check_call;

/// A random predicate that is constant on blocks of positions.
struct speckled {
  std::uint64_t seed;
  std::int32_t percent, block;
  PUREKV_HD bool operator()(std::int32_t head, std::int32_t q, std::int32_t k) const {
    std::uint64_t x = seed;
    for (std::int32_t const part : {head, q / block, k / block}) {
      x = x * 31 + static_cast<std::uint32_t>(part);
      x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
      x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
      x ^= x >> 31;
    }
    return static_cast<std::int32_t>(x % 100) < percent;
  }
};

/// Pairs of positions see each other.
struct pairs {
  PUREKV_HD bool operator()(std::int32_t, std::int32_t, std::int32_t) const { return true; }
  PUREKV_HD std::int32_t last_visible(std::int32_t q) const { return q | 1; }
};

struct by_query {
  PUREKV_HD bool operator()(std::int32_t, std::int32_t q, std::int32_t k) const { return q % 3 != 0 && k % 5 != 0; }
};
using hiding = custom<by_query, no_classifier, false>;
using ahead = custom<pairs, no_classifier, false>;

/// All that is the same for every head: one kernel.
using any_pattern = one_of<dense, sliding_window, sinks_and_window, spatial_temporal, bidirectional<>,
                           bidirectional<sliding_window>, hiding, ahead>;

template <class T> struct own_tokens {
  fixtures::owned_rows<T> keys, values;

  own_tokens(test::random& random, shape const& s, int queries)
      : keys(s.kv_heads, queries, s.dim, s.q_order, s.gap),
        values(s.kv_heads, queries, s.out_dim(), s.out_order, s.gap) {
    keys.fill_normal(random);
    values.fill_normal(random);
  }
  self_view<T> view() const { return {keys.rows(), values.rows()}; }
};

/// Without a plan.
template <class TO, class P, class Input>
attention_output<TO> check(test::random& random, Input const& in, shape const& s, P const& pattern,
                           fixtures::tap_request const& request = {}) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.span[0]);
  CAPTURE(s.queries[0]);
  return check_call<TO>(
      random, in, s, oracle::attend(pattern, in.queries, in.cache.view), request,
      [&](gpu const& exec, attend_taps const& taps) {
        return attend_workspace(exec, pattern, in.queries, in.cache.view, taps);
      },
      [&](gpu const& exec, rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
        return attend(exec, pattern, in.queries, in.cache.view, out, taps, work);
      });
}

/// With the plan that the CPU makes.
template <class TO, class P, class Input>
attention_output<TO> check_plan(test::random& random, Input const& in, shape const& s, P const& pattern,
                                fixtures::tap_request const& request = {}) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.span[0]);
  CAPTURE(s.queries[0]);
  fixtures::owned_workspace memory(plan_workspace(pattern, in.queries, in.cache.view));
  tile_plan tiles{};
  REQUIRE(plan(cpu{}, pattern, in.queries, in.cache.view, memory.view(), tiles).ok());
  return check_call<TO>(
      random, in, s, oracle::attend(pattern, in.queries, in.cache.view), request,
      [&](gpu const& exec, attend_taps const& taps) {
        return attend_workspace(exec, tiles, in.queries, in.cache.view, taps);
      },
      [&](gpu const& exec, rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
        return attend(exec, pattern, tiles, in.queries, in.cache.view, out, taps, work);
      });
}

template <class TO, class P, class Input, class T>
attention_output<TO> check_self(test::random& random, Input const& in, shape const& s, own_tokens<T> const& own,
                                P const& pattern, fixtures::tap_request const& request = {}) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  return check_call<TO>(
      random, in, s, oracle::attend_self(pattern, in.queries, in.cache.view, own.keys.rows(), own.values.rows()),
      request,
      [&](gpu const& exec, attend_taps const& taps) {
        return attend_workspace(exec, pattern, in.queries, in.cache.view, taps);
      },
      [&](gpu const& exec, rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
        return attend(exec, pattern, in.queries, in.cache.view, own.view(), out, taps, work);
      });
}

}  // namespace gpu_attend_test

using namespace gpu_attend_test;

TEST_CASE("attend on a GPU: dense, half") {
  SEEDED(random);
  for (shape const& plain :
       {square(1, 1, 64, 1), square(4, 1, 64, 5), square(8, 2, 64, 63), square(4, 1, 64, 65), square(7, 1, 64, 64),
        square(8, 1, 40, 33), square(1, 1, 64, 200), square(2, 1, 64, 128), square(150, 1, 16, 7)}) {
    shape const s = any_layout(random, plain);
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(random, in, s, dense{});
  }
}

TEST_CASE("attend on a GPU: dense, bfloat16, every width") {
  SEEDED(random);
  for (shape const& plain :
       {square(2, 2, 8, 65), square(4, 1, 72, 17), square(3, 3, 96, 65), square(7, 1, 128, 20), square(8, 2, 104, 33),
        square(4, 1, 128, 64), square(2, 1, 256, 33), square(1, 1, 136, 70)}) {
    shape const s = any_layout(random, plain);
    attention_input<bfloat16, owned_contiguous<bfloat16>> const in(random, s);
    check<float>(random, in, s, dense{}, {.lse = random.between(0, 3) > 0});
  }
}

TEST_CASE("attend on a GPU: values of another width than the keys") {
  SEEDED(random);
  for (auto [dim, value_dim] : {std::pair{192, 128}, {40, 24}, {24, 72}}) {
    shape s = any_layout(random, square(4, 2, dim, random.between(1, 70)));
    s.value_dim = value_dim;
    {
      attention_input<half, owned_ragged<half>> const in(random, s);
      check<half>(random, in, s, dense{});
    }
    s.span = {90, 0, 20};
    s.queries = {30, 0, 20};
    s.keep_percent = 60;
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(random, in, s, dense{});
  }
}

TEST_CASE("attend on a GPU: a ragged batch with empty sequences, whole prompts and chunks") {
  SEEDED(random);
  shape s;
  s.heads = 4;
  s.kv_heads = 2;
  s.dim = 32;
  s.span = {0, 5, 64, 1, 130, 70, 150, 40, 31};
  s.queries = {0, 5, 64, 1, 33, 1, 77, 0, 31};
  s = any_layout(random, s);
  attention_input<half, owned_ragged<half>> const in(random, s);
  check<half>(random, in, s, dense{});
  check_plan<half>(random, in, s, dense{});
}

TEST_CASE("attend on a GPU: a ragged cache after eviction, scattered queries") {
  SEEDED(random);
  shape s;
  s.heads = 6;
  s.kv_heads = 3;
  s.span = {200, 65, 9, 300};
  s.queries = {40, 65, 3, 2};
  s.scattered = true;
  for (int keep : {50, 5, 0}) {
    s.keep_percent = keep;
    s.dim = keep == 50 ? 128 : 64;
    s = any_layout(random, s);
    attention_input<bfloat16, owned_contiguous<bfloat16>> const in(random, s);
    check<float>(random, in, s, dense{});
    check_plan<float>(random, in, s, dense{});
  }
}

TEST_CASE("attend on a GPU: no queries at all, and a null offset") {
  SEEDED(random);
  shape s = square(4, 2, 64, 0);
  attention_input<half, owned_ragged<half>> const nothing(random, s);
  check<half>(random, nothing, s, dense{});
  s.span = {20};
  attention_input<half, owned_ragged<half>> const only_keys(random, s);
  check<half>(random, only_keys, s, dense{});
  s.queries = {9};
  attention_input<half, owned_ragged<half>> in(random, s);
  in.queries.batch.offset = nullptr;
  check<half>(random, in, s, dense{});
}

TEST_CASE("attend on a GPU: any predicate, per head or not, with and without a plan") {
  SEEDED(random);
  for (int block : {1, 7, 32}) {
    speckled const some{random(), 40, block};
    shape s;
    s.heads = 6;
    s.kv_heads = 2;
    s.dim = 32;
    s.span = {140, 0, 33};
    s.queries = {90, 0, 33};
    s.scattered = block == 7;
    s.keep_percent = block == 1 ? 100 : 70;
    s = any_layout(random, s);
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(random, in, s, custom{some});
    check_plan<half>(random, in, s, custom{some});
  }
}

TEST_CASE("attend on a GPU: windows and sinks") {
  SEEDED(random);
  for (int window : {1, 17, 64, 1000}) {
    shape s = any_layout(random, square(random.between(0, 1) == 0 ? 7 : 2, 1, 64, 170));
    {
      attention_input<half, owned_ragged<half>> const in(random, s);
      check_plan<half>(random, in, s, any_pattern{sliding_window{window}});
    }
    s.span = {150, 60};
    s.queries = {40, 60};
    s.keep_percent = 60;
    attention_input<half, owned_ragged<half>> const in(random, s);
    check_plan<half>(random, in, s, any_pattern{sinks_and_window{5, window}});
    check<half>(random, in, s, any_pattern{sinks_and_window{5, window}});
  }
}

TEST_CASE("attend on a GPU: a plan with tiles that are not used, one plan for each head") {
  SEEDED(random);
  for (int keep : {100, 50}) {
    shape s = any_layout(random, square(4, 2, 64, 150));
    s.keep_percent = keep;  // heads of different positions have a plan each
    attention_input<half, owned_ragged<half>> const in(random, s);
    any_pattern const pattern{sliding_window{40}};
    fixtures::owned_workspace memory(plan_workspace(pattern, in.queries, in.cache.view));
    tile_plan made{};
    REQUIRE(plan(cpu{}, pattern, in.queries, in.cache.view, memory.view(), made).ok());
    std::int32_t const room = made.tiles_per_head + 3, copies = made.per_kv_head ? 2 : 1;
    fixtures::buffer<query_tile> tiles(fixtures::size(room * copies), query_tile{-1, -1, 1, 1, -1, -1});
    fixtures::buffer<std::int32_t> used(fixtures::size(copies), made.tiles_per_head);
    for (int h = 0; h < copies; ++h)
      for (int t = 0; t < made.tiles_per_head; ++t) tiles[fixtures::size(h * room + t)] = made.tile(h, t);
    tile_plan roomy = made;
    roomy.tiles = tiles.data();
    roomy.tiles_per_head = room;
    roomy.tiles_used = used.data();
    check_call<half>(
        random, in, s, oracle::attend(pattern, in.queries, in.cache.view), {},
        [&](gpu const& exec, attend_taps const& taps) {
          return attend_workspace(exec, roomy, in.queries, in.cache.view, taps);
        },
        [&](gpu const& exec, rows_view<half> const& out, attend_taps const& taps, workspace const& work) {
          return attend(exec, pattern, roomy, in.queries, in.cache.view, out, taps, work);
        });
  }
}

TEST_CASE("attend on a GPU: positions up to the largest there is") {
  SEEDED(random);
  shape const s = square(4, 2, 32, 100);
  attention_input<half, owned_ragged<half>> in(random, s);
  for (auto* positions : {&in.positions, &in.cache.positions})
    for (std::int32_t& p : *positions) p += INT32_MAX - 99;
  check<half>(random, in, s, dense{});
  check_plan<half>(random, in, s, any_pattern{sliding_window{40}});
  check_plan<half>(random, in, s, any_pattern{sliding_window{INT32_MAX}});
  check<half>(random, in, s, custom{speckled{random(), 50, 9}});
}

TEST_CASE("attend on a GPU: video") {
  SEEDED(random);
  fixtures::buffer<segment> const segments = {segment::text(0, 11), segment::video(11, 4, 4, 6), segment::text(107, 9),
                                              segment::video(116, 3, 5, 5), segment::text(191, 15)};
  spatial_temporal pattern{};
  pattern.layout = {segments.data(), 5};
  shape s = any_layout(random, square(8, 2, 32, 206));
  {
    attention_input<half, owned_ragged<half>> const in(random, s);
    check_plan<half>(random, in, s, any_pattern{pattern});
  }
  s.keep_percent = 50;
  s.queries = {60};
  attention_input<half, owned_ragged<half>> const in(random, s);
  check_plan<half>(random, in, s, any_pattern{pattern});
  pattern.temporal_radius = 1;
  check_plan<half>(random, in, s, any_pattern{pattern});
}

TEST_CASE("attend on a GPU: spatial and temporal heads") {
  SEEDED(random);
  fixtures::buffer<segment> const segments = {segment::text(0, 11), segment::video(11, 4, 5, 8), segment::text(171, 9)};
  spatial_temporal const both{{segments.data(), 3}};
  fixtures::buffer<std::uint8_t> const kind_of = {1, 1, 1, 0, 0, 1};
  by_head<spatial_temporal> heads{{both, both}, kind_of.data(), 6};
  heads.kinds[0].temporal_frames = 0;
  heads.kinds[1].spatial_radius = 0;
  shape const s = any_layout(random, square(6, 2, 32, 180));
  attention_input<half, owned_contiguous<half>> const in(random, s);
  check_plan<float>(random, in, s, heads);
}

TEST_CASE("attend on a GPU: images see themselves in both directions") {
  SEEDED(random);
  fixtures::buffer<segment> const media(std::begin(fixtures::mixed_media), std::end(fixtures::mixed_media));
  token_layout const layout{media.data(), 5};
  for (int group : {4, 7}) {
    shape s = any_layout(random, square(group, 1, 16, fixtures::mixed_media_tokens));
    s.keep_percent = 40;
    s.span = {fixtures::mixed_media_tokens, 150, 0};
    s.queries = {70, 60, 0};  // the second sequence is cut within a frame: it sees what is there
    s.scattered = true;
    attention_input<half, owned_ragged<half>> const in(random, s);
    check_plan<half>(random, in, s, any_pattern{bidirectional<>{layout}});
    check<half>(random, in, s, any_pattern{bidirectional<>{layout}});
    check_plan<half>(random, in, s, any_pattern{bidirectional<sliding_window>{layout, {30}}});
  }
}

TEST_CASE("attend on a GPU: a custom predicate that looks ahead") {
  SEEDED(random);
  shape const s = any_layout(random, square(6, 2, 32, 71));
  attention_input<half, owned_ragged<half>> const in(random, s);
  auto const actual = check<half>(random, in, s, any_pattern{ahead{}});
  check_plan<half>(random, in, s, any_pattern{ahead{}});
  CHECK(actual.lse.view.row(0, 0)[0] != check<half>(random, in, s, dense{}).lse.view.row(0, 0)[0]);
}

TEST_CASE("attend on a GPU: rows that see nothing give 0 and lse -inf") {
  SEEDED(random);
  shape const s = any_layout(random, square(4, 2, 32, 70));
  attention_input<half, owned_ragged<half>> const in(random, s);
  auto const actual = check<half>(random, in, s, any_pattern{hiding{}});
  for (int i = 0; i < 70; i += 3) {
    CHECK(actual.lse.view.row(0, 0)[i] == -std::numeric_limits<float>::infinity());
    CHECK(actual.out.view.row(1, i)[7].bits == 0);
  }
}

TEST_CASE("attend on a GPU: the scale multiplies q . k, 0 stands for 1 / sqrt(dim)") {
  SEEDED(random);
  for (float scale : {0.0f, 0.3f, -0.2f, 1e-20f, 5.0f, 100.0f, 1e30f}) {
    shape s = square(4, 2, 72, 70);
    s.scale = scale;
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(random, in, s, dense{});
  }
}

TEST_CASE("attend on a GPU: NaN and inf in keys, queries and values stay where they are seen") {
  SEEDED(random);
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (int round = 0; round < 3; ++round) {
    shape const s = any_layout(random, square(4, 2, round == 0 ? 64 : 40, 100));
    attention_input<half, owned_ragged<half>> in(random, s);
    auto const& cache = in.cache.view;
    auto const token = [&] { return random.between(0, 99); };
    auto const element = [&] { return random.between(0, s.dim - 1); };
    for (float bad : {nan, inf, -inf}) {
      cache.run(0, 0, token()).keys[element()] = half(bad);
      if (round != 1) cache.run(0, 1, token()).values[element()] = half(bad);
      in.q.view.row(random.between(0, 3), token())[element()] = half(bad);
    }
    for (int c = 0; c < s.dim; ++c) cache.run(0, 1, 0).keys[c] = half(nan);  // the only key of the first row
    check<half>(random, in, s, dense{});
    check_plan<half>(random, in, s, custom{speckled{random(), 50, 8}});
  }
}

TEST_CASE("attend on a GPU: a row whose logits are all -inf weighs them alike") {
  SEEDED(random);
  shape const s = square(1, 1, 16, 20);
  attention_input<half, owned_ragged<half>> in(random, s);
  for (int c = 0; c < 16; ++c) {
    in.q.view.row(0, 5)[c] = half(1.0f);
    for (int k = 0; k <= 5; ++k)
      in.cache.view.run(0, 0, k).keys[c] = half(c == 3 ? -std::numeric_limits<float>::infinity() : 0.0f);
  }
  check<half>(random, in, s, dense{});
}

TEST_CASE("attend on a GPU: a value whose probability is zero counts for nothing, whatever it is") {
  SEEDED(random);
  shape const s = square(2, 1, 64, 150);
  attention_input<half, owned_ragged<half>> in(random, s);
  auto const& cache = in.cache.view;
  // From `strong` on nothing else has any probability, though all before it counted until then.
  int const strong = random.between(1, 149), weak = random.between(0, strong - 1);
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < 150; ++i) in.q.view.row(h, i)[0] = half(100.0f);
  for (int i = 0; i < 150; ++i) cache.run(0, 0, i).keys[0] = half(i == strong ? 1000.0f : 0.0f);
  cache.run(0, 0, weak).values[3] = half(std::numeric_limits<float>::quiet_NaN());
  cache.run(0, 0, weak).values[4] = half(std::numeric_limits<float>::infinity());
  auto const actual = check<half>(random, in, s, dense{});
  CHECK(std::isfinite(static_cast<float>(actual.out.view.row(1, strong)[3])));
  CHECK(std::isfinite(static_cast<float>(actual.out.view.row(1, 149)[4])));
}

TEST_CASE("attend on a GPU: the soft cap bends logits, infinite ones to the cap") {
  SEEDED(random);
  for (auto [cap, scale] : {std::pair{1.0f, 0.0f}, {50.0f, 3.0f}, {0.01f, -0.5f}, {2.0f, 1e30f}}) {
    shape s = any_layout(random, square(4, 2, 64, 70));
    s.soft_cap = cap;
    s.scale = scale;
    attention_input<half, owned_ragged<half>> in(random, s);
    check<half>(random, in, s, dense{});
    in.cache.view.run(0, 0, random.between(0, 69)).keys[5] = half(std::numeric_limits<float>::infinity());
    in.cache.view.run(0, 1, random.between(0, 69)).keys[5] = half(std::numeric_limits<float>::quiet_NaN());
    check<half>(random, in, s, dense{});
  }
}

TEST_CASE("attend on a GPU: a sink takes its share of every row, and all of one that sees nothing") {
  SEEDED(random);
  for (float cap : {0.0f, 2.0f}) {
    shape s;
    s.heads = 8;
    s.kv_heads = 2;
    s.dim = 40;
    s.span = {80, 0, 70};
    s.queries = {80, 0, 33};
    s.sinks = true;
    s.soft_cap = cap;
    s = any_layout(random, s);
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(random, in, s, dense{});
    auto const actual = check<half>(random, in, s, any_pattern{hiding{}});
    CHECK(static_cast<float>(actual.out.view.row(0, 0)[3]) == 0);
    CHECK(actual.lse.view.row(0, 0)[0] == doctest::Approx(in.sink_logits[0] * 1.442695f));
  }
}

TEST_CASE("attend on a GPU: a sink that takes all leaves 0, whatever the values hold") {
  SEEDED(random);
  shape s = square(2, 1, 64, 40);
  s.sinks = true;
  attention_input<half, owned_ragged<half>> in(random, s);
  in.cache.view.run(0, 0, 3).values[7] = half(std::numeric_limits<float>::quiet_NaN());
  for (float sink : {2000.0f, std::numeric_limits<float>::max()}) {
    in.sink_logits[0] = in.sink_logits[1] = sink;
    auto const actual = check<half>(random, in, s, dense{});
    CHECK(static_cast<float>(actual.out.view.row(1, 30)[7]) == 0);
  }
  in.sink_logits[0] = in.sink_logits[1] = std::numeric_limits<float>::lowest();
  check<half>(random, in, s, dense{});
}

TEST_CASE("attend on a GPU with self: kept keys at or before the query, and the query's own") {
  SEEDED(random);
  for (auto [heads, kv_heads, dim, span, keep] : {std::array{1, 1, 64, 1, 0},
                                                  {4, 1, 64, 17, 30},
                                                  {8, 2, 64, 65, 20},
                                                  {7, 1, 128, 60, 50},
                                                  {6, 3, 72, 64, 90},
                                                  {4, 2, 64, 40, 0}}) {
    shape s = square(heads, kv_heads, dim, span);
    s.keep_percent = keep;
    s.sinks = random.between(0, 1) == 0;
    s = any_layout(random, s);
    attention_input<half, owned_ragged<half>> const in(random, s);
    own_tokens<half> own(random, s, span);
    check_self<half>(random, in, s, own, dense{});
  }
}

TEST_CASE("attend on a GPU with self: patterns, a soft cap, NaN in a query's own key or value") {
  SEEDED(random);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (int round = 0; round < 2; ++round) {
    shape s;
    s.heads = 4;
    s.kv_heads = 2;
    s.dim = 40;
    s.value_dim = 24;
    s.span = {60, 0, 7, 160};
    s.queries = {60, 0, 2, 50};
    s.keep_percent = 25;
    s.scattered = true;
    s.soft_cap = round == 0 ? 0 : 1.5f;
    s = any_layout(random, s);
    attention_input<half, owned_ragged<half>> const in(random, s);
    own_tokens<half> own(random, s, in.queries.rows.tokens);
    check_self<half>(random, in, s, own, custom{speckled{random(), 60, 8}});
    for (int i = 0; i < 5; ++i) {
      own.keys.view.row(random.between(0, 1), random.between(0, 111))[random.between(0, 39)] = half(nan);
      own.values.view.row(random.between(0, 1), random.between(0, 111))[random.between(0, 23)] = half(nan);
    }
    check_self<half>(random, in, s, own, dense{});
  }
}

TEST_CASE("attend on a GPU with self: a full cache needs no self, whatever it holds") {
  SEEDED(random);
  shape const s = square(4, 2, 64, 50);
  attention_input<half, owned_ragged<half>> const in(random, s);
  own_tokens<half> own(random, s, 50);
  for (half& x : own.values.memory) x = half(std::numeric_limits<float>::quiet_NaN());
  check_self<half>(random, in, s, own, dense{});
}

TEST_CASE("attend on a GPU: the mass taps, with and without a plan, with and without lse") {
  SEEDED(random);
  for (int i = 0; i < 2; ++i) {
    shape s = any_layout(random, square(8, 2, 64, 70));
    s.span = {70, 0, 40};
    s.queries = {70, 0, 9};
    attention_input<half, owned_ragged<half>> const in(random, s);
    fixtures::tap_request const request{.lse = i == 0,
                                        .mass = true,
                                        .block_mass = true,
                                        .mass_queries = i == 0 ? query_range{} : last(13),
                                        .mass_rows = i == 0 ? score_rows::kv_heads : score_rows::heads,
                                        .mass_by = i == 0 ? mass_reduction::sum : mass_reduction::maximum};
    check<float>(random, in, s, any_pattern(dense{}), request);
    check_plan<float>(random, in, s, any_pattern(sinks_and_window{3, 20}), request);
    check<half>(random, in, s, dense{}, request);
  }
  shape none = square(4, 2, 64, 40);
  none.queries = {0};
  attention_input<half, owned_ragged<half>> const in(random, none);
  check<float>(random, in, none, any_pattern(dense{}), {.lse = false, .mass = true, .block_mass = true});
}

TEST_CASE("attend on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  shape const s = square(4, 2, 64, 20);
  attention_input<half, owned_ragged<half>> const in(random, s);
  own_tokens<half> const own(random, s, 20);
  attention_output<half> const out(in, s, {});
  fixtures::owned_workspace memory(plan_workspace(dense{}, in.queries, in.cache.view));
  tile_plan tiles{};
  REQUIRE(plan(cpu{}, dense{}, in.queries, in.cache.view, memory.view(), tiles).ok());
  test::gpu_device device(random);
  struct arguments {
    gpu exec;
    query_view<half> q;
    ragged_cache<half> cache;
    rows_view<half> out;
    attend_taps taps;
    tile_plan plan;
    self_view<half> self;
  };
  auto const code = [&](auto const& change) {
    arguments a{device.exec(), in.queries, in.cache.view, out.out.view, out.taps, tiles, own.view()};
    change(a);
    errc const plain =
        device.status_of([&](gpu const&) { return attend(a.exec, dense{}, a.q, a.cache, a.out, a.taps, {}); }).code;
    errc const planned =
        device.status_of([&](gpu const&) { return attend(a.exec, dense{}, a.plan, a.q, a.cache, a.out, a.taps, {}); })
            .code;
    errc const selfish =
        device.status_of([&](gpu const&) { return attend(a.exec, dense{}, a.q, a.cache, a.self, a.out, a.taps, {}); })
            .code;
    CHECK(plain == planned);
    CHECK(plain == selfish);
    return plain;
  };
  CHECK(code([](arguments& a) { a.exec.device = {}; }) == errc::unsupported_device);
  CHECK(code([](arguments& a) { a.exec.device.major = 7; }) == errc::unsupported_device);
  CHECK(code([](arguments& a) { a.q.rows.data = nullptr; }) == errc::null_data);
  CHECK(code([](arguments& a) { a.q.batch.positions = nullptr; }) == errc::null_data);
  CHECK(code([](arguments& a) { a.q.scale = HUGE_VALF; }) == errc::bad_shape);
  CHECK(code([](arguments& a) { a.q.rows.data += 1; }) == errc::bad_pointer);
  CHECK(code([](arguments& a) { a.cache.keys += 4; }) == errc::bad_pointer);
  CHECK(code([](arguments& a) { a.cache.extents = nullptr; }) == errc::null_data);
  CHECK(code([](arguments& a) { a.out.dim = 32; }) == errc::mismatch);
  CHECK(code([](arguments& a) { a.out.data = nullptr; }) == errc::null_data);
  CHECK(code([](arguments& a) { a.taps.lse_stride = 3; }) == errc::bad_shape);
  auto const of_dim = [](std::int32_t dim) {
    return [dim](arguments& a) {
      a.cache.dim = a.q.rows.dim = a.self.keys.dim = dim;
      a.cache.token_stride = 1024;
      a.q.rows.head_stride = 1024 * 1024;
      a.q.rows.token_stride = 1024;
      a.self.values.dim = a.out.dim = dim;
      a.out.token_stride = a.self.keys.token_stride = a.self.values.token_stride = 1024;
      a.out.head_stride = a.self.keys.head_stride = a.self.values.head_stride = 1024 * 1024;
    };
  };
  CHECK(code(of_dim(20)) == errc::bad_shape);
  CHECK(code(of_dim(264)) == errc::bad_shape);
  arguments a{device.exec(), in.queries, in.cache.view, out.out.view, out.taps, tiles, own.view()};
  a.plan.queries = 3;
  CHECK(device.status_of([&](gpu const&) { return attend(a.exec, dense{}, a.plan, a.q, a.cache, a.out, a.taps, {}); })
            .code == errc::mismatch);
  a.self.keys.tokens = 3;
  CHECK(device.status_of([&](gpu const&) { return attend(a.exec, dense{}, a.q, a.cache, a.self, a.out, a.taps, {}); })
            .code == errc::mismatch);
  CHECK(out.untouched());
}
