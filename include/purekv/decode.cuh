// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/detail/check_attention.cuh>
#include <purekv/detail/decode_mass.cuh>
#include <purekv/detail/decode_merge.cuh>
#include <purekv/detail/decode_plan.cuh>
#include <purekv/detail/decode_split.cuh>
#include <purekv/detail/slots.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How many splits there may be, and what they leave, as far as the host can tell from shapes.
struct decode_bounds {
  std::int32_t tile_keys, set_rows, target;
  std::int64_t sets, rows;  // of all sequences and KV heads
  std::int64_t splits, row_parts;

  template <class TQ, Cache C>
  static status find(gpu const& exec, query_view<TQ> const& q, C const& cache, decode_bounds& out) {
    return dispatch_width(larger(cache.dim, value_dim_of(cache)), [&]<std::int32_t Width>() -> status {
      using shape = decode_tile<typename C::element, Width>;
      if (shape::bytes > exec.device.shared_bytes)
        return {errc::unsupported_device, "decode: the device gives a block too little shared memory"};
      decode_bounds b{};
      b.tile_keys = shape::keys;
      b.set_rows = shape::rows;
      // The hardware keeps 1 KB of each block's shared memory for itself.
      b.target = exec.device.multiprocessors *
                 larger(1, smaller(shape::blocks, exec.device.shared_bytes / (shape::bytes + 1024)));
      std::int64_t const of_head = std::int64_t{q.rows.tokens} * (q.rows.heads / cache.kv_heads);
      b.sets = cache.kv_heads * (of_head / shape::rows + smaller(cache.sequences, q.rows.tokens));
      b.rows = std::int64_t{q.rows.heads} * q.rows.tokens;
      b.splits = b.sets + b.target;
      // Of the parts that a set has beyond the first, there are no more than `target`.
      b.row_parts = b.rows + b.target * (of_head < shape::rows ? of_head : shape::rows);
      out = b;
      if (b.splits > INT32_MAX || b.row_parts > INT32_MAX)
        return {errc::bad_shape, "decode: more than 2^31 - 1 rows or splits"};
      return {};
    });
  }
};

struct decode_buffers {
  decode_tables tables;
  decode_results results;
  float* lse;  // [heads, queries], where the mass tap needs it and the caller does not want it

  template <Pattern P, Cache C>
  static decode_buffers take(carve& memory, decode_bounds const& bounds, P const&, C const& cache,
                             attend_taps const& taps) {
    decode_buffers b{};
    std::int64_t const heads = std::int64_t{cache.sequences} * cache.kv_heads;
    b.tables.heads = memory.take<decode_head>(heads);
    b.tables.splits = memory.take<decode_split>(bounds.splits);
    b.tables.count = memory.take<std::int32_t>(1);
    if constexpr (lists_tiles<P>()) {
      std::int64_t const tiles = slots_in(cache) / bounds.tile_keys + heads;
      b.tables.shown = memory.take<std::int32_t>(tiles);
      b.tables.visibility = memory.take<std::int32_t>(tiles);
    }
    b.results.out = memory.take<float>(bounds.row_parts * value_dim_of(cache));
    b.results.top = memory.take<float>(bounds.row_parts);
    b.results.sum = memory.take<float>(bounds.row_parts);
    if (taps.mass.data == nullptr) return b;
    b.results.mass_queries = taps.mass_queries;
    b.results.logit_stride =
        (std::int64_t{taps.mass.tokens} + bounds.tile_keys - 1) / bounds.tile_keys * bounds.tile_keys;
    std::int64_t logits = 0;
    bool const overflow = __builtin_mul_overflow(bounds.rows, b.results.logit_stride, &logits);
    b.results.logits = memory.take<float>(overflow ? -1 : logits);
    if (taps.lse == nullptr) b.lse = memory.take<float>(bounds.rows);
    return b;
  }
};

template <Pattern P, class TQ, Cache C>
status plan_splits(gpu const& exec, P const& pattern, query_view<TQ> const& q, C const& cache,
                   decode_bounds const& bounds, std::int32_t fewest_tiles, decode_tables const& tables) {
  if constexpr (lists_tiles<P>()) {
    using list = list_decode_tiles<P, TQ, C>;
    if (status const s = simt::launch({.x = cache.sequences * cache.kv_heads}, list::shared_bytes, exec.stream,
                                      list{pattern, q, cache, tables, bounds.tile_keys});
        !s.ok())
      return s;
  }
  using plan = plan_decode<P, TQ, C>;
  return simt::launch({.x = 1}, plan::shared_bytes, exec.stream,
                      plan{pattern, q, cache, tables, bounds.tile_keys, fewest_tiles, bounds.set_rows, bounds.target});
}

