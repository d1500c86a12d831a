// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/concepts.hpp>
#include <purekv/detail/logits.hpp>

#include <limits>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// A check_X_view looks at what the host can always see: sizes, strides, pointers. check_X reads the arrays as well.

/// Whether rows of `length` elements, n1 of them `stride1` apart in n2 groups `stride2` apart, lie apart from each
/// other and within 64 bits of bytes.
inline bool apart(std::int64_t length, std::int64_t n1, std::int64_t stride1, std::int64_t n2, std::int64_t stride2,
                  std::int64_t element_bytes) {
  if (n1 <= 0 || n2 <= 0) return true;
  if (n1 > 1 && n2 > 1 && stride1 > stride2) return apart(length, n2, stride2, n1, stride1, element_bytes);
  if (n1 > 1 && stride1 < length) return false;
  std::int64_t inner = 0, all = 0;
  if (__builtin_mul_overflow(n1 - 1, n1 > 1 ? stride1 : 0, &inner) || __builtin_add_overflow(inner, length, &inner))
    return false;
  if (n2 > 1 && stride2 < inner) return false;
  return !(__builtin_mul_overflow(n2 - 1, n2 > 1 ? stride2 : 0, &all) || __builtin_add_overflow(all, inner, &all) ||
           __builtin_mul_overflow(all, element_bytes, &all));
}

template <class T> bool apart(rows_view<T> const& rows) {
  return apart(rows.dim, rows.tokens, rows.token_stride, rows.heads, rows.head_stride, std::int64_t{sizeof(T)});
}

inline status check_batch_view(batch_view const& batch, std::int32_t tokens) {
  if (batch.sequences <= 0) return {errc::bad_shape, "batch_view: sequences must be positive"};
  if (batch.offset == nullptr && batch.sequences != 1)
    return {errc::null_data, "batch_view: offset is null but there are several sequences"};
  if (tokens > 0 && batch.positions == nullptr) return {errc::null_data, "batch_view: positions is null"};
  return {};
}

/// The shape and positions of a batch of `tokens` tokens.
inline status check_batch(batch_view const& batch, std::int32_t tokens) {
  if (status const s = check_batch_view(batch, tokens); !s.ok()) return s;
  if (batch.offset != nullptr) {
    if (batch.offset[0] != 0 || batch.offset[batch.sequences] != tokens)
      return {errc::mismatch, "batch_view: offset does not run from 0 to the number of tokens"};
    for (std::int32_t s = 0; s < batch.sequences; ++s)
      if (batch.offset[s] > batch.offset[s + 1]) return {errc::bad_shape, "batch_view: offset descends"};
  }
  for (std::int32_t s = 0; s < batch.sequences; ++s) {
    std::int32_t const begin = batch.offset != nullptr ? batch.offset[s] : 0;
    std::int32_t const end = batch.offset != nullptr ? batch.offset[s + 1] : tokens;
    std::int32_t last = -1;
    for (std::int32_t i = begin; i < end; ++i) {
      if (batch.positions[i] <= last)
        return {errc::bad_positions, "batch_view: positions of a sequence are negative or do not ascend strictly"};
      last = batch.positions[i];
    }
  }
  return {};
}

template <class TQ, Cache C> status check_shapes_view(query_view<TQ> const& q, C const& cache) {
  if (q.rows.heads <= 0 || q.rows.dim <= 0 || q.rows.tokens < 0)
    return {errc::bad_shape, "query_view: heads and dim must be positive, tokens not negative"};
  if (cache.sequences <= 0 || cache.kv_heads <= 0 || cache.dim <= 0 || value_dim_of(cache) <= 0)
    return {errc::bad_shape, "cache: sequences, kv_heads and dims must be positive"};
  if (q.rows.heads % cache.kv_heads != 0)
    return {errc::bad_shape, "query_view: heads is not a multiple of the cache's kv_heads"};
  if (q.rows.dim != cache.dim) return {errc::mismatch, "query_view: dim differs from the cache's"};
  if (q.batch.sequences != cache.sequences)
    return {errc::mismatch, "query_view: the batch and the cache differ in their number of sequences"};
  return check_batch_view(q.batch, q.rows.tokens);
}

/// Shapes of the queries beside those of the cache, and the positions of the queries.
template <class TQ, Cache C> status check_shapes(query_view<TQ> const& q, C const& cache) {
  if (status const s = check_shapes_view(q, cache); !s.ok()) return s;
  return check_batch(q.batch, q.rows.tokens);
}

