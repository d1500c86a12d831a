// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/compressor.hpp>
#include <purekv/cpu.hpp>
#include <purekv/detail/carve.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/detail/top_k.hpp>

namespace purekv::inline v0_1 {

/// Which layer of how many a cache belongs to, for budgets that differ between layers.
struct layer_position {
  std::int32_t layer = 0, layers = 1;
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

template <class B> PUREKV_HD constexpr bool heads_share_budget() {
  if constexpr (requires { B::heads_share; })
    return B::heads_share;
  else
    return false;
}

template <class B> PUREKV_HD constexpr bool layers_share_budget() {
  if constexpr (requires { B::layers_share; })
    return B::layers_share;
  else
    return false;
}

template <class Compressor, Cache C> std::int32_t selection_rows(C const& cache) {
  return Compressor::scope == selection_scope::layer ? cache.sequences : cache.sequences * cache.kv_heads;
}

/// What is known about a row of the selection before it is written.
struct row_choice {
  cut where;
  std::int64_t count;             // tokens it keeps
  std::int32_t keep, guaranteed;  // heads that share: what the budget says, what the head keeps in any case
  errc problem;
};

struct select_memory {
  row_choice* rows;        // [rows of the selection]
  std::uint32_t* keys;     // a key for every token, row after row
  std::uint32_t* scratch;  // the same number

