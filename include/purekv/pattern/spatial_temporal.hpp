// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/merged_runs.hpp>
#include <purekv/layout.hpp>

namespace purekv::inline v0_1 {

/// Which frames of other streams, that is of other videos and other series of images, a token of a frame sees: none,
/// those of its own time, or all.
enum class other_streams : std::int32_t { hidden, same_time, shown };

/// Whether spatial_temporal shows what the temporal part alone shows: the pairs of frames that are further apart than
/// spatial_frames, but for those that first_frame shows. `alone` and `excluded` are disjoint and together `included`,
/// so that attention to one and to the other can be merged (two_passes.cuh).
enum class temporal_part : std::int32_t { included, alone, excluded };

/// What spatial_temporal counts distances in: so many frames of so many rows and columns of places.
struct place_cell {
  std::int32_t frames = 1, height = 1, width = 1;
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// ST-SpAttn (PureKV, arXiv 2510.25600). With q at (t, y, x) and k at (t', y', x') of frames of the same stream,
/// d = t - t' counted in frames of the stream, and near(r): |y - y'| <= r and |x - x'| <= r:
///
///   visible(q, k) = k < sinks  or  k is text or audio  or  q is text or audio
///                   or  0 <= d <= spatial_frames and near(spatial_radius)                              (spatial)
///                   or  1 <= d <= temporal_frames, temporal_stride divides d, near(temporal_radius)    (temporal)
///                   or  t' = 0 and first_frame
///
/// As it stands: its own frame whole, and the same place of every earlier frame. The paper publishes no mask; this is
/// the reading with the fewest assumptions, and the parameters are the others (docs/policies/spatial_temporal.md).
///
/// A stream is a kind (image or video) and a `segment::stream`. It may go on over several segments, with text between
/// its frames and in frames of another size, whose places are told apart by coordinates. An image is a video of one
/// frame. Audio is text, unless audio_by_time. layout must cover every position (check says so); positions beyond it
/// count as text.
struct spatial_temporal {
  static constexpr std::int32_t everything = INT32_MAX;

  token_layout layout;
  std::int32_t sinks = 4;

  std::int32_t spatial_frames = 0;
  std::int32_t spatial_radius = everything;   // 0 and temporal parameters as they are: a temporal head
  std::int32_t temporal_frames = everything;  // 0: a spatial head
  std::int32_t temporal_radius = 0;
  std::int32_t temporal_stride = 1;
  bool first_frame = false;

  place_cell cell{};     // d, y and x are divided by it and rounded down before they are compared
  bool clamped = false;  // at the border of a frame the window near(r) moves inwards and keeps its size

  other_streams others = other_streams::hidden;
  bool audio_by_time = false;  // tokens of audio and of frames see each other only where their times meet

  /// Times meet if the middle of the shorter of two steps, t0 + (t + 1/2) * dt, lies within the longer one, or at most
  /// so many seconds beside it.
  float time_reach = 0;

  temporal_part temporal = temporal_part::included;

  PUREKV_HD bool visible(std::int32_t, std::int32_t q, std::int32_t k) const {
    bool const others_too = temporal != temporal_part::alone;
    if (k < sinks || !layout.covers(q) || !layout.covers(k)) return others_too;
    coordinates const a = layout.at(q), b = layout.at(k);
    segment const &of_q = layout.segments[a.segment], &of_k = layout.segments[b.segment];
    switch (relation_of(of_q, of_k)) {
      case relation::shown:
        return others_too;
      case relation::hidden:
        return false;
      case relation::by_time:
        return others_too && steps_near(of_q, a.t, of_k).has(b.t);
      case relation::by_place:
        break;
    }
    std::int32_t const radius = radius_of(frame_number(a.segment, a.t), frame_number(b.segment, b.t));
    return window(a.y, cell.height, of_k.height, radius).has(b.y) &&
           window(a.x, cell.width, of_k.width, radius).has(b.x);
  }

