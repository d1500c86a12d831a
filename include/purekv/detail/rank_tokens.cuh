// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/last_block.cuh>
#include <purekv/detail/row_memory.cuh>
#include <purekv/detail/slots.hpp>
#include <purekv/select.hpp>
#include <purekv/simt/warp.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What is ranked: the tokens of a cache, whose keys lie from `first_key` on in the order of its slots.
template <Cache C> struct ranked_layer {
  C cache;
  score_view scores;
  std::int64_t first_key;
};

/// Keys for the tokens of up to `Layers` layers, as rank_tokens of the CPU makes them, and how many each row wants.
/// Block (row, range) of the launch; rows of the selection's memory are [sequences, row_layers, heads].
template <class B, class P, selection_scope Scope, Cache C, std::int32_t Layers, class Tiles> struct rank_rows {
  static constexpr std::int32_t threads = Tiles::threads;
  static constexpr std::size_t shared_bytes = sizeof(std::uint32_t);
  static constexpr bool sharing = heads_share_budget<B>();
  static constexpr std::uint32_t at_once = Tiles::packs, step = threads * at_once;

  ranked_layer<C> layers[Layers];
  B budget;
  P protect;
  layer_position layer;  // of the first of them, for the budget
  std::int32_t row_layer, row_layers;
  std::int32_t blocks, rows_per_group;
  row_memory memory;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const range = simt::block_index().x % blocks, row_of_launch = simt::block_index().x / blocks;
    std::int32_t const heads = Scope == selection_scope::layer ? 1 : layers[0].cache.kv_heads;
    std::int32_t const h = row_of_launch % heads, s = row_of_launch / heads % layers[0].cache.sequences;
    std::int32_t const l = row_of_launch / heads / layers[0].cache.sequences;
    std::int32_t const index = (s * row_layers + row_layer + l) * heads + h;
    ranked_layer<C> const& in = layers[l];
    select_row& row = memory.rows[index];

    std::int32_t const tokens = tokens_of(in, s, h);
    std::int64_t const begin = in.first_key + (tokens > 0 ? in.cache.slot(s, h, 0) : 0);
    rank(in, s, h, tokens, range, memory.keys + begin, row);

    auto const flag = simt::shared_memory<std::uint32_t>();
    if (!last_block(&row.ticket, static_cast<std::uint32_t>(blocks), flag) || simt::thread_index() != 0) return;
    row.begin = begin;
    row.tokens = tokens;
    row.ties_end = INT32_MAX;
    want(l, index, static_cast<std::int32_t>(simt::atomic_add(&row.pinned, 0)),
         tokens - static_cast<std::int32_t>(simt::atomic_add(&row.evicted, 0)), row);
  }

 private:
  /// The length of a head, as far as there are slots and scores for it.
  PUREKV_DEVICE static std::int32_t tokens_of(ranked_layer<C> const& in, std::int32_t s, std::int32_t h) {
    std::int64_t const slot = in.cache.slot(s, h, 0), slots = slots_in(in.cache);
    if (slot < 0 || slot >= slots) return 0;
    std::int32_t const tokens = larger(smaller(in.cache.length(s, h), in.scores.tokens), 0);
    return tokens <= slots - slot ? tokens : static_cast<std::int32_t>(slots - slot);
  }

  PUREKV_DEVICE static std::int32_t newest(ranked_layer<C> const& in, std::int32_t s) {
    std::int32_t last = -1;
    for (std::int32_t h = simt::lane_index(); h < in.cache.kv_heads; h += simt::warp_threads)
      if (std::int32_t const n = tokens_of(in, s, h); n > 0) last = larger(last, *in.cache.run(s, h, n - 1).positions);
    return simt::warp_max(last);
  }

  PUREKV_DEVICE static float score(ranked_layer<C> const& in, std::int32_t s, std::int32_t h, std::int32_t t) {
    if constexpr (Scope == selection_scope::kv_head) {
      return in.scores.row(s, h)[t];
    } else {
      float sum = 0;
      for (std::int32_t each = 0; each < in.cache.kv_heads; ++each) sum += in.scores.row(s, each)[t];
      return sum / static_cast<float>(in.cache.kv_heads);
    }
  }

  PUREKV_DEVICE void rank(ranked_layer<C> const& in, std::int32_t s, std::int32_t h, std::int32_t tokens,
                          std::int32_t range, std::uint32_t* keys, select_row& row) const {
    std::int32_t const last = newest(in, s);
    auto const part = [&](std::int32_t r) { return static_cast<std::uint32_t>(std::int64_t{tokens} * r / blocks); };
    std::uint32_t const first = part(range), end = part(range + 1);
    std::uint32_t pins = 0, evictions = 0;
    for (std::uint32_t at = first + static_cast<std::uint32_t>(simt::thread_index()); at < end; at += step) {
      std::int32_t positions[at_once];
      float scores[at_once];
      PUREKV_DEVICE_UNROLL
      for (std::uint32_t i = 0; i < at_once; ++i) {
        std::int32_t const t = static_cast<std::int32_t>(at + i * threads);
        bool const given = at + i * threads < end;
        positions[i] = given ? *in.cache.run(s, h, t).positions : 0;
        scores[i] = given ? score(in, s, h, t) : 0;
      }
      PUREKV_DEVICE_UNROLL
      for (std::uint32_t i = 0; i < at_once; ++i) {
        if (at + i * threads >= end) break;
        bool const evicted = is_evicted(protect, positions[i], last);
        bool const pinned = !evicted && protect.pinned(positions[i], last);
        keys[at + i * threads] = evicted ? evicted_key : pinned ? pinned_key : rank_key(scores[i]);
        pins += pinned;
        evictions += evicted;
      }
    }
    pins = simt::reduce_add(pins);
    evictions = simt::reduce_add(evictions);
    if (simt::lane_index() != 0) return;
    if (pins != 0) simt::atomic_add(&row.pinned, pins);
    if (evictions != 0) simt::atomic_add(&row.evicted, evictions);
  }

  PUREKV_DEVICE void want(std::int32_t l, std::int32_t index, std::int32_t pinned, std::int32_t keepable,
                          select_row& row) const {
    std::int32_t keep = 0;
    if (row.tokens > 0)
      keep = larger(smaller(budget.keep(budget_input{row.tokens, layer.layer + l, layer.layers}), keepable), 0);
    if constexpr (sharing) {
      std::int32_t const guaranteed = larger(pinned, smaller(budget.floor(keep), keepable));
      cut_search& group = memory.group_cuts[index / rows_per_group];
      simt::atomic_add(&group.wanted, static_cast<std::uint32_t>(keep));
      simt::atomic_add(&group.least, static_cast<std::uint32_t>(guaranteed));
      memory.row_cuts[index].wanted = static_cast<std::uint32_t>(guaranteed);
    } else {
      row.count = larger(pinned, keep);
      memory.row_cuts[index].wanted = static_cast<std::uint32_t>(row.count);
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
