// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/check.cuh>
#include <purekv/detail/rank_tokens.cuh>
#include <purekv/detail/select_rows.cuh>
#include <purekv/detail/slots.hpp>
#include <purekv/select.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// A capacity that is enough whatever the lengths, which lie on the device: that of the heads. For scope layer, where
/// all heads of a sequence hold the same tokens, that of one head of each.
template <Cache C>
std::int64_t selection_capacity(gpu const&, C const& cache, selection_scope scope = selection_scope::kv_head) {
  if (!cache.check_view().ok()) return 0;
  return detail::slots_in(cache) / (scope == selection_scope::layer ? cache.kv_heads : 1);
}

namespace detail {

template <class Compressor, class Tiles, Cache C> select_shape shape_of(gpu const& exec, C const& cache) {
  constexpr bool sharing = heads_share_budget<decltype(Compressor::budget)>();
  std::int64_t const slots = slots_in(cache), heads = std::int64_t{cache.sequences} * cache.kv_heads;
  std::int32_t const rows = selection_rows<Compressor>(cache);
  return {.keys = (slots + 3) / 4 * 4,
          .rows = rows,
          .rows_per_group = sharing ? cache.kv_heads : 1,
          .blocks = blocks_per_row(exec, slots / heads, rows, Tiles::keys_per_block),
          .ranking_blocks = blocks_per_row(exec, slots / heads, rows, Tiles::threads * Tiles::packs),
          .sharing = sharing,
          .ties_by_position = sharing};
}

/// Searches count in 32 bits.
template <Cache C> bool counts_fit(C const& cache) { return slots_of_sequence(cache) <= UINT32_MAX; }

template <class Compressor, Cache C>
status check_select(gpu const& exec, Compressor const& c, score_view const& scores, C const& cache,
                    selection const& out, workspace const& work, layer_position const& layer) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_select_view(c, scores, cache, out, layer); !s.ok()) return s;
  if (!counts_fit(cache)) return {errc::bad_shape, "select: a sequence has more than 2^32 - 1 slots"};
  if (out.capacity < selection_capacity(exec, cache, out.scope))
    return {errc::capacity_exceeded, "select: on a GPU a selection has the capacity that selection_capacity() says"};
  if (status const s = check_reachable_cache(exec, cache); !s.ok()) return s;
  return check_reachable(exec, scores.data, out.offset, out.token, work.data);
}

template <class Tiles, class E, class B, class P, selection_scope Scope, Cache C>
status select_with(gpu const& exec, compressor<E, B, P, Scope> const& c, score_view const& scores, C const& cache,
                   selection const& out, workspace work, layer_position const& layer) {
  if (status const s = check_select(exec, c, scores, cache, out, work, layer); !s.ok()) return s;
  select_shape const shape = shape_of<compressor<E, B, P, Scope>, Tiles>(exec, cache);
  carve cut{work};
  row_memory const memory = row_memory::take(cut, shape);
  if (!cut.fits()) return {errc::workspace_too_small, "select: workspace smaller than select_workspace()"};

  using rank = rank_rows<B, P, Scope, C, 1, Tiles>;
  select_rows<Tiles> rows(exec, shape, memory);
  rows.start(std::int64_t{shape.rows} * shape.ranking_blocks, rank::shared_bytes,
             rank{.layers = {{cache, scores, 0}},
                  .budget = c.budget,
                  .protect = c.protect,
                  .layer = layer,
                  .row_layer = 0,
                  .row_layers = 1,
                  .blocks = shape.ranking_blocks,
                  .rows_per_group = shape.rows_per_group,
                  .memory = memory});
  if constexpr (heads_share_budget<B>())
    rows.keep_together([&] { rows.order_ties_by_position(cache); });
  else
    rows.keep_alone();
  return rows.put(out, 1, cache.sequences);
}

template <class Tiles, class E, class B, class P, selection_scope Scope, Cache C>
std::size_t select_workspace_with(gpu const& exec, compressor<E, B, P, Scope> const&, C const& cache) {
  if (!cache.check_view().ok() || !counts_fit(cache)) return 0;
  carve memory;
  row_memory::take(memory, shape_of<compressor<E, B, P, Scope>, Tiles>(exec, cache));
  return memory.bytes();
}

}  // namespace detail

template <class E, class B, class P, selection_scope Scope, Cache C>
std::size_t select_workspace(gpu const& exec, compressor<E, B, P, Scope> const& c, C const& cache) {
  return detail::select_workspace_with<detail::select_tiles>(exec, c, cache);
}

/// As on the CPU, to the bit. out : capacity of at least selection_capacity(exec, cache, scope), since the host does
/// not know how many tokens are kept. Preconditions, beside those on lengths and positions: the protect is defined for
/// the newest position, what policies point to lies where the device reaches it, and for scope layer the KV heads hold
/// the same positions. A head of which the budget keeps less than one token keeps its pinned ones.
template <class E, class B, class P, selection_scope Scope, Cache C>
status select(gpu const& exec, compressor<E, B, P, Scope> const& c, score_view const& scores, C const& cache,
              selection const& out, workspace work, layer_position layer = {}) {
  static_assert(!(Scope == selection_scope::layer && detail::heads_share_budget<B>()),
                "select: a budget that the heads share needs a compressor of scope kv_head (docs/concepts/budget.md)");
  static_assert(!detail::layers_share_budget<B>(),
                "select: a budget that all layers share needs select over a model (select_model.cuh)");
  return detail::select_with<detail::select_tiles>(exec, c, scores, cache, out, work, layer);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
