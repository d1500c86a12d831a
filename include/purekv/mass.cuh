// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/check.cuh>
#include <purekv/detail/mass_block.cuh>
#include <purekv/mass.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How the queries of a mass call are shared out where keys alone are too few blocks for the device, and the memory
/// for the parts of the result.
struct mass_parts {
  static constexpr std::int32_t waves = 2;            // of blocks that a device should have at least
  static constexpr std::int32_t fewest_pieces = 4;    // of 64 queries each: below, joining costs more than it wins
  static constexpr std::int32_t largest_block = 128;  // keys

  std::int32_t wanted;    // blocks in all
  float* data = nullptr;  // [wanted, rows of a block, keys]; null where queries are not shared out

  /// `rows`: masses that a block gives out, heads of the group or 1.
  static mass_parts take(carve& memory, gpu const& exec, std::int32_t queries, std::int32_t rows) {
    mass_parts p{waves * exec.device.multiprocessors};
    if (most_splits(queries) > 1)
      p.data = memory.take<float>(std::int64_t{p.wanted} * smaller(rows, mass_heads) * largest_block);
    return p;
  }

  /// For so many queries and a grid of so many blocks: as make it `wanted`, no more.
  std::int32_t splits(std::int32_t queries, std::int64_t blocks) const {
    std::int64_t const few = wanted / blocks;
    return data == nullptr || few < 2 ? 1 : smaller(most_splits(queries), static_cast<std::int32_t>(few));
  }

 private:
  static std::int32_t most_splits(std::int32_t queries) { return larger(1, queries / (fewest_pieces * 64)); }
};

/// How many queries of a range there are at most: of all sequences.
template <class TQ> std::int32_t most_queries(query_view<TQ> const& q, query_range const& range) {
  return smaller(q.rows.tokens, range.count);
}

template <class TQ>
mass_parts take_mass(carve& memory, gpu const& exec, query_view<TQ> const& q, std::int32_t kv_heads,
                     query_range const& queries, score_rows rows) {
  return mass_parts::take(memory, exec, most_queries(q, queries),
                          rows == score_rows::heads ? q.rows.heads / kv_heads : 1);
}

/// The checked part. plan: null where there is none, as good as that where it has an order of queries; the pattern
/// itself says then which queries see a key. to_come: as mass_queries has it.
template <Pattern P, class TQ, Cache C>
status run_mass(gpu const& exec, P const& pattern, tile_plan const* plan, query_view<TQ> const& q, C const& cache,
                float const* lse, std::ptrdiff_t lse_stride, query_range const& range, score_rows rows,
                mass_reduction by, score_view const& out, mass_parts const& parts,
                std::int32_t const* to_come = nullptr) {
  bool const per_head = rows == score_rows::heads;
  std::int32_t const group = q.rows.heads / cache.kv_heads;
  bool const planned = plan != nullptr && plan->order == nullptr;
  mass_queries<P, TQ, C> const queries{pattern, q, range, planned ? *plan : tile_plan{}, planned, group, to_come};
  return dispatch_width(q.rows.dim, [&]<std::int32_t Width>() -> status {
    using kernel = mass_blocks<P, TQ, C, Width>;
    std::int32_t const slices = per_head ? (group - 1) / mass_heads + 1 : 1;
    std::int64_t const blocks = head_blocks(cache, kernel::keys);
    static_assert(kernel::keys <= mass_parts::largest_block);
    if (blocks > INT32_MAX) return {errc::bad_shape, "mass: more than 2^31 - 1 blocks of keys"};
    std::int32_t const splits = parts.splits(most_queries(q, range), blocks * slices);
    mass_target const to{out, splits > 1 ? parts.data : nullptr, per_head ? group : 1};
    std::int32_t const x = static_cast<std::int32_t>(blocks);
    if (status const s =
            simt::launch({x, slices, splits},
                         static_cast<std::size_t>(kernel::body::bytes(per_head ? smaller(group, mass_heads) : 1)),
                         exec.stream, kernel{queries, cache, logit_rule::of(q), lse, lse_stride, by, per_head, to});
        !s.ok() || splits == 1)
      return s;
    return simt::launch({x}, 0, exec.stream, mass_joined<C, kernel::keys>{cache, to, by, splits});
  });
}