/// The checked part: plan, one block per split, one per row of the result, and the mass from what the splits kept.
template <std::int32_t Width, Pattern P, class TQ, Cache C, class TO>
status run_decode(gpu const& exec, P const& pattern, query_view<TQ> const& q, C const& cache, rows_view<TO> const& out,
                  attend_taps const& taps, decode_bounds const& bounds, decode_buffers const& b) {
  using shape = decode_tile<TQ, Width>;
  if (status const s = plan_splits(exec, pattern, q, cache, bounds, shape::fewest_tiles, b.tables); !s.ok()) return s;
  using split = decode_part_of_head<P, TQ, C, Width>;
  if (q.rows.tokens > 0)
    if (status const s =
            simt::launch({.x = static_cast<std::int32_t>(bounds.splits)}, shape::bytes, exec.stream,
                         split{pattern, q, cache, b.tables, b.results, logit_rule::of(q), value_dim_of(cache)});
        !s.ok())
      return s;
  float* const lse = taps.lse != nullptr ? taps.lse : b.lse;
  std::ptrdiff_t const lse_stride = taps.lse != nullptr ? taps.lse_stride : q.rows.tokens;
  using merge = merge_decode<TQ, C, TO>;
  if (status const s = simt::launch({.x = merge::blocks(out)}, merge::shared_bytes, exec.stream,
                                    merge{q, cache, b.tables, b.results, out, lse, lse_stride});
      !s.ok())
    return s;
  if (taps.mass.data == nullptr) return {};
  using mass = decode_mass<P, TQ, C>;
  return simt::launch(
      {.x = mass::blocks(cache, taps.mass, exec.device.multiprocessors)}, 0, exec.stream,
      mass{q, cache, b.tables, b.results, lse, lse_stride, taps.mass, taps.mass_rows, taps.mass_by, bounds.tile_keys});
}

}  // namespace detail

/// Bytes that `decode` wants; reads shapes and capacities. SIZE_MAX when they overflow, 0 when the call will be
/// refused.
template <Pattern P, class TQ, Cache C>
std::size_t decode_workspace(gpu const& exec, P const& pattern, query_view<TQ> const& q, C const& cache,
                             attend_taps const& taps = {}) {
  detail::decode_bounds bounds;
  if (!cache.check_view().ok() || !detail::check_shapes_view(q, cache).ok()) return 0;
  if (!detail::decode_bounds::find(exec, q, cache, bounds).ok()) return 0;
  detail::carve memory;
  detail::decode_buffers::take(memory, bounds, pattern, cache, taps);
  return memory.bytes();
}

/// As on the CPU, with queries and a cache of one 16-bit type, dims that are multiples of 8 and at most 256, and rows
/// at multiples of 16 bytes. How the keys are cut is decided on the device from the lengths, so that a long head and
/// many short ones keep all multiprocessors busy alike. The positions of the queries, lengths within capacities and,
/// for the mass tap, within the score_view, and what the pattern says of its layout are preconditions.
template <Pattern P, class TQ, Cache C, class TO>
status decode(gpu const& exec, P const& pattern, query_view<TQ> const& q, C const& cache, rows_view<TO> const& out,
              attend_taps const& taps, workspace const& work) {
  if (status const s = detail::check_attention(exec, pattern, q, cache, out, taps); !s.ok()) return s;
  if (status const s = detail::check_decode_taps(taps); !s.ok()) return s;
  if (status const s = detail::check_reachable(exec, work.data); !s.ok()) return s;
  detail::decode_bounds bounds;
  if (status const s = detail::decode_bounds::find(exec, q, cache, bounds); !s.ok()) return s;
  detail::carve memory(work);
  auto const buffers = detail::decode_buffers::take(memory, bounds, pattern, cache, taps);
  if (!memory.fits())
    return {errc::workspace_too_small, "decode: workspace smaller than decode_workspace(), or not aligned to 64 bytes"};
  return detail::dispatch_width(detail::larger(cache.dim, value_dim_of(cache)), [&]<std::int32_t Width>() {
    return detail::run_decode<Width>(exec, pattern, q, cache, out, taps, bounds, buffers);
  });
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
