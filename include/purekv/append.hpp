// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/convert.hpp>
#include <purekv/cpu.hpp>
#include <purekv/detail/check.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline constexpr std::int32_t append_chunk = 64;  // tokens of one head that a rank copies at a time

template <class TI, Cache C>
status check_append_view(rows_view<TI const> const& k, rows_view<TI const> const& v, batch_view const& batch,
                         C const& cache) {
  if (status const s = cache.check_view(); !s.ok()) return s;
  if (k.heads <= 0 || k.dim <= 0 || v.dim <= 0 || k.tokens < 0)
    return {errc::bad_shape, "append: heads and dim must be positive, tokens not negative"};
  if (k.heads != v.heads || k.tokens != v.tokens)
    return {errc::mismatch, "append: keys and values differ in heads or tokens"};
  if (k.heads != cache.kv_heads || k.dim != cache.dim || v.dim != value_dim_of(cache))
    return {errc::mismatch, "append: keys or values and the cache differ in kv_heads, dim or value_dim"};
  if (batch.sequences != cache.sequences)
    return {errc::mismatch, "append: the batch and the cache differ in their number of sequences"};
  if (status const s = check_batch_view(batch, k.tokens); !s.ok()) return s;
  if (k.tokens > 0 && (k.data == nullptr || v.data == nullptr))
    return {errc::null_data, "append: keys or values are null"};
  if (!apart(k) || !apart(v))
    return {errc::bad_shape, "append: strides of keys or values overlap, or sizes overflow 64 bits"};
  return {};
}

template <class TI, Cache C>
status check_append(rows_view<TI const> const& k, rows_view<TI const> const& v, batch_view const& batch,
                    C const& cache) {
  if (status const s = check_append_view(k, v, batch, cache); !s.ok()) return s;
  if (status const s = cache.check(); !s.ok()) return s;
  if (status const s = check_batch(batch, k.tokens); !s.ok()) return s;
  for (std::int32_t s = 0; s < cache.sequences; ++s) {
    std::int32_t const begin = batch.offset != nullptr ? batch.offset[s] : 0;
    std::int32_t const end = batch.offset != nullptr ? batch.offset[s + 1] : k.tokens;
    for (std::int32_t h = 0; h < cache.kv_heads && begin < end; ++h) {
      std::int32_t const length = cache.length(s, h);
      if (end - begin > cache.capacity(s, h) - length)
        return {errc::capacity_exceeded, "append: a head has too few free slots"};
      if (length > 0 && *cache.run(s, h, length - 1).positions >= batch.positions[begin])
        return {errc::bad_positions, "append: a new position is not beyond the newest that is cached"};
    }
  }
  return {};
}

}  // namespace detail

/// cache[s, h] grows by k[h, t], v[h, t] and position batch.positions[t] for every token t of sequence s, rounded to
/// the cache's element type.
/// k : [kv_heads, tokens, dim], v : [kv_heads, tokens, value dim] of a ragged batch, not overlapping the cache. The
/// positions of a sequence ascend strictly and lie beyond the newest that is cached, in every head.
template <class TI, Cache C>
status append(cpu exec, rows_view<TI const> k, rows_view<TI const> v, batch_view batch, C const& cache) {
  if (status const s = detail::check_append(k, v, batch, cache); !s.ok()) return s;
  exec.sync();

  std::int64_t task = 0;
  for (std::int32_t s = 0; s < cache.sequences; ++s) {
    std::int32_t const begin = batch.offset != nullptr ? batch.offset[s] : 0;
    std::int32_t const end = batch.offset != nullptr ? batch.offset[s + 1] : k.tokens;
    for (std::int32_t h = 0; h < cache.kv_heads; ++h) {
      std::int32_t const length = cache.length(s, h);
      for (std::int32_t first = begin; first < end; first += detail::append_chunk, ++task) {
        if (task % exec.size() != exec.rank()) continue;
        std::int32_t const last = end - first < detail::append_chunk ? end : first + detail::append_chunk;
        for (std::int32_t t = first; t < last; ++t) {
          auto const to = cache.run(s, h, length + t - begin);
          convert(k.row(h, t), to.keys, k.dim);
          convert(v.row(h, t), to.values, v.dim);
          *to.positions = batch.positions[t];
        }
      }
    }
  }
  exec.sync();

  if (exec.rank() == 0)
    for (std::int32_t s = 0; s < cache.sequences; ++s) {
      std::int32_t const count = batch.offset != nullptr ? batch.offset[s + 1] - batch.offset[s] : k.tokens;
      for (std::int32_t h = 0; h < cache.kv_heads; ++h) cache.set_length(s, h, cache.length(s, h) + count);
    }
  exec.sync();
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
