// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/batch.cuh>
#include <purekv/detail/chunk_mass.hpp>
#include <purekv/mass.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// to_come[s] = tokens of the prompt of sequence s that are not cached yet.
template <class T> struct count_to_come {
  static constexpr std::int32_t threads = 128;
  contiguous_cache<T> cache;
  std::int32_t const* prompt;  // [sequences]: tokens
  std::int32_t* to_come;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const s = simt::block_index().x * threads + simt::thread_index();
    if (s < cache.sequences) to_come[s] = prompt[s] - cache.length(s, 0);
  }
};

/// all(s, h, t) grows by more(s, h, t), the newest tokens from 0. Block (x, y) has `threads` tokens of row x, and every
/// one `at_once` further on.
template <class T> struct grow_masses {
  static constexpr std::int32_t threads = 256, most_blocks = 64, at_once = threads * most_blocks;  // of a row
  contiguous_cache<T> cache;
  batch_view batch;
  std::int32_t queries;
  score_view all, more;
  mass_reduction by;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const s = simt::block_index().x / all.rows, h = simt::block_index().x % all.rows;
    std::int32_t const length = cache.length(s, 0), count = smaller(length, all.tokens);
    std::int32_t const before = length - (end_of(batch, s, queries) - begin_of(batch, s));
    float* const to = all.row(s, h);
    float const* const added = more.row(s, h);
    for (std::int64_t t = simt::block_index().y * threads + simt::thread_index(); t < count; t += at_once)
      to[t] = grown_mass(t < before ? to[t] : 0.0f, added[t], by);
  }
};

template <class TQ, class T>
mass_parts take_chunk_mass(carve& memory, gpu const& exec, query_view<TQ> const& q, contiguous_cache<T> const& cache,
                           std::int32_t wanted) {
  return take_mass(memory, exec, q, cache.kv_heads, last(wanted), score_rows::heads);
}
template <class TQ, class T>
std::size_t chunk_mass_workspace(gpu const& exec, query_view<TQ> const& q, contiguous_cache<T> const& cache,
                                 std::int32_t wanted) {
  carve memory;
  take_chunk_mass(memory, exec, q, cache, wanted);
  return memory.bytes();
}

/// As on the CPU, for all sequences of a checked call at once: of the queries of a chunk those count that are among the
/// last `wanted` of their prompt. prompt : [sequences] tokens of each, to_come : [sequences], part like seen.mass; all
/// on the device.
template <Pattern P, class TQ, class T>
status add_chunk_mass(gpu const& exec, evidence<P, TQ> const& seen, contiguous_cache<T> const& cache,
                      std::int32_t wanted, mass_reduction by, std::int32_t const* prompt, std::int32_t* to_come,
                      float* part, workspace const& work) {
  score_view const& all = seen.mass;
  if (all.tokens == 0) return {};
  carve memory(work);
  mass_parts const parts = take_chunk_mass(memory, exec, seen.q, cache, wanted);
  if (!memory.fits()) return mass_workspace_too_small();

  using count = count_to_come<T>;
  std::int32_t const blocks = (cache.sequences - 1) / count::threads + 1;
  if (status const s = simt::launch({.x = blocks}, 0, exec.stream, count{cache, prompt, to_come}); !s.ok()) return s;
  score_view const more = dense_scores(part, all.sequences, all.rows, all.tokens);
  if (status const s = run_mass(exec, seen.pattern, nullptr, seen.q, cache, seen.lse, seen.lse_stride, last(wanted),
                                score_rows::heads, by, more, parts, to_come);
      !s.ok())
    return s;
  using grow = grow_masses<T>;
  simt::grid const size = {.x = all.sequences * all.rows,
                           .y = smaller((all.tokens - 1) / grow::threads + 1, grow::most_blocks)};
  return simt::launch(size, 0, exec.stream, grow{cache, seen.q.batch, seen.q.rows.tokens, all, more, by});
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