template <class TQ, Cache C> status check_queries_view(query_view<TQ> const& q, C const& cache) {
  if (status const s = cache.check_view(); !s.ok()) return s;
  if (status const s = check_shapes_view(q, cache); !s.ok()) return s;
  if (q.rows.tokens > 0 && q.rows.data == nullptr) return {errc::null_data, "query_view: data is null"};
  if (!apart(q.rows)) return {errc::bad_shape, "query_view: strides overlap, or sizes overflow 64 bits"};
  if (!(q.scale - q.scale == 0)) return {errc::bad_shape, "query_view: scale is not finite"};
  if (q.soft_cap != 0 && !(q.soft_cap >= 0x1p-100f && q.soft_cap <= 0x1p100f))
    return {errc::bad_shape, "query_view: soft_cap is neither 0 nor between 2^-100 and 2^100"};
  return {};
}

template <class TQ, Cache C> status check_queries(query_view<TQ> const& q, C const& cache) {
  if (status const s = check_queries_view(q, cache); !s.ok()) return s;
  if (status const s = cache.check(); !s.ok()) return s;
  if (status const s = check_batch(q.batch, q.rows.tokens); !s.ok()) return s;
  for (std::int32_t h = 0; h < q.rows.heads && q.sink_logits != nullptr; ++h)
    if (!(q.sink_logits[h] <= largest_logit)) return {errc::bad_shape, "query_view: a sink logit is NaN or inf"};
  return {};
}

/// Where the results go: [heads, queries, value dim].
template <class TQ, Cache C, class TO>
status check_out(query_view<TQ> const& q, C const& cache, rows_view<TO> const& out) {
  if (out.heads != q.rows.heads || out.tokens != q.rows.tokens || out.dim != value_dim_of(cache))
    return {errc::mismatch, "out: heads or tokens differ from the queries', or dim from that of the values"};
  if (out.tokens > 0 && out.data == nullptr) return {errc::null_data, "out: data is null"};
  if (!apart(out)) return {errc::bad_shape, "out: strides overlap, or sizes overflow 64 bits"};
  return {};
}

/// Rows of one float per query, `stride` apart: [heads, queries].
template <class TQ> status check_lse(query_view<TQ> const& q, std::ptrdiff_t stride) {
  if (!apart(q.rows.tokens, q.rows.heads, stride, 1, 0, std::int64_t{sizeof(float)}))
    return {errc::bad_shape, "lse: rows overlap, or sizes overflow 64 bits"};
  return {};
}

/// One float per (row, cached token) of each sequence; `rows` of them.
template <Cache C> status check_scores_view(score_view const& scores, C const& cache, std::int32_t rows) {
  if (scores.sequences != cache.sequences || scores.rows != rows)
    return {errc::mismatch, "score_view: sequences or rows differ from the cache's"};
  if (scores.tokens > 0 && scores.data == nullptr) return {errc::null_data, "score_view: data is null"};
  if (!apart(scores.tokens, scores.rows, scores.row_stride, scores.sequences, scores.sequence_stride,
             std::int64_t{sizeof(float)}))
    return {errc::bad_shape, "score_view: strides overlap, or sizes overflow 64 bits"};
  return {};
}

template <Cache C> status check_scores(score_view const& scores, C const& cache, std::int32_t rows) {
  if (status const s = check_scores_view(scores, cache, rows); !s.ok()) return s;
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 0; h < cache.kv_heads; ++h)
      if (cache.length(s, h) > scores.tokens)
        return {errc::mismatch, "score_view: fewer tokens than a head of the cache holds"};
  return {};
}

template <Pattern P, class TQ> status check_pattern_view(P const& pattern, query_view<TQ> const& q) {
  if constexpr (requires { pattern.check_heads(std::int32_t{}); }) return pattern.check_heads(q.rows.heads);
  return {};
}

/// Whether a pattern is defined for these queries and for all that they may see.
template <Pattern P, class TQ> status check_pattern(P const& pattern, query_view<TQ> const& q) {
  if (status const s = check_pattern_view(pattern, q); !s.ok()) return s;
  if constexpr (requires { pattern.check(std::int32_t{}); })
    for (std::int32_t s = 0; s < q.batch.sequences; ++s)
      if (q.count(s) > 0)
        if (status const r = pattern.check(q.batch.positions[q.end(s) - 1]); !r.ok()) return r;
  return {};
}

/// All that a plan, and so a workspace query, reads: queries' and cached positions, lengths and the pattern.
template <Pattern P, class TQ, Cache C>
status check_plan_input(P const& pattern, query_view<TQ> const& q, C const& cache) {
  if (status const s = cache.check(); !s.ok()) return s;
  if (status const s = check_shapes(q, cache); !s.ok()) return s;
  return check_pattern(pattern, q);
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
