// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/detail/estimator.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/mass.hpp>
#include <purekv/source.hpp>

namespace purekv::inline v0_1 {

/// What attention computed with these queries: the pattern it used and its log-sum-exp, base 2, [heads, queries] with
/// rows lse_stride floats apart. Estimators that read no attention mass need neither lse nor queries.
/// mass : [sequences, heads, tokens] or null: the attention mass that the estimator asks for, where it has been put
/// together already, from chunks of a prompt or steps of decoding. Then only the number of heads is read of q.
/// plan: that of the attention, or null; spares estimators that read the mass of all queries one of their own.
template <class P, class TQ> struct evidence {
  P pattern;
  query_view<TQ> q;
  float const* lse = nullptr;
  std::ptrdiff_t lse_stride = 0;
  score_view mass{};
  tile_plan const* plan = nullptr;
};

template <class P, class TQ> evidence(P, query_view<TQ>, float const*, std::ptrdiff_t) -> evidence<P, TQ>;
template <class P, class TQ> evidence(P, query_view<TQ>, float const*, std::ptrdiff_t, score_view) -> evidence<P, TQ>;

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Tokens of the longest head of any sequence.
template <Cache C> std::int32_t longest_length(C const& cache) {
  std::int32_t longest = 0;
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 0; h < cache.kv_heads; ++h) longest = larger(longest, cache.length(s, h));
  return longest;
}

/// Whether `mass` runs on an executor with queries of type TQ and keys of type T.
template <class Exec, class TQ, class T> inline constexpr bool has_mass = false;
template <class TQ, class T> inline constexpr bool has_mass<cpu, TQ, T> = true;

/// The attention mass that an estimator asks for and the scratch that it wants.
template <class E> struct score_memory {
  score_view mass;
  float* scratch = nullptr;
  workspace rest;  // lent to `mass`

  /// longest: as many tokens as any head may have.
  template <class Exec, class P, class TQ, Cache C>
  static score_memory take(carve& memory, Exec const& exec, evidence<P, TQ> const& seen, C const& cache,
                           std::int32_t heads, std::int32_t longest) {
    constexpr std::int64_t too_many = std::int64_t{1} << 56;  // so that no sum of a few scratches overflows
    std::int64_t const scores = std::int64_t{heads} * longest;
    bool const countable = scores < too_many && scores * cache.sequences < too_many;

    score_memory m;
    m.mass = seen.mass;
    if (asks_for_mass(seen))
      m.mass =
          dense_scores(memory.take<float>(countable ? scores * cache.sequences : -1), cache.sequences, heads, longest);
    m.scratch = memory.take<float>(
        countable ? E::scratch(layer_shape{heads, cache.kv_heads, longest, cache.dim, value_dim_of(cache)}) : -1);
    if constexpr (E::mass_queries > 0 && has_mass<Exec, TQ, typename C::element>)
      if (asks_for_mass(seen)) {
        std::size_t const bytes = has_plan(seen)
                                      ? mass_workspace(exec, *seen.plan, seen.q)
                                      : mass_workspace(exec, seen.pattern, seen.q, cache, queries(), score_rows::heads);
        m.rest = {memory.take<std::byte>(bytes <= INT64_MAX ? static_cast<std::int64_t>(bytes) : -1), bytes};
      }
    return m;
  }

  template <class P, class TQ> static bool asks_for_mass(evidence<P, TQ> const& seen) {
    return E::mass_queries > 0 && seen.mass.data == nullptr;
  }
  /// A plan of the last queries alone costs little, and has tiles of its own.
  template <class P, class TQ> static bool has_plan(evidence<P, TQ> const& seen) {
    return E::mass_queries == all_queries && seen.plan != nullptr;
  }

  static constexpr query_range queries() {
    return E::mass_queries == all_queries ? query_range{} : last(E::mass_queries);
  }
};

/// Computes the mass, unless it is given or nobody asks for it.
template <class E, class Exec, class P, class TQ, Cache C>
status make_mass(Exec const& exec, evidence<P, TQ> const& seen, C const& cache, score_memory<E> const& memory) {
  using want = score_memory<E>;
  if constexpr (E::mass_queries > 0 && has_mass<Exec, TQ, typename C::element>)
    if (want::asks_for_mass(seen)) {
      constexpr mass_reduction by = mass_by<E>();
      return want::has_plan(seen) ? mass(exec, seen.pattern, *seen.plan, seen.q, cache, seen.lse, seen.lse_stride,
                                         want::queries(), score_rows::heads, memory.mass, memory.rest, by)
                                  : mass(exec, seen.pattern, seen.q, cache, seen.lse, seen.lse_stride, want::queries(),
                                         score_rows::heads, memory.mass, memory.rest, by);
    }
  return {};
}

/// Query heads of the layer; where nobody names them, one per KV head.
template <class P, class TQ, Cache C> std::int32_t heads_of(evidence<P, TQ> const& seen, C const& cache) {
  return seen.q.rows.heads > 0 ? seen.q.rows.heads : cache.kv_heads;
}

template <Cache C> status check_source_view(source_view const& source, C const& cache) {
  if (source.scores.data == nullptr || source.positions == nullptr || source.tokens == nullptr)
    return {errc::not_ready, "score: the source layer has not been scored yet"};
  if (source.scores.sequences != cache.sequences || source.scores.rows != cache.kv_heads)
    return {errc::mismatch, "score: the source's scores differ from the cache in sequences or kv_heads"};
  return {};
}

template <Cache C> status check_source(source_view const& source, C const& cache) {
  if (status const s = check_source_view(source, cache); !s.ok()) return s;
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    if (source.tokens[s] < 0 || source.tokens[s] > source.scores.tokens)
      return {errc::mismatch, "score: a sequence of the source has more tokens than its scores"};
  return {};
}