  /// Costs O(segments + frames) for queries of one piece, the case that tile_end asks for, times the rows of a frame
  /// that their windows touch.
  PUREKV_CALLS template <class F> PUREKV_HD void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const {
    detail::merged_runs<F> out(emit);
    bool const one_piece = q_last < tile_end(q_first);
    if (one_piece && layout.covers(q_first))
      piece_runs(q_first, q_last, out);
    else if (!one_piece || temporal != temporal_part::alone)
      out.add(0, q_last, one_piece);
    out.flush();
  }

  /// What runs() says of temporal_part::alone, for queries that are not of one frame: calls emit(k_first, k_last,
  /// false) for ascending, disjoint ranges that hold all that queries at positions q_first .. q_last of frames of one
  /// size of one stream see, if they are at the places place_first .. place_last of their frames, in rows of y.
  PUREKV_CALLS template <class F>
  PUREKV_HD void column_runs(std::int32_t q_first, std::int32_t q_last, std::int32_t place_first,
                             std::int32_t place_last, F const& emit) const {
    coordinates const from = layout.at(q_first), to = layout.at(q_last);
    segment const& own = layout.segments[from.segment];
    coordinates const first{from.segment, 0, place_first / own.width, place_first % own.width};
    coordinates const last{from.segment, 0, place_last / own.width, place_last % own.width};
    std::int32_t const first_q = frame_number(from.segment, from.t), last_q = frame_number(to.segment, to.t);
    detail::merged_runs<F> out(emit);
    auto const add = [&](std::int32_t begin, std::int32_t end, bool) {
      out.add(begin > sinks ? begin : sinks, end - 1, false);
    };
    std::int32_t k_frame = 0;
    for (std::int32_t i = 0; i <= to.segment; ++i) {
      segment const& s = layout.segments[i];
      if (s.kind != own.kind || s.stream != own.stream) continue;
      for (std::int32_t t = 0; t < s.frames && k_frame < last_q; ++t, ++k_frame)
        if (some_see(first_q, last_q, k_frame))
          place_runs(own, first, last, s, s.begin + t * s.frame_tokens(), temporal_radius, add);
    }
    out.flush();
  }

  /// Queries of one tile belong to one frame, to one stretch of text, or to one segment of audio that has its time; and
  /// to one row of cells where these are as wide as the frame.
  PUREKV_HD std::int32_t tile_end(std::int32_t q) const {
    if (!layout.covers(q)) return INT32_MAX;
    coordinates const at = layout.at(q);
    segment const& s = layout.segments[at.segment];
    if (s.has_frames()) {
      std::int32_t const frame = s.begin + at.t * s.frame_tokens();
      bool const rows = cell.width >= s.width && (cell.height > 1 || s.width > 1);
      std::int32_t const left = s.height - at.y + at.y % cell.height;
      return rows && left > cell.height ? frame + (at.y / cell.height + 1) * cell.height * s.width
                                        : frame + s.frame_tokens();
    }
    std::int32_t next = at.segment + 1;
    if (!has_time(s))
      while (next < layout.count && !layout.segments[next].has_frames() && !has_time(layout.segments[next])) ++next;
    return layout.segments[next - 1].end();
  }

