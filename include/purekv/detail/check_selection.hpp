// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/selection.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Whether a selection has the rows of its scope, for so many sequences and heads, and the arrays that it promises.
inline status check_selection_view(selection const& kept, std::int32_t sequences, std::int32_t kv_heads) {
  std::int64_t const rows =
      kept.scope == selection_scope::layer ? std::int64_t{sequences} : std::int64_t{sequences} * kv_heads;
  if (kept.rows != rows) return {errc::mismatch, "compact: rows of the selection differ from the cache's"};
  if (kept.offset == nullptr || (kept.token == nullptr && kept.capacity > 0))
    return {errc::null_data, "compact: offset or token of the selection is null"};
  return {};
}

/// Whether a selection can be compacted: the rows of its scope, each listing ascending tokens of every head it speaks
/// for.
template <Cache C> status check_selection(selection const& kept, C const& cache) {
  if (status const s = check_selection_view(kept, cache.sequences, cache.kv_heads); !s.ok()) return s;
  if (kept.offset[0] < 0) return {errc::bad_shape, "compact: the selection's offset is negative"};
  for (std::int32_t row = 0; row < kept.rows; ++row)
    if (kept.offset[row + 1] < kept.offset[row] || kept.offset[row + 1] - kept.offset[row] > INT32_MAX)
      return {errc::bad_shape, "compact: the selection's offset descends, or a row has more than 2^31 - 1 tokens"};
  if (kept.offset[kept.rows] > kept.capacity)
    return {errc::bad_shape, "compact: the selection's offset exceeds its capacity"};
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 0; h < cache.kv_heads; ++h) {
      std::int32_t const row = kept.row_of(s, h, cache.kv_heads);
      std::int32_t const* const tokens = kept.tokens(row);
      std::int32_t const count = kept.count(row);
      if (count == 0) continue;
      if (tokens[0] < 0 || tokens[count - 1] >= cache.length(s, h))
        return {errc::bad_positions, "compact: a selected token is not cached"};
      if (kept.scope == selection_scope::layer && h > 0) continue;
      std::int32_t descents = 0;
      for (std::int32_t i = 1; i < count; ++i) descents += tokens[i] <= tokens[i - 1];
      if (descents != 0) return {errc::bad_positions, "compact: the selected tokens of a row do not ascend"};
    }
  return {};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
