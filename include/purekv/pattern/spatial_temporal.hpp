// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/merged_runs.hpp>
#include <purekv/layout.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// ST-SpAttn (PureKV, arXiv 2510.25600) in its base form. With q at (segment, t, y, x) and k at (segment', t', y', x'):
///
///   visible(q, k) = k < sinks  or  k is text or audio  or  q is text or audio
///                   or  same segment and t' = t                          (spatial: its own frame)
///                   or  same kind and stream, an earlier frame, (y', x') = (y, x)   (temporal: the same place)
///
/// An image is a video of one frame, so images of one stream see each other's places. A stream may go on over several
/// segments, with text between its frames and in frames of another size. Audio is treated as text: it sees everything
/// before it and is seen by all. The paper publishes no mask; this is the reading with the fewest assumptions.
/// layout must cover every position (check says so); positions beyond it count as text.
struct spatial_temporal {
  token_layout layout;
  std::int32_t sinks = 4;

  static constexpr std::int32_t tile_rows = 64;

  PUREKV_HD bool visible(std::int32_t, std::int32_t q, std::int32_t k) const {
    if (k < sinks || !has_frames(q) || !has_frames(k)) return true;
    coordinates const a = layout.at(q), b = layout.at(k);
    if (a.segment == b.segment && a.t == b.t) return true;
    bool const earlier = b.segment < a.segment || (b.segment == a.segment && b.t < a.t);
    return earlier && same_stream(a.segment, b.segment) && a.y == b.y && a.x == b.x;
  }

  /// Costs O(segments + frames) for queries of one frame, the case that tile_end asks for.
  template <class F> PUREKV_HD void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const {
    detail::merged_runs<F> out(emit);
    bool const one_tile = q_last < tile_end(q_first);
    if (one_tile && has_frames(q_first))
      frame_runs(q_first, q_last, out);
    else
      out.add(0, q_last, one_tile);
    out.flush();
  }

  /// Queries of one tile belong to one frame, or to one stretch of text or audio.
  PUREKV_HD std::int32_t tile_end(std::int32_t q) const {
    if (!layout.covers(q)) return INT32_MAX;
    coordinates const at = layout.at(q);
    segment const& s = layout.segments[at.segment];
    return s.has_frames() ? s.begin + (at.t + 1) * s.frame_tokens() : s.end();
  }

  PUREKV_HD status check(std::int32_t last) const {
    if (status const s = validate(layout); !s.ok()) return s;
    if (sinks < 0) return {errc::bad_policy, "spatial_temporal: the number of sinks is negative"};
    if (last >= layout.tokens())
      return {errc::bad_positions, "spatial_temporal: the layout does not cover every position"};
    return {};
  }

 private:
  PUREKV_HD bool has_frames(std::int32_t position) const {
    return layout.covers(position) && layout.segments[layout.segment_of(position)].has_frames();
  }
  PUREKV_HD bool same_stream(std::int32_t a, std::int32_t b) const {
    return layout.segments[a].kind == layout.segments[b].kind && layout.segments[a].stream == layout.segments[b].stream;
  }

  template <class Runs> PUREKV_HD void frame_runs(std::int32_t q_first, std::int32_t q_last, Runs& out) const {
    coordinates const first = layout.at(q_first), last = layout.at(q_last);
    std::int32_t const end_of_sinks = sinks <= q_last ? sinks : q_last + 1;
    auto add = [&](std::int32_t begin, std::int32_t end, bool full) {
      out.add(begin > end_of_sinks ? begin : end_of_sinks, (end <= q_last ? end : q_last + 1) - 1, full);
    };
    out.add(0, end_of_sinks - 1, true);
    for (std::int32_t i = 0; i <= first.segment; ++i) {
      segment const& s = layout.segments[i];
      if (!s.has_frames()) {
        add(s.begin, s.end(), true);
        continue;
      }
      if (!same_stream(first.segment, i)) continue;
      std::int32_t const earlier = i < first.segment ? s.frames : first.t;
      stretch const places = places_in(s, first, last);
      for (std::int32_t t = 0; t < earlier && places.begin < places.end; ++t) {
        std::int32_t const frame = s.begin + t * s.frame_tokens();
        add(frame + places.begin, frame + places.end, q_first == q_last);
      }
      if (i == first.segment) add(s.begin + first.t * s.frame_tokens(), q_last + 1, true);
    }
  }

  struct stretch {
    std::int32_t begin, end;
  };

  /// The shortest stretch of a frame of s that holds all places of the frame rows between two coordinates.
  PUREKV_HD static stretch places_in(segment const& s, coordinates const& first, coordinates const& last) {
    if (first.y >= s.height) return {0, 0};
    bool const one_row = first.y == last.y;
    std::int32_t const begin = first.y * s.width + (first.x < s.width ? first.x : s.width);
    if (last.y >= s.height) return {begin, s.frame_tokens()};
    std::int32_t const end = last.y * s.width + (last.x < s.width ? last.x + 1 : s.width);
    return one_row && begin >= end ? stretch{0, 0} : stretch{begin, end};
  }
};

static_assert(Pattern<spatial_temporal>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