  PUREKV_HD status check(std::int32_t last) const {
    if (status const s = validate(layout); !s.ok()) return s;
    if (sinks < 0) return {errc::bad_policy, "spatial_temporal: the number of sinks is negative"};
    if (spatial_frames < 0 || temporal_frames < 0)
      return {errc::bad_policy, "spatial_temporal: spatial_frames or temporal_frames is negative"};
    if (spatial_radius < 0 || temporal_radius < 0)
      return {errc::bad_policy, "spatial_temporal: spatial_radius or temporal_radius is negative"};
    if (temporal != temporal_part::included && temporal != temporal_part::alone && temporal != temporal_part::excluded)
      return {errc::bad_policy, "spatial_temporal: temporal is neither included, alone nor excluded"};
    if (temporal_stride < 1) return {errc::bad_policy, "spatial_temporal: temporal_stride must be at least 1"};
    if (cell.frames < 1 || cell.height < 1 || cell.width < 1)
      return {errc::bad_policy, "spatial_temporal: a cell has no frames, height or width"};
    if (others != other_streams::hidden && others != other_streams::same_time && others != other_streams::shown)
      return {errc::bad_policy, "spatial_temporal: others is neither hidden, same_time nor shown"};
    if (!(time_reach >= 0 && time_reach < __builtin_huge_valf()))
      return {errc::bad_policy, "spatial_temporal: time_reach must be finite and at least 0"};
    if (audio_by_time || others == other_streams::same_time)
      for (std::int32_t i = 0; i < layout.count; ++i) {
        segment const& s = layout.segments[i];
        if (s.kind != modality::text && !(s.dt > 0 && s.dt < __builtin_huge_valf() && s.t0 - s.t0 == 0))
          return {errc::bad_shape, "spatial_temporal: a segment's t0 is not finite, or its dt not finite and above 0"};
      }
    if (last >= layout.tokens())
      return {errc::bad_positions, "spatial_temporal: the layout does not cover every position"};
    return {};
  }

 private:
  struct stretch {
    std::int32_t begin, end;
    PUREKV_HD bool has(std::int32_t i) const { return begin <= i && i < end; }
  };

  enum class relation { shown, hidden, by_time, by_place };

  PUREKV_HD bool has_time(segment const& s) const { return audio_by_time && s.kind == modality::audio; }

  /// What decides whether a token of one segment sees one of another.
  PUREKV_HD relation relation_of(segment const& of_q, segment const& of_k) const {
    if (!of_q.has_frames() || !of_k.has_frames()) {
      bool const with_frames = of_q.has_frames() || of_k.has_frames();
      return with_frames && (has_time(of_q) || has_time(of_k)) ? relation::by_time : relation::shown;
    }
    if (of_q.kind == of_k.kind && of_q.stream == of_k.stream) return relation::by_place;
    if (others == other_streams::same_time) return relation::by_time;
    return others == other_streams::shown ? relation::shown : relation::hidden;
  }

  /// Which frame of its stream it is.
  PUREKV_HD std::int32_t frame_number(std::int32_t index, std::int32_t t) const {
    segment const& own = layout.segments[index];
    for (std::int32_t i = 0; i < index; ++i) {
      segment const& s = layout.segments[i];
      if (s.kind == own.kind && s.stream == own.stream) t += s.frames;
    }
    return t;
  }

  /// How far from its place a token of frame q_frame sees in k_frame of its stream, in cells; -1: it sees nothing.
  PUREKV_HD std::int32_t radius_of(std::int32_t q_frame, std::int32_t k_frame) const {
    if (first_frame && k_frame == 0) return temporal == temporal_part::alone ? -1 : everything;
    // Planning asks for every pair of frames and query: divisions by 1 would be a third of its time.
    std::int32_t const d = cell.frames == 1 ? q_frame - k_frame : q_frame / cell.frames - k_frame / cell.frames;
    std::int32_t radius = 0 <= d && d <= spatial_frames ? spatial_radius : -1;
    if (1 <= d && d <= temporal_frames && (temporal_stride == 1 || d % temporal_stride == 0) &&
        temporal_radius > radius)
      radius = temporal_radius;
    if (temporal == temporal_part::included) return radius;
    return (d > spatial_frames) == (temporal == temporal_part::alone) ? radius : -1;
  }

  /// Whether the temporal part may show frame k_frame to one of first_q .. last_q.
  PUREKV_HD bool some_see(std::int32_t first_q, std::int32_t last_q, std::int32_t k_frame) const {
    if (first_frame && k_frame == 0) return false;
    std::int32_t const k = k_frame / cell.frames, nearest = first_q / cell.frames - k,
                       farthest = last_q / cell.frames - k;
    if (farthest <= spatial_frames) return false;
    std::int32_t const low = nearest > spatial_frames ? nearest : spatial_frames + 1;
    std::int32_t const high = farthest < temporal_frames ? farthest : temporal_frames;
    return low <= high && high - high % temporal_stride >= low;
  }

