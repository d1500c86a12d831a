// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/float16.hpp>
#include <purekv/status.hpp>

#include <cstddef>
#include <cstdint>

namespace purekv::inline v0_1 {

/// Vectors of all heads for consecutive tokens: [heads, tokens, dim], dim contiguous, strides in elements.
/// Covers [heads, tokens, dim] and [tokens, heads, dim] alike.
template <class T> struct rows_view {
  T* data = nullptr;
  std::int32_t heads = 0, tokens = 0, dim = 0;
  std::ptrdiff_t head_stride = 0, token_stride = 0;

  PUREKV_INLINE T* row(std::int32_t head, std::int32_t token) const {
    return data + head * head_stride + token * token_stride;
  }
};

template <class T>
PUREKV_INLINE rows_view<T> head_major(T* data, std::int32_t heads, std::int32_t tokens, std::int32_t dim) {
  return {data, heads, tokens, dim, std::ptrdiff_t{tokens} * dim, dim};
}

template <class T>
PUREKV_INLINE rows_view<T> token_major(T* data, std::int32_t heads, std::int32_t tokens, std::int32_t dim) {
  return {data, heads, tokens, dim, dim, std::ptrdiff_t{heads} * dim};
}

/// Tokens of a ragged batch: sequence s owns tokens [offset[s], offset[s + 1]). A null `offset` is one sequence.
/// positions : [tokens], strictly ascending within a sequence, true sequence indices.
struct batch_view {
  std::int32_t sequences = 1;
  std::int32_t const* offset = nullptr;  // [sequences + 1]
  std::int32_t const* positions = nullptr;
};

/// Queries: rows [heads, tokens, dim] of a ragged batch, and what the layer makes of q . k:
///   logit = scale * q . k, or soft_cap * tanh(scale * q . k / soft_cap) if soft_cap is not 0 (Gemma 2)
/// scale 0 stands for 1 / sqrt(dim). soft_cap: 0, or between 2^-100 and 2^100.
/// sink_logits : [heads] or null. Every softmax of head h has exp(sink_logits[h]) in its denominator, with no value
/// (gpt-oss); it is never capped, and -inf is no sink. Neither NaN nor inf.
template <class T> struct query_view {
  rows_view<T const> rows;
  batch_view batch;
  float scale = 0;
  float soft_cap = 0;
  float const* sink_logits = nullptr;

  PUREKV_INLINE std::int32_t begin(std::int32_t sequence) const {
    return batch.offset != nullptr ? batch.offset[sequence] : 0;
  }
  PUREKV_INLINE std::int32_t end(std::int32_t sequence) const {
    return batch.offset != nullptr ? batch.offset[sequence + 1] : rows.tokens;
  }
  PUREKV_INLINE std::int32_t count(std::int32_t sequence) const { return end(sequence) - begin(sequence); }
};

/// One float per (row, token): [rows, tokens], sequence s starts at data + s * sequence_stride. Strides in elements.
/// Scores and masses use it: rows are heads or kv_heads of one sequence, tokens are ordinals in the cache. Without
/// tokens there may be no data; a row is null then.
struct score_view {
  float* data = nullptr;
  std::int32_t sequences = 0, rows = 0, tokens = 0;
  std::ptrdiff_t sequence_stride = 0, row_stride = 0;

  PUREKV_INLINE float* row(std::int32_t sequence, std::int32_t row_index) const {
    return data == nullptr ? nullptr : data + sequence * sequence_stride + row_index * row_stride;
  }
};

PUREKV_INLINE score_view dense_scores(float* data, std::int32_t sequences, std::int32_t rows, std::int32_t tokens) {
  return {data, sequences, rows, tokens, std::ptrdiff_t{rows} * tokens, tokens};
}

/// Memory lent to an operation for the duration of a call. Aligned to 64 bytes.
struct workspace {
  void* data = nullptr;
  std::size_t bytes = 0;
};

}  // namespace purekv::inline v0_1