  template <class Compressor, Cache C> static select_memory take(carve& memory, Compressor const&, C const& cache) {
    bool const shared_rows = Compressor::scope == selection_scope::layer;
    std::int64_t tokens = 0;
    for (std::int32_t s = 0; s < cache.sequences; ++s)
      for (std::int32_t h = 0; h < (shared_rows ? 1 : cache.kv_heads); ++h) tokens += cache.length(s, h);
    row_choice* const rows = memory.take<row_choice>(selection_rows<Compressor>(cache));
    std::uint32_t* const keys = memory.take<std::uint32_t>(tokens);
    return {rows, keys, memory.take<std::uint32_t>(tokens)};
  }
};

/// The newest position cached in a sequence; -1 if there is none.
template <Cache C> std::int32_t newest_position(C const& cache, std::int32_t sequence) {
  std::int32_t last = -1;
  for (std::int32_t h = 0; h < cache.kv_heads; ++h) {
    std::int32_t const length = cache.length(sequence, h);
    if (length > 0) last = larger(last, *cache.run(sequence, h, length - 1).positions);
  }
  return last;
}

template <Cache C> bool heads_hold_the_same(C const& cache, std::int32_t sequence) {
  std::int32_t const length = cache.length(sequence, 0);
  for (std::int32_t h = 1; h < cache.kv_heads; ++h) {
    if (cache.length(sequence, h) != length) return false;
    std::int32_t differing = 0;
    for (std::int32_t t = 0; t < length; ++t)
      differing += *cache.run(sequence, 0, t).positions != *cache.run(sequence, h, t).positions;
    if (differing != 0) return false;
  }
  return true;
}

template <Protect P> PUREKV_HD bool is_evicted(P const& protect, std::int32_t position, std::int32_t last) {
  if constexpr (EvictingProtect<P>)
    return protect.evicted(position, last);
  else
    return false;
}

/// How many tokens of a row are pinned, and how many may be kept at all.
struct token_counts {
  std::int32_t pinned, keepable;
};

/// keys[t] ranks token t: pinned tokens first, then by score(t), evicted ones last.
template <class Protect, Cache C, class Score>
token_counts rank_tokens(Protect const& protect, C const& cache, std::int32_t sequence, std::int32_t head,
                         std::int32_t last, Score const& score, std::uint32_t* keys) {
  token_counts counts{0, cache.length(sequence, head)};
  for_each_stretch(cache, sequence, head, 0, cache.length(sequence, head),
                   [&](auto const& run, std::int32_t first, std::int32_t count) {
                     for (std::int32_t i = 0; i < count; ++i) {
                       bool const evicted = is_evicted(protect, run.positions[i], last);
                       bool const pinned = !evicted && protect.pinned(run.positions[i], last);
                       std::uint32_t const key = rank_key(score(first + i));
                       keys[first + i] = evicted ? evicted_key : pinned ? pinned_key : key;
                       counts.pinned += pinned;
                       counts.keepable -= evicted;
                     }
                   });
  return counts;
}

/// Ranks the tokens of one row and finds where those that it keeps end.
template <class Compressor, Cache C>
row_choice choose(Compressor const& c, score_view const& scores, C const& cache, std::int32_t sequence,
                  std::int32_t head, layer_position const& layer, std::uint32_t* keys, std::uint32_t* scratch) {
  constexpr bool by_layer = Compressor::scope == selection_scope::layer;
  row_choice choice{};
  choice.where = {pinned_key, 0};  // nothing
  if (by_layer && !heads_hold_the_same(cache, sequence)) {
    choice.problem = errc::mismatch;
    return choice;
  }
  std::int32_t const tokens = cache.length(sequence, head);
  if (tokens == 0) return choice;
  std::int32_t keep = c.budget.keep(budget_input{tokens, layer.layer, layer.layers});
  if (keep < 1) {
    choice.problem = errc::bad_policy;
    return choice;
  }
  std::int32_t const last = newest_position(cache, sequence);
  token_counts counts;
  if constexpr (by_layer) {
    float const heads = static_cast<float>(cache.kv_heads);
    auto const mean = [&](std::int32_t t) {
      float sum = 0;
      for (std::int32_t h = 0; h < cache.kv_heads; ++h) sum += scores.row(sequence, h)[t];
      return sum / heads;
    };
    counts = rank_tokens(c.protect, cache, sequence, head, last, mean, keys);
  } else {
    float const* const row = scores.row(sequence, head);
    counts = rank_tokens(
        c.protect, cache, sequence, head, last, [&](std::int32_t t) { return row[t]; }, keys);
  }

  choice.keep = keep = smaller(keep, counts.keepable);
  if constexpr (heads_share_budget<decltype(c.budget)>()) {
    choice.guaranteed = larger(counts.pinned, smaller(c.budget.floor(keep), counts.keepable));
    if (choice.guaranteed > 0) pin_above(keys, tokens, find_cut(keys, tokens, choice.guaranteed, scratch));
  } else {
    choice.count = larger(counts.pinned, keep);
    if (choice.count > 0) choice.where = find_cut(keys, tokens, choice.count, scratch);
  }
  return choice;
}

/// Gives the heads of one sequence what they keep together. Equal scores go to the lower position, then the lower head.
template <Cache C>
void share(C const& cache, std::int32_t sequence, row_choice* rows, std::uint32_t const* keys, std::uint32_t* scratch) {
  std::int64_t tokens = 0, keep = 0, guaranteed = 0;
  for (std::int32_t h = 0; h < cache.kv_heads; ++h) {
    tokens += cache.length(sequence, h);
    keep += rows[h].keep;
    guaranteed += rows[h].guaranteed;
  }
  std::int64_t const count = keep > guaranteed ? keep : guaranteed;
  if (count == 0) return;
  cut const where = find_cut(keys, tokens, count, scratch);

  auto const each_tie = [&](auto const& f) {
    std::uint32_t const* key = keys;
    for (std::int32_t h = 0; h < cache.kv_heads; key += cache.length(sequence, h), ++h)
      for (std::int32_t t = 0; t < cache.length(sequence, h); ++t)
        if (key[t] == where.key) f(h, ~static_cast<std::uint32_t>(*cache.run(sequence, h, t).positions));
  };
  std::int64_t tied = 0;
  each_tie([&](std::int32_t, std::uint32_t low_position) { scratch[tied++] = low_position; });
  cut end = find_cut(scratch, tied, where.ties, scratch);
  for (std::int32_t h = 0; h < cache.kv_heads; ++h) rows[h].where = {where.key, 0};
  each_tie([&](std::int32_t h, std::uint32_t low_position) {
    bool const taken = low_position > end.key || (low_position == end.key && end.ties-- > 0);
    rows[h].where.ties += taken;
  });
  for (std::int32_t h = 0; h < cache.kv_heads; keys += cache.length(sequence, h), ++h)
    rows[h].count = count_above(keys, cache.length(sequence, h), rows[h].where);
}

template <class Compressor, Cache C>
status check_select_view(Compressor const& c, score_view const& scores, C const& cache, selection const& out,
                         layer_position const& layer) {
  if (status const s = c.budget.check(); !s.ok()) return s;
  if (status const s = cache.check_view(); !s.ok()) return s;
  if (status const s = check_scores_view(scores, cache, cache.kv_heads); !s.ok()) return s;
  if (layer.layer < 0 || layer.layer >= layer.layers)
    return {errc::bad_shape, "select: layer lies outside the number of layers"};
  if (out.scope != Compressor::scope)
    return {errc::mismatch, "select: the selection and the compressor differ in scope"};
  if (out.rows != selection_rows<Compressor>(cache))
    return {errc::mismatch, "select: rows of the selection differ from the cache's"};
  if (out.capacity < 0) return {errc::bad_shape, "select: capacity of the selection is negative"};
  if (out.offset == nullptr || (out.token == nullptr && out.capacity > 0))
    return {errc::null_data, "select: offset or token of the selection is null"};
  return {};
}

template <class Compressor, Cache C>
status check_select(Compressor const& c, score_view const& scores, C const& cache, selection const& out,
                    layer_position const& layer) {
  if (status const s = check_select_view(c, scores, cache, out, layer); !s.ok()) return s;
  if (status const s = cache.check(); !s.ok()) return s;
  if (status const s = check_scores(scores, cache, cache.kv_heads); !s.ok()) return s;
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    if (std::int32_t const last = newest_position(cache, s); last >= 0)
      if (status const r = c.protect.check(last); !r.ok()) return r;
  return {};
}

}  // namespace detail

/// A capacity that is enough for any selection from this cache: the sum of its lengths.
template <Cache C> std::int64_t selection_capacity(C const& cache) {
  std::int64_t tokens = 0;
  if (!cache.check().ok()) return 0;
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 0; h < cache.kv_heads; ++h) tokens += cache.length(s, h);
  return tokens;
}

