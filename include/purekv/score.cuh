// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/check.cuh>
#include <purekv/detail/token_bound.cuh>
#include <purekv/mass.cuh>
#include <purekv/score.hpp>
#include <purekv/simt/grid_team.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

template <class TQ, class T> inline constexpr bool has_mass<gpu, TQ, T> = simt::Half<TQ>&& std::is_same_v<TQ, T>;

/// The body of an estimator by all threads of the grid, sequence after sequence.
template <class E, Cache C> struct score_layer {
  static constexpr std::int32_t threads = 128;
  /// More would only make the barriers longer: estimators read memory, which so many threads keep busy.
  static constexpr std::int32_t blocks_per_multiprocessor = 8;

  E estimator;
  C cache;
  std::int32_t heads;
  score_view mass;
  source_view source;
  score_view out;
  float* scratch;
  std::uint32_t* arrived;

  PUREKV_DEVICE void operator()() const {
    for (std::int32_t s = 0; s < cache.sequences; ++s)
      estimator.score(simt::grid_team{arrived}, input_of<E>(cache, s, heads, mass, source),
                      score_out{out.row(s, 0), out.row_stride}, scratch);
  }

  /// For so many scores of a sequence; 0: the device has no room for one.
  static std::int32_t blocks(gpu const& exec, std::int64_t scores) {
    std::int32_t const most = smaller(simt::blocks_together<score_layer>(exec.device.multiprocessors, 0),
                                      exec.device.multiprocessors * blocks_per_multiprocessor);
    std::int64_t const wanted = scores / threads + 1;
    return wanted < most ? static_cast<std::int32_t>(wanted) : most;
  }
};

template <class E, class P, class TQ, Cache C>
status check_score(gpu const& exec, E const& estimator, evidence<P, TQ> const& seen, C const& cache,
                   source_view const& source, score_view const& out) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_score_view(estimator, seen, cache, source, out); !s.ok()) return s;
  if constexpr (!has_mass<gpu, TQ, typename C::element>)
    if (score_memory<E>::asks_for_mass(seen))
      return {errc::mismatch,
              "score: on a GPU attention mass is of queries and keys of one 16-bit type; others need evidence.mass"};
  if (status const s = check_reachable_cache(exec, cache); !s.ok()) return s;
  if constexpr (needs_source<E>())
    if (status const s = check_reachable(exec, source.scores.data, source.positions, source.tokens); !s.ok()) return s;
  return check_reachable(exec, seen.mass.data, out.data);
}

}  // namespace detail

/// As on the CPU; SIZE_MAX when they overflow. tokens: no less than out.tokens of the `score` to come. Without it the
/// capacity of every head is taken, which is that of all heads together in a ragged cache.
template <Estimator E, Pattern P, class TQ, Cache C>
std::size_t score_workspace(gpu const& exec, E const&, evidence<P, TQ> const& seen, C const& cache,
                            std::int32_t tokens = INT32_MAX) {
  if (!cache.check_view().ok() || tokens < 0) return 0;
  if (detail::score_memory<E>::asks_for_mass(seen) && !detail::check_shapes_view(seen.q, cache).ok()) return 0;
  detail::carve memory;
  detail::score_memory<E>::take(memory, exec, seen, cache, detail::heads_of(seen, cache),
                                detail::token_bound(cache, tokens));
  memory.take<std::uint32_t>(1);
  return memory.bytes();
}

/// As on the CPU: for the same mass the same scores, but for sums over the dim of keys and values, which are added in
/// another order. Mass that is not given is computed for queries and keys of one 16-bit type, as `mass` wants them.
/// Preconditions: lengths of at most out.tokens; source.tokens of at most source.scores.tokens; the same tokens in all
/// KV heads where the estimator reduces over them; what `check` of the estimator reads of the caller's memory, all of
/// which the device reaches.
template <Estimator E, Pattern P, class TQ, Cache C>
status score(gpu const& exec, E const& estimator, evidence<P, TQ> const& seen, C const& cache,
             source_view const& source, score_view const& out, workspace const& work) {
  if (status const s = detail::check_score(exec, estimator, seen, cache, source, out); !s.ok()) return s;
  std::int32_t const heads = detail::heads_of(seen, cache), longest = detail::token_bound(cache, out.tokens);
  detail::carve carved(work);
  auto const memory = detail::score_memory<E>::take(carved, exec, seen, cache, heads, longest);
  auto* const arrived = carved.take<std::uint32_t>(1);
  if (!carved.fits())
    return {errc::workspace_too_small, "score: workspace smaller than score_workspace(), or not aligned to 64 bytes"};
  if (status const s = detail::check_reachable(exec, work.data); !s.ok()) return s;
  using kernel = detail::score_layer<E, C>;
  std::int32_t const blocks = kernel::blocks(exec, std::int64_t{out.rows} * longest);
  if (blocks == 0) return {errc::launch_failed, "score: the device has no room for a block of this estimator"};
  if (status const s = detail::make_mass(exec, seen, cache, memory); !s.ok()) return s;
  return simt::launch_together({.x = blocks}, 0, exec.stream,
                               kernel{estimator, cache, heads, memory.mass, source, out, memory.scratch, arrived},
                               arrived);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
