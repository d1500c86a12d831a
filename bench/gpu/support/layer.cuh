// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "timed.cuh"

#include <purekv/cache.hpp>
#include <purekv/selection.hpp>

#include <cmath>

namespace bench {

struct layer_shape {
  int sequences, heads, kv_heads, dim, tokens, queries;  // tokens cached per sequence, the last `queries` attend
};

/// One layer with random queries, keys and values, all of type T.
template <class T> struct layer {
  array<T> q, keys, values, out;
  array<std::int32_t> positions, lengths, offset, query_positions;
  purekv::contiguous_cache<T> cache;
  purekv::query_view<T> queries;
  purekv::rows_view<T> results;

  explicit layer(layer_shape const& n, memory where = memory::device)
      : q(std::int64_t{n.sequences} * n.heads * n.queries * n.dim, where),
        keys(std::int64_t{n.sequences} * n.kv_heads * n.tokens * n.dim, where),
        values(keys.size(), where),
        out(q.size(), where),
        positions(std::int64_t{n.sequences} * n.kv_heads * n.tokens, where),
        lengths(std::int64_t{n.sequences} * n.kv_heads, where),
        offset(n.sequences + 1, memory::managed),
        query_positions(std::int64_t{n.sequences} * n.queries, memory::managed) {
    if (!fits()) return;
    fill(q, normal<T>{3});
    fill(keys, normal<T>{5});
    fill(values, normal<T>{7});
    fill(positions, counting{n.tokens});
    fill(lengths, constant<std::int32_t>{n.tokens});
    for (int s = 0; s <= n.sequences; ++s) offset[s] = s * n.queries;
    for (std::int64_t i = 0; i < query_positions.size(); ++i)
      query_positions[i] = static_cast<std::int32_t>(n.tokens - n.queries + i % n.queries);
    wait();
    cache = purekv::head_major_cache(keys.data(), values.data(), positions.data(), lengths.data(), n.sequences,
                                     n.kv_heads, n.tokens, n.dim);
    int const all = n.sequences * n.queries;
    queries = {purekv::head_major<T const>(q.data(), n.heads, all, n.dim),
               {n.sequences, offset.data(), query_positions.data()}};
    results = purekv::head_major(out.data(), n.heads, all, n.dim);
  }
  bool fits() const {
    return q.data() != nullptr && keys.data() != nullptr && values.data() != nullptr && out.data() != nullptr &&
           positions.data() != nullptr && lengths.data() != nullptr;
  }
  /// Skips the benchmark where the device has no room for the layer.
  bool fits(benchmark::State& state) const {
    if (!fits()) state.SkipWithError("the device has too little memory");
    return fits();
  }
};

/// A fifth of the tokens of every row, one of each five.
struct one_of_five {
  std::int32_t kept;  // per row
  PUREKV_DEVICE std::int32_t operator()(std::int64_t i) const {
    return static_cast<std::int32_t>(i % kept * 5) + static_cast<std::int32_t>(hash(static_cast<std::uint64_t>(i)) % 5);
  }
};

struct fifth {
  array<std::int64_t> offset;
  array<std::int32_t> token;
  purekv::selection view;

  fifth(int rows, int tokens, memory where = memory::device)
      : offset(rows + 1, memory::managed), token(std::int64_t{rows} * (tokens / 5), where) {
    if (token.data() == nullptr) return;
    fill(token, one_of_five{tokens / 5});
    for (int row = 0; row <= rows; ++row) offset[row] = std::int64_t{row} * (tokens / 5);
    wait();
    view = {offset.data(), token.data(), token.size(), rows};
  }
};

/// Relative L2 distance.
template <class A, class B> double distance(A const* a, B const* b, std::int64_t n) {
  double wrong = 0, all = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    double const x = static_cast<double>(static_cast<float>(a[i])), y = static_cast<double>(static_cast<float>(b[i]));
    wrong += (x - y) * (x - y);
    all += y * y;
  }
  return std::sqrt(wrong / all);
}

}  // namespace bench