template <class E, class B, class P, selection_scope Scope, Cache C>
std::size_t select_workspace(cpu, compressor<E, B, P, Scope> const& c, C const& cache) {
  if (!cache.check().ok()) return 0;
  detail::carve memory;
  detail::select_memory::take(memory, c, cache);
  return memory.bytes();
}

/// Keeps of every head max(keep, pinned) tokens, where keep = budget.keep(tokens): all pinned ones, then the best by
/// score, larger first, NaN last (below -inf), equal scores to the lower position. An empty head keeps nothing.
/// - What the protect evicts is not kept: keep is at most the number of the others, and 0 where there are none.
/// - Scope layer: one list per sequence, by the mean of the scores over the KV heads, which must hold the same
/// positions.
/// - Budgets whose heads share: the heads of a sequence keep max(sum of keeps, sum of guaranteed) tokens together, the
///   best over all heads, equal scores to the lower position, then the lower head. Guaranteed to a head are its pinned
///   tokens and then its best, max(pinned, floor(keep)) in all.
/// scores : [sequences, kv_heads, tokens], tokens being ordinals in the cache; `layer` feeds the budget.
template <class E, class B, class P, selection_scope Scope, Cache C>
status select(cpu exec, compressor<E, B, P, Scope> const& c, score_view const& scores, C const& cache,
              selection const& out, workspace work, layer_position layer = {}) {
  constexpr bool by_layer = Scope == selection_scope::layer;
  constexpr bool sharing = detail::heads_share_budget<B>();
  static_assert(!(by_layer && sharing),
                "select: a budget that the heads share needs a compressor of scope kv_head (docs/concepts/budget.md)");
  static_assert(!detail::layers_share_budget<B>(),
                "select: a budget that all layers share needs select over a model (select_model.hpp)");
  if (status const s = detail::check_select(c, scores, cache, out, layer); !s.ok()) return s;
  detail::carve memory{work};
  detail::select_memory const m = detail::select_memory::take(memory, c, cache);
  if (!memory.fits()) return {errc::workspace_too_small, "select: workspace smaller than select_workspace()"};

  auto const each_row = [&](auto const& f) {
    std::int64_t begin = 0;
    for (std::int32_t row = 0; row < out.rows; ++row) {
      std::int32_t const s = by_layer ? row : row / cache.kv_heads, h = by_layer ? 0 : row % cache.kv_heads;
      if (row % exec.size() == exec.rank()) f(row, s, h, begin);
      begin += cache.length(s, h);
    }
  };
  each_row([&](std::int32_t row, std::int32_t s, std::int32_t h, std::int64_t begin) {
    m.rows[row] = detail::choose(c, scores, cache, s, h, layer, m.keys + begin, m.scratch + begin);
  });
  exec.sync();

  errc problem = errc::ok;
  for (std::int32_t row = 0; row < out.rows && problem == errc::ok; ++row) problem = m.rows[row].problem;
  if (problem != errc::ok) {
    exec.sync();  // the workspace is lent until every rank has read it
    return problem == errc::bad_policy
               ? status{problem, "select: the budget keeps less than one token of a head that has some"}
               : status{problem, "select: scope layer needs KV heads that hold the same positions"};
  }

  if constexpr (sharing) {
    std::int64_t begin = 0;
    for (std::int32_t s = 0; s < cache.sequences; ++s) {
      if (s % exec.size() == exec.rank())
        detail::share(cache, s, m.rows + std::int64_t{s} * cache.kv_heads, m.keys + begin, m.scratch + begin);
      for (std::int32_t h = 0; h < cache.kv_heads; ++h) begin += cache.length(s, h);
    }
    exec.sync();
  }

  std::int64_t total = 0;
  for (std::int32_t row = 0; row < out.rows; ++row) total += m.rows[row].count;
  if (total > out.capacity) {
    exec.sync();
    return {errc::capacity_exceeded, "select: the selection cannot hold what is kept"};
  }

  std::int64_t offset = 0;
  for (std::int32_t row = 0; exec.rank() == 0 && row < out.rows; ++row) {
    out.offset[row] = offset;
    offset += m.rows[row].count;
  }
  if (exec.rank() == 0) out.offset[out.rows] = total;
  exec.sync();
  each_row([&](std::int32_t row, std::int32_t s, std::int32_t h, std::int64_t begin) {
    detail::put_above(m.keys + begin, cache.length(s, h), m.rows[row].where, out.token + out.offset[row],
                      m.rows[row].count);
  });
  exec.sync();
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