  /// The rows, or columns, near one in a frame of `size`: none (begin >= end) if the radius is negative or the frame
  /// too small.
  PUREKV_HD stretch window(std::int32_t at, std::int32_t unit, std::int32_t size, std::int32_t radius) const {
    if (radius < 0) return {0, 0};
    if (radius >= size && radius >= at) return {0, size};
    if (unit == 1 && !clamped)  // what follows, without its divisions
      return {at - radius > 0 ? (at - radius < size ? at - radius : size) : 0,
              radius < size - at ? at + radius + 1 : size};
    std::int64_t const last_cell = (size - 1) / unit, own = at / unit, wide = 2 * std::int64_t{radius};
    std::int64_t first = own - radius;
    if (clamped && first > last_cell - wide) first = last_cell - wide;
    if (clamped && first < 0) first = 0;
    std::int64_t last = first + wide;
    if (first < 0) first = 0;
    if (last > last_cell) last = last_cell;
    std::int64_t const end = (last + 1) * unit;
    return {static_cast<std::int32_t>(first * unit < size ? first * unit : size),
            static_cast<std::int32_t>(end < size ? end : size)};
  }

  PUREKV_HD static double middle_of(segment const& s, std::int32_t t) { return s.t0 + (t + 0.5) * s.dt; }

  /// The frames of s, or steps of an audio segment, whose time meets that of step t of `own`.
  PUREKV_HD stretch steps_near(segment const& own, std::int32_t t, segment const& s) const {
    double const middle = middle_of(own, t), slack = 0.5 * (own.dt > s.dt ? own.dt : s.dt) + time_reach;
    auto const count_until = [&](auto const& before) {
      std::int32_t low = 0, high = s.frames;
      while (low < high) {
        std::int32_t const center = low + (high - low) / 2;
        if (before(middle_of(s, center)))
          low = center + 1;
        else
          high = center;
      }
      return low;
    };
    return {count_until([&](double m) { return m < middle - slack; }),
            count_until([&](double m) { return m <= middle + slack; })};
  }

  template <class Runs> PUREKV_HD void piece_runs(std::int32_t q_first, std::int32_t q_last, Runs& out) const {
    coordinates const first = layout.at(q_first), last = layout.at(q_last);
    segment const& own = layout.segments[first.segment];
    std::int32_t const end_of_sinks = sinks <= q_last ? sinks : q_last + 1;
    auto const add = [&](std::int32_t begin, std::int32_t end, bool full) {
      out.add(begin > end_of_sinks ? begin : end_of_sinks, (end <= q_last ? end : q_last + 1) - 1, full);
    };
    bool const others_too = temporal != temporal_part::alone;
    if (!own.has_frames() && !has_time(own)) return others_too ? out.add(0, q_last, true) : void();
    if (others_too) out.add(0, end_of_sinks - 1, true);
    std::int32_t const q_frame = own.has_frames() ? frame_number(first.segment, first.t) : 0;
    std::int32_t k_frame = 0;
    for (std::int32_t i = 0; i <= first.segment; ++i) {
      segment const& s = layout.segments[i];
      switch (relation_of(own, s)) {
        case relation::shown:
          if (others_too) add(s.begin, s.end(), true);
          break;
        case relation::hidden:
          break;
        case relation::by_time:
          if (others_too) time_runs(own, first.t, last.t, s, add);
          break;
        case relation::by_place:
          frame_runs(own, first, last, q_frame, s, k_frame, add);
          k_frame += s.frames;
      }
    }
  }

