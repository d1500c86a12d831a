// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1 {

/// Queries [begin, begin + count) of every sequence, cut to those there are. from_end counts from the last query
/// backwards: [queries - begin - count, queries - begin).
struct query_range {
  std::int32_t begin = 0;
  std::int32_t count = all_queries;
  bool from_end = false;

  /// The first query of the range among `queries`.
  PUREKV_INLINE constexpr std::int32_t first(std::int32_t queries) const {
    std::int64_t const start = from_end ? std::int64_t{queries} - begin - count : std::int64_t{begin};
    return clamp(start, queries);
  }
  /// One past its last.
  PUREKV_INLINE constexpr std::int32_t last(std::int32_t queries) const {
    std::int64_t const end = from_end ? std::int64_t{queries} - begin : std::int64_t{begin} + count;
    return clamp(end, queries);
  }

 private:
  PUREKV_INLINE static constexpr std::int32_t clamp(std::int64_t index, std::int32_t queries) {
    return index < 0 ? 0 : index > queries ? queries : static_cast<std::int32_t>(index);
  }
};

/// The last `count` queries of every sequence.
PUREKV_INLINE constexpr query_range last(std::int32_t count) { return {0, count, true}; }

/// Cached tokens that attend_taps::block_mass takes together: block b has those from b * mass_block_tokens on.
inline constexpr std::int32_t mass_block_tokens = 64;

/// What an attention call gives out beside its result; null data: not wanted.
/// lse  : [heads, tokens of the packed batch], base 2: log2 of the sum of exp2(logit), logits in the domain of exp2
///        (scale * log2(e) * q . k), the sink's among them; -inf for a row that sees nothing and has no sink. Rows
///        `lse_stride` floats apart.
/// mass : [sequences, heads or kv_heads, tokens], the attention probability that each cached token got from the queries
///        in `mass_queries`: their sum, or the largest, as `mass_by` says.
/// block_mass : [sequences, heads or kv_heads, blocks], the attention probability that the tokens of each block got
///        from all queries, in steps of 2^-30. `attend` on the CPU makes it on its way, where `mass` of all queries
///        costs half of the attention; on a GPU it is made of such masses. `decode` refuses it: its mass tap costs
///        little. Blocks of which a head has a token are written, no others.
struct attend_taps {
  float* lse = nullptr;
  std::ptrdiff_t lse_stride = 0;
  score_view mass{};
  query_range mass_queries{};
  score_rows mass_rows = score_rows::kv_heads;
  mass_reduction mass_by = mass_reduction::sum;
  score_view block_mass{};  // rows as mass_rows says
};

/// The own key and value of each query: [kv_heads, queries, dim], [kv_heads, queries, value dim].
template <class T> struct self_view { rows_view<T const> keys, values; };

}  // namespace purekv::inline v0_1
