// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/slots.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// A grid over blocks of `keys` slots of every (sequence, KV head), of which the host knows no length. With the heads
// numbered as their slots ascend, head i has the blocks from
//
//   slot of its first token / keys + i
//
// on: at least as many as its capacity needs, whatever lies between the heads.

struct head_block {
  std::int32_t sequence, head;
  std::int64_t first;  // token; below 0 or beyond the head's length: the block has none
};

/// Upper bound of the number of blocks, from what the host sees.
template <Cache C> std::int64_t head_blocks(C const& cache, std::int32_t keys) {
  std::int64_t const heads = std::int64_t{cache.sequences} * cache.kv_heads;
  return slots_in(cache) / keys + heads;
}

template <Cache C> PUREKV_HD head_block head_block_of(C const& cache, std::int64_t block, std::int32_t keys) {
  auto const first_block = [&](std::int32_t i) {
    return cache.slot(i / cache.kv_heads, i % cache.kv_heads, 0) / keys + i;
  };
  std::int32_t low = 0, high = cache.sequences * cache.kv_heads - 1;
  while (low < high) {
    std::int32_t const middle = high - (high - low) / 2;
    if (first_block(middle) <= block)
      low = middle;
    else
      high = middle - 1;
  }
  return {low / cache.kv_heads, low % cache.kv_heads, (block - first_block(low)) * keys};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
