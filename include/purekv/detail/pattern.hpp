// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// What a pattern says of itself, or the default if it does not.

/// Rows (query x head of the group) of a tile: large enough that converting keys and values costs nothing beside using
/// them, small enough that the rows stay in L2 (bench/attend.cpp: 64 rows lose a tenth, 512 win nothing).
inline constexpr std::int32_t dense_tile_rows = 256;

/// 0: the planner chooses.
template <Pattern P> PUREKV_HD constexpr std::int32_t tile_rows() {
  if constexpr (requires { P::tile_rows; })
    return P::tile_rows;
  else
    return 0;
}

struct ignore_run {
  PUREKV_HD void operator()(std::int32_t, std::int32_t, bool) const {}
};

template <Pattern P> PUREKV_HD constexpr bool has_runs_by_head() {
  return requires(P const& p, std::int32_t i) { p.runs(i, i, i, i, ignore_run{}); };
}

template <Pattern P> PUREKV_HD constexpr bool has_runs() {
  return has_runs_by_head<P>() || requires(P const& p, std::int32_t i) { p.runs(i, i, ignore_run{}); };
}

/// The runs of a pattern for some heads, or for all where it does not tell them apart.
PUREKV_CALLS template <Pattern P, class F>
PUREKV_HD void runs_of(P const& pattern, std::int32_t h_first, std::int32_t h_last, std::int32_t q_first,
                       std::int32_t q_last, F const& emit) {
  if constexpr (has_runs_by_head<P>())
    pattern.runs(h_first, h_last, q_first, q_last, emit);
  else
    pattern.runs(q_first, q_last, emit);
}

template <Pattern P> PUREKV_HD constexpr bool is_per_head() {
  if constexpr (requires { P::per_head; })
    return P::per_head;
  else
    return false;
}

/// Whether the keys that a head sees are known beforehand, so that plans hold who sees what of partly visible runs.
template <Pattern P> PUREKV_HD constexpr bool masks_known() {
  return has_runs<P>() && (!is_per_head<P>() || has_runs_by_head<P>());
}

template <Pattern P> PUREKV_HD constexpr bool looks_ahead() {
  return requires(P const& p) { p.last_visible(std::int32_t{}); };
}

template <Pattern P> PUREKV_HD constexpr bool has_tile_end() {
  return requires(P const& p) { p.tile_end(std::int32_t{}); };
}

/// Whether a pattern may be attended to in two passes (two_passes.cuh).
template <Pattern P> PUREKV_HD constexpr bool has_temporal_part() {
  return requires(P const& p, std::int32_t i) { p.column_runs(i, i, i, i, ignore_run{}); };
}

/// The last position that a query at q may see: its own, unless the pattern looks ahead.
template <Pattern P> PUREKV_HD constexpr std::int32_t last_visible(P const& pattern, std::int32_t q) {
  if constexpr (looks_ahead<P>())
    return pattern.last_visible(q);
  else
    return q;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
