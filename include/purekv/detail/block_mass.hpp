// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cpu.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/detail/key_tile.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Blocks of a head, whole or begun.
PUREKV_HOST_INLINE std::int32_t mass_blocks_of(std::int32_t tokens) {
  return tokens / mass_block_tokens + (tokens % mass_block_tokens != 0);
}

/// What the rows of one tile gave to each block of keys: the sum of exp2(logit - top) over the keys, and that top, for
/// each lane. [blocks of rows, blocks of keys, block_lanes]; null: not wanted.
struct key_block_sums {
  float* sum = nullptr;
  float* top = nullptr;
  float* added = nullptr;  // [block_lanes] what a step of the softmax adds
  std::int32_t key_blocks = 0;

  static key_block_sums take(carve& memory, std::int64_t rows, std::int32_t key_blocks) {
    std::int64_t const all_lanes = (rows + block_lanes - 1) / block_lanes * block_lanes;
    key_block_sums s;
    s.sum = memory.take<float>(all_lanes * key_blocks);
    s.top = memory.take<float>(all_lanes * key_blocks);
    s.added = memory.take<float>(block_lanes);
    s.key_blocks = key_blocks;
    return s;
  }

  bool wanted() const { return sum != nullptr; }
  std::ptrdiff_t at(std::int32_t row_block, std::int32_t key_block) const {
    return (std::ptrdiff_t{row_block} * key_blocks + key_block) * block_lanes;
  }

  void clear(std::int32_t row_blocks) const {
    for (std::ptrdiff_t i = 0; i < at(row_blocks, 0); i += lanes) {
      store(sum + i, vec{});
      store(top + i, splat(-largest_logit));
    }
  }

  /// Keys of one block in some registers of lanes: more = sum of exp2(logit - more_top).
  PUREKV_HOST_INLINE void add(std::ptrdiff_t i, vec more, vec more_top) const {
    vec const before = load(sum + i);
    if (any(before != vec{})) {
      vec const old_top = load(top + i), most = max(old_top, more_top);
      more = fma(before, exp2(old_top - most), more * exp2(more_top - most));
      more_top = most;
    }
    store(sum + i, more);
    store(top + i, more_top);
  }

  /// The same for one row.
  void add_row(std::int32_t row, std::int32_t key_block, float more, float more_top) const {
    std::ptrdiff_t const i = at(row / block_lanes, key_block) + row % block_lanes;
    if (sum[i] == 0) {
      top[i] = more_top;
      sum[i] = more;
      return;
    }
    float const most = more_top > top[i] ? more_top : top[i];
    sum[i] = sum[i] * __builtin_exp2f(top[i] - most) + more * __builtin_exp2f(more_top - most);
    top[i] = most;
  }

  /// The first `count` keys of a tile after its step of the softmax, which has left their sum in `added`. weights :
  /// [keys, block_lanes] exp2(logit - most), most : [block_lanes].
  template <int Vectors>
  void add_tile(std::int32_t row_block, key_tile const& keys, std::int32_t count, float const* weights,
                float const* most) const {
    if (std::int32_t const block = keys.ordinals[0] / mass_block_tokens;
        keys.ordinals[count - 1] / mass_block_tokens == block) {
      for (std::int32_t v = 0; v < Vectors; ++v)
        add(at(row_block, block) + v * lanes, load(added + v * lanes), load(most + v * lanes));
      return;
    }
    for (std::int32_t k = 0, end = 0; k < count; k = end) {
      std::int32_t const block = keys.ordinals[k] / mass_block_tokens;
      vec more[Vectors] = {};
      for (end = k; end < count && keys.ordinals[end] / mass_block_tokens == block; ++end) {
        PUREKV_UNROLL(8)
        for (std::int32_t v = 0; v < Vectors; ++v) more[v] += load(weights + end * block_lanes + v * lanes);
      }
      for (std::int32_t v = 0; v < Vectors; ++v) add(at(row_block, block) + v * lanes, more[v], load(most + v * lanes));
    }
  }
};

/// The masses of all tiles, whoever attends with them, in steps of 2^-30: whole numbers add up to the same in any
/// order. [sequences, rows, key_blocks]; null: not wanted.
struct block_mass_totals {
  std::int64_t* data = nullptr;
  std::int32_t rows = 0, key_blocks = 0;

  static block_mass_totals take(carve& memory, std::int32_t sequences, std::int32_t rows, std::int32_t key_blocks) {
    return {memory.take<std::int64_t>(std::int64_t{sequences} * rows * key_blocks), rows, key_blocks};
  }

  std::int64_t* row(std::int32_t sequence, std::int32_t r) const {
    return data + (std::ptrdiff_t{sequence} * rows + r) * key_blocks;
  }

  /// This rank's share.
  void clear(cpu exec, std::int32_t sequences) const {
    for (std::int64_t i = exec.rank(), end = std::int64_t{sequences} * rows * key_blocks; i < end; i += exec.size())
      data[i] = 0;
  }

  void add(std::int32_t sequence, std::int32_t r, std::int32_t key_block, float mass) const {
    auto const steps = static_cast<std::int64_t>(static_cast<double>(mass) * 0x1p30 + 0.5);
    if (steps != 0) __atomic_fetch_add(row(sequence, r) + key_block, steps, __ATOMIC_RELAXED);
  }

  /// out[row, block] for this rank's share of the rows.
  template <Cache C> void give_out(cpu exec, C const& cache, score_view const& out) const {
    std::int32_t const group = rows / cache.kv_heads;
    for (std::int64_t i = exec.rank(), end = std::int64_t{cache.sequences} * rows; i < end; i += exec.size()) {
      std::int32_t const s = static_cast<std::int32_t>(i / rows), r = static_cast<std::int32_t>(i % rows);
      std::int32_t const blocks = mass_blocks_of(cache.length(s, r / group));
      for (std::int32_t b = 0; b < blocks; ++b)
        out.row(s, r)[b] = static_cast<float>(static_cast<double>(row(s, r)[b]) * 0x1p-30);
    }
  }
};

template <Cache C> std::int32_t most_mass_blocks(C const& cache) { return mass_blocks_of(longest_head(cache)); }

template <Cache C> status check_block_room(score_view const& out, C const& cache) {
  return most_mass_blocks(cache) <= out.tokens
             ? status{}
             : status{errc::mismatch, "attend_taps: block_mass has fewer blocks than a head of the cache"};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
