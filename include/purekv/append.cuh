// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/append.hpp>
#include <purekv/detail/batch.cuh>
#include <purekv/detail/change_lengths.cuh>
#include <purekv/detail/check.cuh>
#include <purekv/detail/move_rows.cuh>
#include <purekv/detail/positions.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Copies rows behind what is cached: block (x, head) has the tokens [x * rows, x * rows + rows), a warp one at a time.
template <class TI, Cache C> struct append_rows {
  static constexpr std::int32_t threads = 128, warps = threads / simt::warp_threads, rows = 16;
  rows_view<TI const> k, v;
  batch_view batch;
  C cache;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const head = simt::block_index().y, first = simt::block_index().x * rows;
    for (std::int32_t t = first + simt::warp_index(); t < smaller(first + rows, k.tokens); t += warps) {
      std::int32_t const s = sequence_of(batch, t);
      std::int32_t const at = cache.length(s, head) + t - begin_of(batch, s);
      if (at >= cache.capacity(s, head)) continue;
      auto const to = cache.run(s, head, at);
      copy_row(k.row(head, t), to.keys, k.dim);
      copy_row(v.row(head, t), to.values, v.dim);
      if (simt::lane_index() == 0) *to.positions = batch.positions[t];
    }
  }
};

/// By the tokens of the sequence, as far as there are slots.
struct grown_length {
  batch_view batch;
  std::int32_t tokens;

  template <Cache C> PUREKV_DEVICE std::int32_t operator()(C const& cache, std::int32_t s, std::int32_t h) const {
    std::int32_t const length = cache.length(s, h), added = end_of(batch, s, tokens) - begin_of(batch, s);
    return smaller(added, cache.capacity(s, h) - length) + length;
  }
};

template <class TI, Cache C>
status check_append(gpu const& exec, rows_view<TI const> const& k, rows_view<TI const> const& v,
                    batch_view const& batch, C const& cache) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_append_view(k, v, batch, cache); !s.ok()) return s;
  if (status const s = check_reachable_cache(exec, cache); !s.ok()) return s;
  return check_reachable(exec, k.data, v.data, batch.offset, batch.positions);
}

}  // namespace detail

/// As on the CPU. Positions that ascend beyond what is cached, and free slots, are preconditions; tokens for which
/// there is no slot are not cached.
template <class TI, Cache C>
status append(gpu const& exec, rows_view<TI const> k, rows_view<TI const> v, batch_view batch, C const& cache) {
  if (status const s = detail::check_append(exec, k, v, batch, cache); !s.ok()) return s;
  if (k.tokens == 0) return {};
  using copy = detail::append_rows<TI, C>;
  std::int32_t const blocks = (k.tokens - 1) / copy::rows + 1;
  if (status const s = simt::launch({.x = blocks, .y = k.heads}, 0, exec.stream, copy{k, v, batch, cache}); !s.ok())
    return s;
  return detail::launch_lengths(exec, cache, detail::grown_length{batch, k.tokens});
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
