// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

namespace purekv::inline v0_1::detail {

/// A cache as it will be when the tokens of a batch have been appended, without their data: what workspace queries ask
/// of it beforehand.
template <Cache C> struct appended_cache : C {
  batch_view batch;
  std::int32_t added = 0;  // tokens of the batch

  PUREKV_INLINE std::int32_t begin(std::int32_t sequence) const {
    return batch.offset != nullptr ? batch.offset[sequence] : 0;
  }
  PUREKV_INLINE std::int32_t length(std::int32_t sequence, std::int32_t head) const {
    std::int32_t const end = batch.offset != nullptr ? batch.offset[sequence + 1] : added;
    return C::length(sequence, head) + end - begin(sequence);
  }
  PUREKV_INLINE std::int32_t capacity(std::int32_t sequence, std::int32_t head) const { return length(sequence, head); }
  PUREKV_INLINE auto run(std::int32_t sequence, std::int32_t head, std::int32_t token) const {
    std::int32_t const held = C::length(sequence, head);
    if (token < held) {
      auto run = C::run(sequence, head, token);
      run.tokens = run.tokens < held - token ? run.tokens : held - token;
      return run;
    }
    // Workspace queries read positions only; `positions` is not const because caches own theirs.
    std::int32_t* const position = const_cast<std::int32_t*>(batch.positions) + begin(sequence) + token - held;
    return token_run<typename C::element>{nullptr,
                                          nullptr,
                                          position,
                                          this->dim,
                                          length(sequence, head) - token,
                                          value_dim_of(static_cast<C const&>(*this))};
  }
};

static_assert(Cache<appended_cache<contiguous_cache<float>>>);

}  // namespace purekv::inline v0_1::detail
