// SPDX-License-Identifier: Apache-2.0
#include <purekv/plan.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

using namespace fixtures;

namespace {

/// The plan against the predicate, pair by pair. Returns (query head, key) pairs it computes.
template <class P, class Input> double check_plan(P const& pattern, Input const& in, purekv::tile_plan const& plan) {
  auto const& cache = in.cache.view;
  int const group = in.queries.rows.heads / cache.kv_heads;
  double pairs = 0;
  for (int h = 0; h < cache.kv_heads; ++h) {
    int sequence = 0, next = in.queries.begin(0);
    for (int t = 0; t < plan.tiles_per_head; ++t) {
      purekv::query_tile const& tile = plan.tile(h, t);
      while (next == in.queries.end(sequence)) ++sequence;
      REQUIRE(tile.sequence == sequence);
      REQUIRE(tile.first == next);
      REQUIRE(tile.count > 0);
      REQUIRE(tile.count <= plan.tile_queries);
      next = tile.first + tile.count;
      REQUIRE(next <= in.queries.end(sequence));
      if constexpr (requires { pattern.tile_end(0); })
        CHECK(in.positions[size(next - 1)] < pattern.tile_end(in.positions[size(tile.first)]));

      std::int32_t before = 0;
      std::vector<bool> covered(size(cache.length(sequence, h) * tile.count));
      for (int r = 0; r < tile.runs; ++r) {
        purekv::key_run const& run = plan.runs[tile.runs_begin + r];
        REQUIRE(run.begin >= before);
        REQUIRE(run.count > 0);
        before = run.begin + run.count;
        REQUIRE(before <= cache.length(sequence, h));
        for (int k = run.begin; k < before; ++k) {
          std::int32_t const at = *cache.run(sequence, h, k).positions;
          CHECK(at <= oracle::horizon(pattern, in.positions[size(next - 1)]));
          for (int i = 0; i < tile.count; ++i) {
            std::int32_t const position = in.positions[size(tile.first + i)];
            if (at > oracle::horizon(pattern, position)) continue;
            pairs += group;
            covered[size(k * tile.count + i)] = true;
            for (int head = h * group; head < (h + 1) * group; ++head) {
              bool const visible = pattern.visible(head, position, at);
              if (run.full != 0) CHECK(visible);
              if (run.masks >= 0) {
                int const first = k - run.begin, count = std::min(64, run.count - first);
                CHECK((plan.seen(run, i, first, count) & 1) == static_cast<unsigned>(visible));
              }
            }
          }
        }
      }
      for (int k = 0; k < cache.length(sequence, h); ++k)
        for (int i = 0; i < tile.count; ++i) {
          std::int32_t const at = *cache.run(sequence, h, k).positions, position = in.positions[size(tile.first + i)];
          if (at > oracle::horizon(pattern, position) || covered[size(k * tile.count + i)]) continue;
          for (int head = h * group; head < (h + 1) * group; ++head) REQUIRE(!pattern.visible(head, position, at));
        }
    }
    CHECK(next == in.queries.rows.tokens);
  }
  return pairs;
}

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
    CHECK(purekv::planned_pairs(pattern, plan, in.queries, in.cache.view) == pairs);
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
        CHECK(video_share < 0.9);
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

TEST_CASE("plan: images that see themselves in both directions") {
  SEEDED(random);
  purekv::token_layout const layout{mixed_media, 5};
  scattered const predicate{random(), 30, 8};
  auto const any = pattern_of<true>(predicate);
  for (int keep : {100, 50}) {
    shape s = square(6, 2, 16, mixed_media_tokens);
    s.keep_percent = keep;
    check<owned_ragged<float>>(random, s, purekv::bidirectional<>{layout});
    check<owned_ragged<float>>(random, s, purekv::bidirectional<decltype(any)>{layout, any});
  }
}
