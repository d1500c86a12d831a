// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/select.cuh>
#include <purekv/select_model.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// A capacity that is enough whatever the lengths: that of all heads of all layers.
template <Cache C> std::int64_t selection_capacity(gpu const& exec, scored_layer<C> const* model, std::int32_t layers) {
  std::int64_t tokens = 0;
  for (std::int32_t l = 0; l < layers; ++l) tokens += selection_capacity(exec, model[l].cache);
  return tokens;
}

namespace detail {

/// Of how many layers a launch ranks the tokens: their views are parameters of the kernel, which has 4 KB for them.
inline constexpr std::int32_t ranked_layers = 16;

/// Searches count in 32 bits.
template <Cache C> bool counts_fit(scored_layer<C> const* model, std::int32_t layers) {
  std::int64_t slots = 0;
  for (std::int32_t l = 0; l < layers && slots <= UINT32_MAX; ++l)
    slots = counts_fit(model[l].cache) ? slots + slots_of_sequence(model[l].cache) : INT64_MAX;
  return slots <= UINT32_MAX;
}

/// Each layer's keys begin at a multiple of 16 bytes.
template <Cache C> std::int64_t room_for_keys(C const& cache) { return (slots_in(cache) + 3) / 4 * 4; }

template <class Tiles, Cache C>
select_shape shape_of(gpu const& exec, scored_layer<C> const* model, std::int32_t layers) {
  std::int64_t const rows = rows_of(model, layers);
  std::int64_t keys = 0;
  for (std::int32_t l = 0; l < layers; ++l) keys += room_for_keys(model[l].cache);
  return {.keys = keys,
          .rows = static_cast<std::int32_t>(rows),
          .rows_per_group = layers * model->cache.kv_heads,
          .blocks = blocks_per_row(exec, keys / rows, static_cast<std::int32_t>(rows), Tiles::keys_per_block),
          .ranking_blocks =
              blocks_per_row(exec, keys / rows, static_cast<std::int32_t>(rows), Tiles::threads * Tiles::packs),
          .sharing = true,
          .ties_by_position = false};
}

template <class Compressor, Cache C>
status check_select_model(gpu const& exec, Compressor const& c, scored_layer<C> const* model, std::int32_t layers,
                          selection const& out, workspace const& work) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_model_view(model, layers); !s.ok()) return s;
  if (out.rows != selection_rows<Compressor>(model->cache) * layers)
    return {errc::mismatch, "select: rows of the selection differ from the model's"};
  for (std::int32_t l = 0; l < layers; ++l) {
    if (status const s =
            check_select_view(c, model[l].scores, model[l].cache, layer_of(out, l, layers), layer_position{l, layers});
        !s.ok())
      return s;
    if (status const s = check_reachable_cache(exec, model[l].cache); !s.ok()) return s;
    if (status const s = check_reachable(exec, model[l].scores.data); !s.ok()) return s;
  }
  if (!counts_fit(model, layers))
    return {errc::bad_shape, "select: a sequence has more than 2^32 - 1 slots in all layers"};
  if (out.capacity < selection_capacity(exec, model, layers))
    return {errc::capacity_exceeded, "select: on a GPU a selection has the capacity that selection_capacity() says"};
  return check_reachable(exec, out.offset, out.token, work.data);
}

template <class Tiles, class E, class B, class P, Cache C>
status select_with(gpu const& exec, compressor<E, B, P> const& c, scored_layer<C> const* model, std::int32_t layers,
                   selection const& out, workspace work) {
  if (status const s = check_select_model(exec, c, model, layers, out, work); !s.ok()) return s;
  select_shape const shape = shape_of<Tiles>(exec, model, layers);
  carve cut{work};
  row_memory const memory = row_memory::take(cut, shape);
  if (!cut.fits()) return {errc::workspace_too_small, "select: workspace smaller than select_workspace()"};

  using rank = rank_rows<B, P, selection_scope::kv_head, C, ranked_layers, Tiles>;
  static_assert(sizeof(rank) <= 4096, "select: the parameters of a kernel have 4 KB");
  select_rows<Tiles> rows(exec, shape, memory);
  std::int64_t first_key = 0;
  for (std::int32_t first = 0; first < layers; first += ranked_layers) {
    std::int32_t const count = smaller(layers - first, ranked_layers);
    rank kernel{.layers = {},
                .budget = c.budget,
                .protect = c.protect,
                .layer = {first, layers},
                .row_layer = first,
                .row_layers = layers,
                .blocks = shape.ranking_blocks,
                .rows_per_group = shape.rows_per_group,
                .memory = memory};
    for (std::int32_t l = 0; l < count; ++l) {
      kernel.layers[l] = {model[first + l].cache, model[first + l].scores, first_key};
      first_key += room_for_keys(model[first + l].cache);
    }
    rows.start(std::int64_t{shape.rows} / layers * count * shape.ranking_blocks, rank::shared_bytes, kernel);
  }
  rows.keep_together([] {});
  return rows.put(out, layers, model->cache.sequences);
}

template <class Tiles, class E, class B, class P, Cache C>
std::size_t select_workspace_with(gpu const& exec, compressor<E, B, P> const&, scored_layer<C> const* model,
                                  std::int32_t layers) {
  if (!check_model_view(model, layers).ok() || !counts_fit(model, layers)) return 0;
  carve memory;
  row_memory::take(memory, shape_of<Tiles>(exec, model, layers));
  return memory.bytes();
}

}  // namespace detail

template <class E, class B, class P, Cache C>
std::size_t select_workspace(gpu const& exec, compressor<E, B, P> const& c, scored_layer<C> const* model,
                             std::int32_t layers) {
  return detail::select_workspace_with<detail::select_tiles>(exec, c, model, layers);
}

/// As on the CPU, to the bit, with the preconditions and the capacity of `select` of one cache on a GPU. model :
/// [layers] in memory of the host, which this call reads.
template <class E, class B, class P, Cache C>
status select(gpu const& exec, compressor<E, B, P> const& c, scored_layer<C> const* model, std::int32_t layers,
              selection const& out, workspace work) {
  static_assert(
      detail::layers_share_budget<B>(),
      "select: over a whole model it needs a budget that the layers share: across_model (docs/concepts/budget.md)");
  return detail::select_with<detail::select_tiles>(exec, c, model, layers, out, work);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
