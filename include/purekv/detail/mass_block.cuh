// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/mass_of_keys.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Where the masses go: to the caller, or as the part of one of several blocks that share the queries,
/// [splits, blocks, heads of the group or 1, keys].
struct mass_target {
  score_view out;
  float* parts;  // null: there is one split
  std::int32_t rows;

  PUREKV_DEVICE float* part(std::int64_t split, std::int64_t blocks, std::int64_t block, std::int32_t row,
                            std::int32_t keys) const {
    return parts + ((split * blocks + block) * rows + row) * keys;
  }
};

/// Block x has keys of a head (head_blocks), y some heads of their group, z some of the queries.
template <Pattern P, simt::Half T, Cache C, std::int32_t Width> struct mass_blocks {
  using body = mass_of_keys<P, T, C, Width>;
  static constexpr std::int32_t threads = body::shape::threads, keys = body::shape::keys;
  static constexpr std::int32_t min_blocks = 3;  // so that the barriers of one are the time of others
  mass_queries<P, T, C> queries;
  C cache;
  logit_rule rule;
  float const* lse;
  std::ptrdiff_t lse_stride;
  mass_reduction by;
  bool per_head;
  mass_target to;

  PUREKV_DEVICE void operator()() const {
    simt::grid const at = simt::block_index(), size = simt::grid_size();
    head_block const block = head_block_of(cache, at.x, keys);
    // Masses beyond what the caller has room for are nobody's.
    std::int32_t const length = smaller(cache.length(block.sequence, block.head), to.out.tokens);
    if (block.first < 0 || block.first >= length) return;
    body mass(queries, cache, body::block_of(block, length));
    mass.rule = rule;
    mass.lse = lse;
    mass.lse_stride = lse_stride;
    mass.by = by;
    mass.per_head = per_head;
    mass.first_head = at.y * mass_heads;
    mass.heads = per_head ? smaller(mass_heads, queries.group - mass.first_head) : queries.group;
    mass.split = at.z;
    mass.splits = size.z;
    mass.run();
    mass.give_out([&](std::int32_t row) {
      std::int32_t const in_group = mass.first_head + row;
      if (to.parts != nullptr) return to.part(at.z, size.x, at.x, in_group, keys);
      return to.out.row(block.sequence, per_head ? block.head * queries.group + in_group : block.head) + block.first;
    });
  }
};

/// Joins the parts of all splits, in order: block x as above.
template <Cache C, std::int32_t Keys> struct mass_joined {
  static constexpr std::int32_t threads = Keys;
  C cache;
  mass_target from;
  mass_reduction by;
  std::int32_t splits;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const x = simt::block_index().x, key = simt::thread_index();
    head_block const block = head_block_of(cache, x, Keys);
    std::int32_t const length = smaller(cache.length(block.sequence, block.head), from.out.tokens);
    if (block.first < 0 || block.first + key >= length) return;
    for (std::int32_t row = 0; row < from.rows; ++row) {
      auto const part = [&](std::int32_t split) { return from.part(split, simt::grid_size().x, x, row, Keys)[key]; };
      float all = part(0);
      for (std::int32_t split = 1; split < splits; ++split) all = join_mass(all, part(split), by);
      from.out.row(block.sequence, block.head * from.rows + row)[block.first + key] = all;
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
