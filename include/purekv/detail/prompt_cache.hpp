// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

namespace purekv::inline v0_1::detail {

/// The shape of a cache that holds exactly a prompt, without its data: what workspace queries ask of a cache before
/// there is one.
template <class T> struct prompt_cache {
  using element = T;
  batch_view batch;
  std::int32_t kv_heads = 0, dim = 0, value_dim = 0, tokens = 0;
  std::int32_t sequences = batch.sequences;

  PUREKV_INLINE std::int32_t begin(std::int32_t sequence) const {
    return batch.offset != nullptr ? batch.offset[sequence] : 0;
  }
  PUREKV_INLINE std::int32_t length(std::int32_t sequence, std::int32_t) const {
    return (batch.offset != nullptr ? batch.offset[sequence + 1] : tokens) - begin(sequence);
  }
  PUREKV_INLINE std::int32_t capacity(std::int32_t sequence, std::int32_t head) const { return length(sequence, head); }
  PUREKV_INLINE void set_length(std::int32_t, std::int32_t, std::int32_t) const {}
  PUREKV_INLINE std::int64_t slot(std::int32_t sequence, std::int32_t head, std::int32_t token) const {
    return std::int64_t{begin(sequence)} * kv_heads + std::int64_t{head} * length(sequence, head) + token;
  }
  PUREKV_INLINE token_run<T> run(std::int32_t sequence, std::int32_t head, std::int32_t token) const {
    // Workspace queries read positions only; `positions` is not const because caches own theirs.
    std::int32_t* const positions = const_cast<std::int32_t*>(batch.positions) + begin(sequence) + token;
    return {nullptr, nullptr, positions, dim, length(sequence, head) - token, value_dim};
  }
  PUREKV_INLINE status check_view() const { return {}; }
  PUREKV_INLINE status check() const { return {}; }
};

/// A ragged cache as it will be when every slot is in use.
template <class T> struct full_cache : ragged_cache<T> {
  PUREKV_INLINE std::int32_t length(std::int32_t sequence, std::int32_t head) const {
    return this->capacity(sequence, head);
  }
};

static_assert(Cache<prompt_cache<float>> && Cache<full_cache<float>>);

}  // namespace purekv::inline v0_1::detail
