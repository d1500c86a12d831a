// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/merged_runs.hpp>
#include <purekv/detail/pattern.hpp>
#include <purekv/layout.hpp>
#include <purekv/pattern/dense.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// The tokens of a frame see each other in both directions, whatever P says of them; for the rest it is P and causal:
///
///   visible(q, k) = q and k lie in the same frame of an image or video segment  or  k <= q and P shows it
///
/// An image is a frame, and so is every frame of a video: it comes at once, the next one later. Text and audio are
/// causal. As in Gemma 3 (arXiv 2503.19786), where also the layers with a sliding window let an image see itself whole.
/// layout must cover every position (check says so); positions beyond it count as text. What a query may see must be
/// cached when it attends, so a prompt in chunks is cut between frames.
template <Pattern P = dense> struct bidirectional {
  static_assert(
      !requires(P const& p) { p.last_visible(std::int32_t{}); }, "bidirectional: the pattern looks ahead itself");

  token_layout layout;
  [[no_unique_address]] P pattern{};

  static constexpr std::int32_t tile_rows = detail::tile_rows<P>();
  static constexpr bool per_head = detail::is_per_head<P>();

  PUREKV_HD bool visible(std::int32_t head, std::int32_t q, std::int32_t k) const {
    span const own = frame_of(q);
    return (own.first <= k && k <= own.last) || (k <= q && pattern.visible(head, q, k));
  }

  PUREKV_HD std::int32_t last_visible(std::int32_t q) const {
    std::int32_t const last = frame_of(q).last;
    return last < q ? q : last;
  }

  /// Costs what those of P cost for queries of one frame or of none, the cases that tile_end asks for.
  PUREKV_CALLS template <class F>
  PUREKV_HD void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const
      requires(requires(P const& p) { p.runs(std::int32_t{}, std::int32_t{}, detail::ignore_run{}); }) {
    detail::merged_runs<F> out(emit);
    span const own = frame_of(q_first);
    if (q_last >= frames_end(q_first)) {
      out.add(0, last_visible(q_last), false);
    } else if (own.last < own.first) {
      pattern.runs(q_first, q_last,
                   [&](std::int32_t first, std::int32_t last, bool full) { out.add(first, last, full); });
    } else {
      pattern.runs(q_first, q_last, [&](std::int32_t first, std::int32_t last, bool full) {
        out.add(first, last < own.first ? last : own.first - 1, full);
      });
      out.add(own.first, own.last, true);
    }
    out.flush();
  }

  /// Queries of one tile belong to one frame or to none.
  PUREKV_HD std::int32_t tile_end(std::int32_t q) const {
    std::int32_t const end = frames_end(q);
    if constexpr (requires { pattern.tile_end(q); }) {
      std::int32_t const other = pattern.tile_end(q);
      return other < end ? other : end;
    }
    return end;
  }

  PUREKV_HD status check(std::int32_t last) const {
    if (status const s = validate(layout); !s.ok()) return s;
    if (last >= layout.tokens())
      return {errc::bad_positions, "bidirectional: the layout does not cover every position"};
    if constexpr (requires { pattern.check(last); }) return pattern.check(last);
    return {};
  }

  PUREKV_HD status check_heads(std::int32_t heads) const {
    if constexpr (requires { pattern.check_heads(heads); }) return pattern.check_heads(heads);
    return {};
  }

 private:
  struct span {
    std::int32_t first, last;
  };

  /// The frame of a position; none of text and audio.
  PUREKV_HD span frame_of(std::int32_t q) const {
    if (!layout.covers(q)) return {0, -1};
    segment const& s = layout.segments[layout.segment_of(q)];
    if (!s.has_frames()) return {0, -1};
    std::int32_t const first = q - (q - s.begin) % s.frame_tokens();
    return {first, first + s.frame_tokens() - 1};
  }

  /// The first position behind the frame of q; where it lies in none, the first of the next one.
  PUREKV_HD std::int32_t frames_end(std::int32_t q) const {
    span const own = frame_of(q);
    if (own.first <= own.last) return own.last + 1;
    if (!layout.covers(q)) return INT32_MAX;
    for (std::int32_t i = layout.segment_of(q) + 1; i < layout.count; ++i)
      if (layout.segments[i].has_frames()) return layout.segments[i].begin;
    return INT32_MAX;
  }
};

static_assert(Pattern<bidirectional<>>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
