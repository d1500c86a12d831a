// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/fixtures_attention.hpp"

#include <purekv/plan.hpp>

namespace fixtures {

/// The plan against the predicate, pair by pair. Returns (query head, key) pairs it computes.
template <class P, class Input> double check_plan(P const& pattern, Input const& in, purekv::tile_plan const& plan) {
  auto const& cache = in.cache.view;
  int const group = in.queries.rows.heads / cache.kv_heads;
  double pairs = 0;
  for (int h = 0; h < cache.kv_heads; ++h) {
    int sequence = 0, next = in.queries.begin(0);
    for (int t = 0; t < plan.tile_count(h); ++t) {
      purekv::query_tile const& tile = plan.tile(h, t);
      while (next == in.queries.end(sequence)) ++sequence;
      REQUIRE(tile.sequence == sequence);
      REQUIRE(tile.first == next);
      REQUIRE(tile.count > 0);
      REQUIRE(tile.count <= plan.tile_queries);
      next = tile.first + tile.count;
      REQUIRE(next <= in.queries.end(sequence));
      if constexpr (requires { pattern.tile_end(0); } && purekv::detail::tile_rows<P>() > 0)
        if (plan.tiles_used == nullptr)  // a GPU lets short pieces share a tile
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
              if (run.scattered != 0) CHECK(run.masks >= 0);
              if (run.masks >= 0) {
                int const first = k - run.begin, count = std::min(64, run.count - first);
                int const row = purekv::detail::is_per_head<P>() ? i * group + head % group : i;
                CHECK((plan.seen(run, row, first, count) & 1) == static_cast<unsigned>(visible));
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

}  // namespace fixtures