template <class E, class P, class TQ, Cache C>
status check_score_view(E const& estimator, evidence<P, TQ> const& seen, C const& cache, source_view const& source,
                        score_view const& out) {
  if (status const s = cache.check_view(); !s.ok()) return s;
  std::int32_t const heads = heads_of(seen, cache);
  if (heads % cache.kv_heads != 0)
    return {errc::bad_shape, "score: the queries' heads are not a multiple of the cache's kv_heads"};
  if (status const s = check_scores_view(out, cache, E::rows == score_rows::heads ? heads : cache.kv_heads); !s.ok())
    return s;
  if (E::mass_queries > 0 && seen.mass.data != nullptr) {
    if (status const s = check_scores_view(seen.mass, cache, heads); !s.ok()) return s;
  } else if constexpr (E::mass_queries > 0) {
    if (status const s = check_queries_view(seen.q, cache); !s.ok()) return s;
    if (status const s = check_pattern_view(seen.pattern, seen.q); !s.ok()) return s;
    if (seen.q.rows.tokens > 0 && seen.lse == nullptr)
      return {errc::null_data, "score: the estimator reads attention mass, but lse is null"};
    if (status const s = check_lse(seen.q, seen.lse_stride); !s.ok()) return s;
  }
  if constexpr (needs_source<E>())
    if (status const s = check_source_view(source, cache); !s.ok()) return s;
  return check_estimator_view(estimator, layer_shape{heads, cache.kv_heads, out.tokens, cache.dim, value_dim_of(cache)},
                              cache.sequences);
}

template <class E, class P, class TQ, Cache C>
status check_score(E const& estimator, evidence<P, TQ> const& seen, C const& cache, source_view const& source,
                   score_view const& out) {
  if (status const s = check_score_view(estimator, seen, cache, source, out); !s.ok()) return s;
  if (status const s = cache.check(); !s.ok()) return s;
  std::int32_t const heads = heads_of(seen, cache);
  if (status const s = check_scores(out, cache, E::rows == score_rows::heads ? heads : cache.kv_heads); !s.ok())
    return s;
  if (E::mass_queries > 0 && seen.mass.data != nullptr) {
    if (status const s = check_scores(seen.mass, cache, heads); !s.ok()) return s;
  } else if constexpr (E::mass_queries > 0) {
    if (status const s = check_queries(seen.q, cache); !s.ok()) return s;
    if (status const s = check_pattern(seen.pattern, seen.q); !s.ok()) return s;
  }
  if constexpr (needs_source<E>())
    if (status const s = check_source(source, cache); !s.ok()) return s;
  if constexpr (needs_equal_heads<E>())
    if (!same_positions(cache))
      return {errc::mismatch, "score: the estimator reduces over all heads, but the KV heads hold different tokens"};
  return check_estimator(estimator,
                         layer_shape{heads, cache.kv_heads, longest_length(cache), cache.dim, value_dim_of(cache)},
                         cache.sequences);
}

/// What the estimator sees of one sequence.
template <class E, Cache C>
PUREKV_HD layer_input<C> input_of(C const& cache, std::int32_t sequence, std::int32_t heads, score_view const& mass,
                                  source_view const& source) {
  layer_input<C> in{.cache = cache, .sequence = sequence, .heads = heads};
  if constexpr (E::mass_queries > 0) {
    in.mass = mass.row(sequence, 0);
    in.mass_stride = mass.row_stride;
  }
  if constexpr (needs_source<E>()) {
    in.source = source.scores.row(sequence, 0);
    in.source_stride = source.scores.row_stride;
    in.source_positions = source.positions + sequence * source.positions_stride;
    in.source_tokens = source.tokens[sequence];
  }
  return in;
}

}  // namespace detail

/// Bytes that `score` wants; reads shapes and positions, no data. SIZE_MAX when they overflow.
template <Estimator E, Pattern P, class TQ, Cache C>
std::size_t score_workspace(cpu exec, E const&, evidence<P, TQ> const& seen, C const& cache) {
  if (!cache.check().ok()) return 0;
  if (detail::score_memory<E>::asks_for_mass(seen) && !detail::check_shapes(seen.q, cache).ok()) return 0;
  detail::carve memory;
  detail::score_memory<E>::take(memory, exec, seen, cache, detail::heads_of(seen, cache),
                                detail::longest_length(cache));
  return memory.bytes();
}

/// How much each cached token matters. out : [sequences, kv_heads, tokens], or [sequences, heads, tokens] if the
/// estimator scores query heads; only tokens below each head's length are written.
/// seen: the queries, with lse, of an attention call over this cache, or the mass itself; read if the estimator asks
/// for attention mass. source: read if the estimator has a cross_layer in it; apart from out.
template <Estimator E, Pattern P, class TQ, Cache C>
status score(cpu exec, E const& estimator, evidence<P, TQ> const& seen, C const& cache, source_view const& source,
             score_view const& out, workspace const& work) {
  if (status const s = detail::check_score(estimator, seen, cache, source, out); !s.ok()) return s;
  std::int32_t const heads = detail::heads_of(seen, cache);
  detail::carve carved(work);
  auto const memory = detail::score_memory<E>::take(carved, exec, seen, cache, heads, detail::longest_length(cache));
  if (!carved.fits())
    return {errc::workspace_too_small, "score: workspace smaller than score_workspace(), or not aligned to 64 bytes"};
  if (status const s = detail::make_mass(exec, seen, cache, memory); !s.ok()) return s;
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    estimator.score(exec, detail::input_of<E>(cache, s, heads, memory.mass, source),
                    score_out{out.row(s, 0), out.row_stride}, memory.scratch);
  exec.sync();
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
