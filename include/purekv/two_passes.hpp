// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/pattern/spatial_temporal.hpp>
#include <purekv/tile_plan.hpp>

namespace purekv::inline v0_1 {

/// A plan for each of two passes.
struct two_pass_plan {
  tile_plan first, second;
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// ST-SpAttn as attention to two disjoint sets of keys, of which the second goes on where the first has ended: first
/// what the temporal part alone shows, then all else. Tiles of the first hold queries of the same places of all frames,
/// so that the same places of earlier frames are most of what they meet; a tile of one frame's queries meets as many
/// places of each earlier frame as it has queries. (two_passes.cuh)
struct two_passes {
  spatial_temporal pattern;  // temporal_part::included

  spatial_temporal first() const {
    spatial_temporal p = pattern;
    p.temporal = temporal_part::alone;
    return p;
  }
  spatial_temporal second() const {
    spatial_temporal p = pattern;
    p.temporal = temporal_part::excluded;
    return p;
  }
};

/// What attention to the frames of a whole prompt costs a GPU, in pairs of a query head and a key.
struct pass_costs {
  double one, two;

  bool two_are_faster() const { return two < one; }
};

namespace detail {

/// What a second pass costs beside its pairs: for each row, that a partial result is written and read, 4 bytes of every
/// dim, where a GPU of 2026 computes about 120 operations of a portable kernel in the time of a byte, and a pair is 4
/// operations of every dim; and once, what a launch and its last wave take, about 4 us.
struct pass_tuning {
  static constexpr double row = 128, launch = 3e6;
  static constexpr std::int32_t rows = 128, keys = 16;  // of a tile, and what its keys are rounded up to
};

/// Tiles of the frames of a prompt whose positions are all queries and all cached.
class frame_tiles {
 public:
  frame_tiles(token_layout const& layout, std::int32_t group)
      : layout_(layout), queries_(group < pass_tuning::rows ? pass_tuning::rows / group : 1) {}

  /// Of tiles of one frame's queries each, halfway between its first and its last one.
  double by_frame(spatial_temporal const& pattern) const {
    double pairs = 0;
    for_each_frame([&](std::int32_t begin, std::int32_t end) {
      std::int32_t first = end - begin > queries_ ? end - queries_ : begin;
      while (pattern.tile_end(first) < end) first = pattern.tile_end(first);
      std::int32_t const count = end - first;
      auto const keys_of = [&](std::int32_t from) {
        std::int64_t keys = 0;
        pattern.runs(from, from + count - 1,
                     [&](std::int32_t k_first, std::int32_t k_last, bool) { keys += k_last - k_first + 1; });
        return keys;
      };
      pairs += pairs_of(pieces(end - begin, count), (keys_of(begin) + keys_of(first)) / 2);
    });
    return pairs;
  }

  /// Of tiles of the same places of all frames of one size, all like those of the middle.
  double by_column(spatial_temporal const& pattern) const {
    double pairs = 0;
    for (std::int32_t i = 0; i < layout_.count; ++i) {
      segment const& s = layout_.segments[i];
      if (!s.has_frames() || frames_like(i, i) > 0) continue;
      std::int32_t const frames = frames_like(i, layout_.count), places = s.frame_tokens();
      std::int32_t const columns = frames < queries_ ? queries_ / frames : 1, parts = pieces(frames, queries_);
      std::int32_t const place = places / 2, last = place + columns <= places ? place + columns - 1 : places - 1;
      for (std::int32_t part = 1; part <= parts; ++part) {
        std::int64_t keys = 0;
        std::int32_t const until = static_cast<std::int32_t>(std::int64_t{frames} * part / parts) - 1;
        pattern.column_runs(s.begin, frame_like(i, until), place, last,
                            [&](std::int32_t k_first, std::int32_t k_last, bool) { keys += k_last - k_first + 1; });
        pairs += pairs_of(pieces(places, columns), keys);
      }
    }
    return pairs;
  }

  double queries() const {
    double all = 0;
    for_each_frame([&](std::int32_t begin, std::int32_t end) { all += end - begin; });
    return all;
  }

 private:
  static double pairs_of(std::int32_t tiles, std::int64_t keys) {
    return double{pass_tuning::rows} * tiles * static_cast<double>((keys + pass_tuning::keys - 1) / pass_tuning::keys) *
           pass_tuning::keys;
  }
  static std::int32_t pieces(std::int32_t all, std::int32_t of) { return (all - 1) / of + 1; }

  template <class F> void for_each_frame(F const& f) const {
    for (std::int32_t i = 0; i < layout_.count; ++i) {
      segment const& s = layout_.segments[i];
      for (std::int32_t t = 0; s.has_frames() && t < s.frames; ++t)
        f(s.begin + t * s.frame_tokens(), s.begin + (t + 1) * s.frame_tokens());
    }
  }

  bool alike(segment const& a, segment const& b) const {
    return a.kind == b.kind && a.stream == b.stream && a.height == b.height && a.width == b.width;
  }
  /// How many frames like those of segment i there are in segments [0, end).
  std::int32_t frames_like(std::int32_t i, std::int32_t end) const {
    std::int32_t frames = 0;
    for (std::int32_t j = 0; j < end; ++j)
      if (alike(layout_.segments[i], layout_.segments[j])) frames += layout_.segments[j].frames;
    return frames;
  }
  /// Where number n of them begins.
  std::int32_t frame_like(std::int32_t i, std::int32_t n) const {
    for (std::int32_t j = i;; ++j) {
      segment const& s = layout_.segments[j];
      if (!alike(layout_.segments[i], s)) continue;
      if (n < s.frames) return s.begin + n * s.frame_tokens();
      n -= s.frames;
    }
  }

  token_layout layout_;
  std::int32_t queries_;
};

}  // namespace detail

/// Predicts, on the host, from a pattern whose layout lies there too:
///
///   one = pairs that tiles of a frame's queries compute, text and what it sees aside
///   two = the same without the temporal part + pairs that tiles of columns compute
///         + 128 for each row (query x query head) of a frame + 3e6
///
/// with tiles of 128 rows and keys rounded up to 16, for a whole prompt. The weights are counted, not measured; nothing
/// follows from the prediction but what the caller makes of it. Costs O(frames^2). Precondition: a pattern that passes
/// its `check`.
inline pass_costs predict_passes(spatial_temporal const& pattern, std::int32_t heads, std::int32_t kv_heads) {
  detail::frame_tiles const tiles(pattern.layout, heads / kv_heads);
  two_passes const apart{pattern};
  return {kv_heads * tiles.by_frame(pattern),
          kv_heads * (tiles.by_column(apart.first()) + tiles.by_frame(apart.second())) +
              detail::pass_tuning::row * heads * tiles.queries() + detail::pass_tuning::launch};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