  /// The steps of s that queries of steps t_first .. t_last see: some of the queries, and then all of them.
  template <class Add>
  PUREKV_HD void time_runs(segment const& own, std::int32_t t_first, std::int32_t t_last, segment const& s,
                           Add const& add) const {
    stretch const of_first = steps_near(own, t_first, s), of_last = steps_near(own, t_last, s);
    auto const at = [&](std::int32_t t) { return s.begin + t * s.frame_tokens(); };
    if (of_last.begin >= of_first.end) return add(at(of_first.begin), at(of_last.end), false);
    add(at(of_first.begin), at(of_last.begin), false);
    add(at(of_last.begin), at(of_first.end), true);
    add(at(of_first.end), at(of_last.end), false);
  }

  /// What queries at the places `first` .. `last` of frame q_frame see in the frames of s, the first of which is
  /// k_frame. Neighbours that are seen equally far look alike, so the places are worked out once for all of them, if
  /// they are one run.
  template <class Add>
  PUREKV_HD void frame_runs(segment const& own, coordinates const& first, coordinates const& last, std::int32_t q_frame,
                            segment const& s, std::int32_t k_frame, Add const& add) const {
    std::int32_t const frames = s.frames <= q_frame - k_frame ? s.frames : q_frame - k_frame + 1;
    std::int32_t known = -1, runs = 0;
    stretch seen{0, 0};
    bool all = false;
    for (std::int32_t t = 0; t < frames; ++t) {
      std::int32_t const radius = radius_of(q_frame, k_frame + t), frame = s.begin + t * s.frame_tokens();
      if (radius < 0) continue;
      if (radius != known || runs > 1) {
        known = radius;
        runs = 0;
        auto const note = [&](std::int32_t begin, std::int32_t end, bool full) {
          bool const goes_on = runs > 0 && seen.end == begin - frame && all == full;
          seen = {goes_on ? seen.begin : begin - frame, end - frame};
          runs += !goes_on;
          all = full;
          add(begin, end, full);
        };
        place_runs(own, first, last, s, frame, radius, note);
      } else if (runs == 1) {
        add(frame + seen.begin, frame + seen.end, all);
      }
    }
  }

  /// What queries at the places `first` .. `last` of a frame of `own` see in the frame of s that begins at `frame`.
  template <class Add>
  PUREKV_HD void place_runs(segment const& own, coordinates const& first, coordinates const& last, segment const& s,
                            std::int32_t frame, std::int32_t radius, Add const& add) const {
    auto const rows_near = [&](std::int32_t y) { return window(y, cell.height, s.height, radius); };
    auto const columns_near = [&](std::int32_t x) { return window(x, cell.width, s.width, radius); };
    bool const one_row = first.y == last.y;
    std::int32_t const leftmost = one_row ? first.x : 0, rightmost = one_row ? last.x : own.width - 1;
    stretch const all_rows{rows_near(last.y).begin, rows_near(first.y).end};
    stretch const all_columns{columns_near(rightmost).begin, columns_near(leftmost).end};
    if (all_rows.begin == 0 && all_rows.end == s.height && all_columns.begin == 0 && all_columns.end == s.width)
      return add(frame, frame + s.frame_tokens(), true);
    std::int32_t above = first.y, below = first.y;  // the query rows that see row y: none between is left out
    for (std::int32_t y = rows_near(first.y).begin, end = rows_near(last.y).end; y < end; ++y) {
      while (above < last.y && rows_near(above).end <= y) ++above;
      while (below < last.y && rows_near(below + 1).begin <= y) ++below;
      std::int32_t const left = above < below || above > first.y ? 0 : first.x;
      std::int32_t const right = above < below || below < last.y ? own.width - 1 : last.x;
      stretch const columns{columns_near(left).begin, columns_near(right).end};
      bool const full = all_rows.has(y) && all_columns.begin <= columns.begin && columns.end <= all_columns.end;
      if (columns.begin < columns.end)
        add(frame + y * s.width + columns.begin, frame + y * s.width + columns.end, full);
    }
  }
};

static_assert(Pattern<spatial_temporal>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