/// What the kernels ask of queries and keys beyond the CPU's.
template <class TQ, Cache C> status check_mass_operands(query_view<TQ> const& q, C const& cache) {
  static_assert(simt::Half<TQ> && std::is_same_v<TQ, typename C::element>,
                "mass: on a GPU queries and keys are both half or both bfloat16");
  if (q.rows.dim % 8 != 0 || q.rows.dim > largest_width)
    return {errc::bad_shape, "mass: on a GPU dim is a multiple of 8, at most 256"};
  if (!aligned16(q.rows)) return {errc::bad_pointer, "mass: queries do not lie at multiples of 16 bytes"};
  if (!aligned16(cache)) return {errc::bad_pointer, "mass: the rows of the cache do not lie at multiples of 16 bytes"};
  return {};
}

template <Pattern P, class TQ, Cache C>
status check_mass(gpu const& exec, P const& pattern, query_view<TQ> const& q, C const& cache, float const* lse,
                  std::ptrdiff_t lse_stride, query_range const& queries, score_rows rows, mass_reduction by,
                  score_view const& out) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_mass_view(pattern, q, cache, lse, lse_stride, queries, rows, by, out); !s.ok()) return s;
  if (status const s = check_mass_operands(q, cache); !s.ok()) return s;
  if (status const s = check_reachable_cache(exec, cache); !s.ok()) return s;
  return check_reachable(exec, q.rows.data, q.batch.offset, q.batch.positions, lse, out.data);
}

}  // namespace detail

/// Bytes that `mass` wants: for the device and these shapes. SIZE_MAX when they overflow.
template <Pattern P, class TQ, Cache C>
std::size_t mass_workspace(gpu const& exec, P const&, query_view<TQ> const& q, C const& cache,
                           query_range const& queries = {}, score_rows rows = score_rows::kv_heads) {
  if (!detail::check_shapes_view(q, cache).ok()) return 0;
  detail::carve memory;
  detail::take_mass(memory, exec, q, cache.kv_heads, queries, rows);
  return memory.bytes();
}

/// The same with a plan: for any range of the queries, and either kind of rows.
template <class TQ> std::size_t mass_workspace(gpu const& exec, tile_plan const& plan, query_view<TQ> const& q) {
  if (plan.kv_heads <= 0) return 0;
  detail::carve memory;
  detail::take_mass(memory, exec, q, plan.kv_heads, {}, score_rows::heads);
  return memory.bytes();
}

/// As on the CPU, for queries and keys of one 16-bit type, dim a multiple of 8, at most 256, rows at multiples of 16
/// bytes. Patterns need no plan here: their runs, or causality alone, say which queries are worth a look. Positions
/// that ascend, and lengths within the capacity and within out.tokens, are preconditions; nothing is written beyond
/// out.tokens.
template <Pattern P, class TQ, Cache C>
status mass(gpu const& exec, P const& pattern, query_view<TQ> const& q, C const& cache, float const* lse,
            std::ptrdiff_t lse_stride, query_range const& queries, score_rows rows, score_view const& out,
            workspace const& work, mass_reduction by = mass_reduction::sum) {
  if (status const s = detail::check_mass(exec, pattern, q, cache, lse, lse_stride, queries, rows, by, out); !s.ok())
    return s;
  detail::carve memory(work);
  detail::mass_parts const parts = detail::take_mass(memory, exec, q, cache.kv_heads, queries, rows);
  if (!memory.fits()) return detail::mass_workspace_too_small();
  return detail::run_mass(exec, pattern, nullptr, q, cache, lse, lse_stride, queries, rows, by, out, parts);
}

/// The same with the plan that the attention call had. That it names no tokens beyond those cached is a precondition.
template <Pattern P, class TQ, Cache C>
status mass(gpu const& exec, P const& pattern, tile_plan const& plan, query_view<TQ> const& q, C const& cache,
            float const* lse, std::ptrdiff_t lse_stride, query_range const& queries, score_rows rows,
            score_view const& out, workspace const& work, mass_reduction by = mass_reduction::sum) {
  if (status const s = detail::check_mass(exec, pattern, q, cache, lse, lse_stride, queries, rows, by, out); !s.ok())
    return s;
  if (status const s = detail::check_plan_view(plan, q, cache); !s.ok()) return s;
  if (status const s = detail::check_reachable(exec, plan.tiles, plan.runs, plan.masks, plan.tiles_used); !s.ok())
    return s;
  detail::carve memory(work);
  detail::mass_parts const parts = detail::take_mass(memory, exec, q, cache.kv_heads, {}, score_rows::heads);
  if (!memory.fits()) return detail::mass_workspace_too_small();
  return detail::run_mass(exec, pattern, &plan, q, cache, lse, lse_stride, queries, rows, by, out, parts);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
