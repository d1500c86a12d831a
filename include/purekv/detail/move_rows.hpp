// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/convert.hpp>
#include <purekv/detail/prefetch.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline constexpr std::int32_t prefetch_rows = 16;  // scattered rows are asked for this many rows ahead
/// Row i becomes what row tokens[i] was; at(i) is its address. Ascending tokens never overtake their sources, and rows
/// do not overlap, so each is copied at most once before it is overwritten.
template <class At> void move_rows(std::int32_t const* tokens, std::int32_t count, std::int64_t bytes, At const& at) {
  std::int32_t i = 0;
  while (i < count && tokens[i] == i) ++i;
  for (; i < count; ++i) {
    if (i + prefetch_rows < count) prefetch_row(at(tokens[i + prefetch_rows]), bytes);
    __builtin_memcpy(at(i), at(tokens[i]), static_cast<std::size_t>(bytes));
  }
}

/// The same for rows of one number each.
template <class At> void move_numbers(std::int32_t const* tokens, std::int32_t count, At const& at) {
  for (std::int32_t i = 0; i < count; ++i) *at(i) = *at(tokens[i]);
}

/// Rows [first, last) of a destination head become rows tokens[first .. last) of a source head.
template <Cache C, Cache D>
void copy_rows(C const& source, D const& destination, std::int32_t sequence, std::int32_t head,
               std::int32_t const* tokens, std::int32_t first, std::int32_t last) {
  std::int32_t const value_dim = value_dim_of(source);
  std::int64_t const key_bytes = std::int64_t{source.dim} * std::int64_t{sizeof(typename C::element)};
  std::int64_t const value_bytes = std::int64_t{value_dim} * std::int64_t{sizeof(typename C::element)};
  for (std::int32_t i = first; i < last; ++i) {
    if (i + prefetch_rows < last) {
      auto const ahead = source.run(sequence, head, tokens[i + prefetch_rows]);
      prefetch_row(ahead.keys, key_bytes);
      prefetch_row(ahead.values, value_bytes);
    }
    auto const from = source.run(sequence, head, tokens[i]);
    auto const to = destination.run(sequence, head, i);
    convert(from.keys, to.keys, source.dim);
    convert(from.values, to.values, value_dim);
    *to.positions = *from.positions;
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
