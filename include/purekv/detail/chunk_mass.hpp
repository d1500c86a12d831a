// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/mass.hpp>
#include <purekv/score.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// One sequence of a cache of any model.
template <Cache C> struct sequence_cache : C {
  std::int32_t which;

  sequence_cache(C const& cache, std::int32_t sequence) : C(cache), which(sequence) { this->sequences = 1; }
  PUREKV_INLINE std::int32_t length(std::int32_t, std::int32_t head) const { return C::length(which, head); }
  PUREKV_INLINE std::int32_t capacity(std::int32_t, std::int32_t head) const { return C::capacity(which, head); }
  PUREKV_INLINE void set_length(std::int32_t, std::int32_t head, std::int32_t n) const {
    C::set_length(which, head, n);
  }
  PUREKV_INLINE auto run(std::int32_t, std::int32_t head, std::int32_t token) const {
    return C::run(which, head, token);
  }
  PUREKV_INLINE std::int64_t slot(std::int32_t, std::int32_t head, std::int32_t token) const {
    return C::slot(which, head, token);
  }
};

/// The queries of one sequence of a batch.
template <class TQ> query_view<TQ> one_sequence(query_view<TQ> q, std::int32_t sequence) {
  std::int32_t const begin = q.begin(sequence), count = q.count(sequence);
  q.rows.data += begin * q.rows.token_stride;
  q.rows.tokens = count;
  q.batch = {1, nullptr, q.batch.positions + begin};
  return q;
}

/// Which of a chunk's `queries` are among the last `wanted` of a prompt when `to_come` more will come after them.
constexpr query_range among_the_last(std::int32_t wanted, std::int32_t queries, std::int32_t to_come) {
  std::int64_t const left = std::int64_t{wanted} - to_come;
  return last(left < 0 ? 0 : left < queries ? static_cast<std::int32_t>(left) : queries);
}

template <Pattern P, class TQ, Cache C>
std::size_t chunk_mass_workspace(cpu exec, evidence<P, TQ> const& seen, C const& cache, std::int32_t sequence,
                                 query_range const& range) {
  return mass_workspace(exec, seen.pattern, one_sequence(seen.q, sequence), sequence_cache<C>(cache, sequence), range,
                        score_rows::heads);
}

/// The mass of a token with that of more queries.
PUREKV_HD inline float grown_mass(float held, float added, mass_reduction by) {
  return by == mass_reduction::sum ? held + added : larger_score(held, added);
}

/// seen.mass(s, h, t) grows by what the queries of a chunk of sequence s that are in `range` give token t, or becomes
/// the larger of the two. The chunk's own tokens, the newest in `cache`, start from 0. No query of an earlier chunk can
/// give them anything: it attended when they were not there. part : [heads, tokens of the sequence]
template <Pattern P, class TQ, Cache C>
status add_chunk_mass(cpu exec, evidence<P, TQ> const& seen, C const& cache, std::int32_t s, query_range const& range,
                      mass_reduction by, float* part, workspace const& work) {
  query_view<TQ> const q = one_sequence(seen.q, s);
  std::int32_t const tokens = cache.length(s, 0), before = tokens - q.rows.tokens;
  bool const some = q.rows.tokens > 0 && range.count > 0;
  score_view const more = dense_scores(part, 1, q.rows.heads, tokens);
  if (some) {
    status const result = mass(exec, seen.pattern, q, sequence_cache<C>(cache, s), seen.lse + seen.q.begin(s),
                               seen.lse_stride, range, score_rows::heads, more, work, by);
    if (!result.ok()) return result;
  }
  for (std::int32_t h = 0; h < q.rows.heads; ++h) {
    float* const all = seen.mass.row(s, h);
    for_share(exec, tokens, [&](std::int32_t t) {
      float const held = t < before ? all[t] : 0, added = some ? more.row(0, h)[t] : 0;
      all[t] = grown_mass(held, added, by);
    });
  }
  exec.sync();
  return {};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
