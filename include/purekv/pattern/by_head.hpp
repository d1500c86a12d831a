// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/pattern.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Heads of several kinds: visible(head, q, k) = kinds[kind_of[head]] shows it.
///
/// A video head is spatial or temporal (Sparse VideoGen, arXiv 2502.01776), a text head looks back or only around
/// itself (DuoAttention, arXiv 2410.10819). Only the keys of a KV head's own kinds are computed, so the query heads of
/// a group should be of one kind; where they are not, all keys are computed and masked. kind_of : [heads], each below
/// Kinds; the caller's memory. There must be an entry for every query head.
template <Pattern P, std::int32_t Kinds = 2> struct by_head {
  static_assert(Kinds >= 1, "by_head: there must be a kind");
  static_assert(!detail::is_per_head<P>(), "by_head: the kinds must not look at heads themselves");

  P kinds[Kinds];
  std::uint8_t const* kind_of = nullptr;
  std::int32_t heads = 0;

  static constexpr std::int32_t tile_rows = detail::tile_rows<P>();
  static constexpr bool per_head = true;

  PUREKV_HD bool visible(std::int32_t head, std::int32_t q, std::int32_t k) const {
    return kinds[kind_of[head]].visible(head, q, k);
  }

  PUREKV_HD std::int32_t last_visible(std::int32_t q) const
      requires(requires(P const& p) { p.last_visible(std::int32_t{}); }) {
    std::int32_t last = q;
    for (P const& kind : kinds) last = kind.last_visible(q) > last ? kind.last_visible(q) : last;
    return last;
  }

  PUREKV_CALLS template <class F>
  PUREKV_HD void runs(std::int32_t h_first, std::int32_t h_last, std::int32_t q_first, std::int32_t q_last,
                      F const& emit) const requires(detail::has_runs<P>()) {
    std::uint8_t const kind = kind_of[h_first];
    for (std::int32_t h = h_first + 1; h <= h_last; ++h)
      if (kind_of[h] != kind) return emit(std::int32_t{0}, detail::last_visible(*this, q_last), false);
    kinds[kind].runs(q_first, q_last, emit);
  }
  PUREKV_CALLS template <class F>
  PUREKV_HD void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const requires(detail::has_runs<P>()) {
    runs(0, heads - 1, q_first, q_last, emit);
  }

  PUREKV_HD std::int32_t tile_end(std::int32_t q) const {
    std::int32_t end = INT32_MAX;
    if constexpr (requires { kinds[0].tile_end(q); })
      for (P const& kind : kinds) end = kind.tile_end(q) < end ? kind.tile_end(q) : end;
    return end;
  }

  PUREKV_HD status check(std::int32_t last) const {
    if (heads <= 0) return {errc::bad_policy, "by_head: no heads"};
    if (kind_of == nullptr) return {errc::null_data, "by_head: kind_of is null"};
    for (std::int32_t h = 0; h < heads; ++h)
      if (kind_of[h] >= Kinds) return {errc::bad_policy, "by_head: a head is of a kind that there is not"};
    if constexpr (requires { kinds[0].check(last); })
      for (P const& kind : kinds)
        if (status const s = kind.check(last); !s.ok()) return s;
    return {};
  }

  PUREKV_HD status check_heads(std::int32_t query_heads) const {
    if (query_heads != heads) return {errc::mismatch, "by_head: the layer has another number of query heads"};
    return {};
  }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
