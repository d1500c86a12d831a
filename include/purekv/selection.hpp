// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1 {

/// Whose tokens a selection lists: one list per (sequence, KV head), or one per sequence that all heads share.
enum class selection_scope : std::int32_t { kv_head, layer };

/// Kept tokens, ragged by design (CSR): row r keeps token[offset[r] .. offset[r + 1]), ascending ordinals in the cache.
/// rows = sequences * kv_heads (scope kv_head) or sequences (scope layer). Caller-owned.
struct selection {
  std::int64_t* offset = nullptr;  // [rows + 1]
  std::int32_t* token = nullptr;   // [capacity]
  std::int64_t capacity = 0;
  std::int32_t rows = 0;
  selection_scope scope = selection_scope::kv_head;

  PUREKV_INLINE std::int32_t row_of(std::int32_t sequence, std::int32_t head, std::int32_t kv_heads) const {
    return scope == selection_scope::layer ? sequence : sequence * kv_heads + head;
  }
  PUREKV_INLINE std::int32_t count(std::int32_t row) const {
    return static_cast<std::int32_t>(offset[row + 1] - offset[row]);
  }
  PUREKV_INLINE std::int32_t const* tokens(std::int32_t row) const { return token + offset[row]; }
};

}  // namespace purekv::inline v0_1
