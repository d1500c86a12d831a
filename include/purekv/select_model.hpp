// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/select.hpp>

namespace purekv::inline v0_1 {

/// One layer of a model that selects as a whole: its cache and the scores of its tokens.
template <Cache C> struct scored_layer {
  C cache;
  score_view scores;
};

/// The part of a model's selection that belongs to one of its layers: what `lay_out` and `compact` take.
PUREKV_INLINE selection layer_of(selection const& model, std::int32_t layer, std::int32_t layers) {
  selection part = model;
  part.rows = model.rows / layers;
  part.offset += std::int64_t{layer} * part.rows;
  return part;
}

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Rows lie sequence after sequence, in each layer after layer, in each head after head, and keys as their rows do: the
/// rows that share a budget are neighbours, and equal scores are in memory in the order in which they are taken.
struct select_model_memory {
  row_choice* rows;        // [sequences, layers, kv_heads]
  std::int64_t* begin;     // [sequences, layers, kv_heads], and one past the last: a row's first key
  std::uint32_t* keys;     // a key for every token
  std::uint32_t* scratch;  // the same number

  /// tokens: of all rows.
  static select_model_memory take(carve& memory, std::int64_t rows, std::int64_t tokens) {
    row_choice* const choices = memory.take<row_choice>(rows);
    std::int64_t* const begin = memory.take<std::int64_t>(rows + 1);
    std::uint32_t* const keys = memory.take<std::uint32_t>(tokens);
    return {choices, begin, keys, memory.take<std::uint32_t>(tokens)};
  }
};

template <Cache C> std::int64_t rows_of(scored_layer<C> const* model, std::int32_t layers) {
  return std::int64_t{model->cache.sequences} * model->cache.kv_heads * layers;
}

template <Cache C> status check_model_view(scored_layer<C> const* model, std::int32_t layers) {
  if (layers <= 0) return {errc::bad_shape, "select: a model has at least one layer"};
  if (model == nullptr) return {errc::null_data, "select: the layers of the model are null"};
  for (std::int32_t l = 0; l < layers; ++l) {
    C const& cache = model[l].cache;
    if (status const s = cache.check_view(); !s.ok()) return s;
    if (cache.sequences != model->cache.sequences || cache.kv_heads != model->cache.kv_heads)
      return {errc::mismatch, "select: the layers of the model differ in sequences or kv_heads"};
  }
  if (rows_of(model, layers) > INT32_MAX) return {errc::bad_shape, "select: more than 2^31 - 1 heads in all"};
  return {};
}

/// Shapes that the memory of a call depends on.
template <Cache C> status check_model(scored_layer<C> const* model, std::int32_t layers) {
  if (status const s = check_model_view(model, layers); !s.ok()) return s;
  for (std::int32_t l = 0; l < layers; ++l)
    if (status const s = model[l].cache.check(); !s.ok()) return s;
  return {};
}

template <class Compressor, Cache C>
status check_select_model(Compressor const& c, scored_layer<C> const* model, std::int32_t layers,
                          selection const& out) {
  if (status const s = check_model(model, layers); !s.ok()) return s;
  if (out.rows != selection_rows<Compressor>(model->cache) * layers)
    return {errc::mismatch, "select: rows of the selection differ from the model's"};
  for (std::int32_t l = 0; l < layers; ++l)
    if (status const s =
            check_select(c, model[l].scores, model[l].cache, layer_of(out, l, layers), layer_position{l, layers});
        !s.ok())
      return s;
  return {};
}

/// Gives rows [first, last) what they keep together: the best of all, equal scores to the earlier row, then token.
inline void share_model(select_model_memory const& m, std::int64_t first, std::int64_t last) {
  std::int64_t const tokens = m.begin[last] - m.begin[first];
  std::int64_t keep = 0, guaranteed = 0;
  for (std::int64_t r = first; r < last; ++r) {
    keep += m.rows[r].keep;
    guaranteed += m.rows[r].guaranteed;
  }
  std::int64_t const count = keep > guaranteed ? keep : guaranteed;
  if (count == 0) return;
  cut const where = find_cut(m.keys + m.begin[first], tokens, count, m.scratch + m.begin[first]);
  std::int64_t ties = where.ties;
  for (std::int64_t r = first; r < last; ++r) {
    std::uint32_t const* const keys = m.keys + m.begin[r];
    std::int64_t const length = m.begin[r + 1] - m.begin[r];
    std::int64_t equal = 0;
    for (std::int64_t t = 0; t < length; ++t) equal += keys[t] == where.key;
    m.rows[r].where = {where.key, equal < ties ? equal : ties};
    m.rows[r].count = count_above(keys, length, m.rows[r].where);
    ties -= m.rows[r].where.ties;
  }
}

}  // namespace detail

/// A capacity that is enough for any selection from these caches: the sum of their lengths.
template <Cache C> std::int64_t selection_capacity(scored_layer<C> const* model, std::int32_t layers) {
  std::int64_t tokens = 0;
  for (std::int32_t l = 0; l < layers; ++l) tokens += selection_capacity(model[l].cache);
  return tokens;
}

/// Bytes that `select` over a model wants; scores are not read.
template <class E, class B, class P, Cache C>
std::size_t select_workspace(cpu, compressor<E, B, P> const&, scored_layer<C> const* model, std::int32_t layers) {
  if (!detail::check_model(model, layers).ok()) return 0;
  detail::carve memory;
  detail::select_model_memory::take(memory, detail::rows_of(model, layers), selection_capacity(model, layers));
  return memory.bytes();
}

/// Keeps of every sequence max(sum of keeps, sum of guaranteed) tokens over all layers and KV heads together, where
/// keep = budget.keep(tokens of the head): the best by score, larger first, NaN last, equal scores to the lower layer,
/// then the lower head, then the lower position, and none that the protect evicts. Guaranteed to a head are its pinned
/// tokens and then its best, max(pinned, floor(keep)) in all; a head that is guaranteed none may keep none. model :
/// [layers], of equal sequences and kv_heads; lengths may differ. out : rows [layers, sequences, kv_heads]; what each
/// layer keeps, and how many slots it needs, is known afterwards: layer_of(out, layer, layers).
template <class E, class B, class P, Cache C>
status select(cpu exec, compressor<E, B, P> const& c, scored_layer<C> const* model, std::int32_t layers,
              selection const& out, workspace work) {
  static_assert(
      detail::layers_share_budget<B>(),
      "select: over a whole model it needs a budget that the layers share: across_model (docs/concepts/budget.md)");
  if (status const s = detail::check_select_model(c, model, layers, out); !s.ok()) return s;
  detail::carve memory{work};
  auto const m =
      detail::select_model_memory::take(memory, detail::rows_of(model, layers), selection_capacity(model, layers));
  if (!memory.fits()) return {errc::workspace_too_small, "select: workspace smaller than select_workspace()"};

  std::int32_t const sequences = model->cache.sequences, kv_heads = model->cache.kv_heads;
  std::int64_t const shared = std::int64_t{layers} * kv_heads;  // rows of a sequence
  auto const each_row = [&](auto const& f) {
    std::int64_t begin = 0;
    for (std::int64_t row = 0; row < sequences * shared; ++row) {
      std::int32_t const s = static_cast<std::int32_t>(row / shared),
                         l = static_cast<std::int32_t>(row % shared / kv_heads),
                         h = static_cast<std::int32_t>(row % kv_heads);
      if (row % exec.size() == exec.rank()) f(row, l, s, h, begin);
      begin += model[l].cache.length(s, h);
    }
  };
  each_row([&](std::int64_t row, std::int32_t l, std::int32_t s, std::int32_t h, std::int64_t begin) {
    m.begin[row] = begin;
    if (row + 1 == sequences * shared) m.begin[row + 1] = begin + model[l].cache.length(s, h);
    m.rows[row] = detail::choose(c, model[l].scores, model[l].cache, s, h, layer_position{l, layers}, m.keys + begin,
                                 m.scratch + begin);
  });
  exec.sync();

  errc problem = errc::ok;
  for (std::int64_t row = 0; row < sequences * shared && problem == errc::ok; ++row) problem = m.rows[row].problem;
  if (problem != errc::ok) {
    exec.sync();  // the workspace is lent until every rank has read it
    return {problem, "select: the budget keeps less than one token of a head that has some"};
  }
  for (std::int32_t s = exec.rank(); s < sequences; s += exec.size())
    detail::share_model(m, s * shared, (s + 1) * shared);
  exec.sync();

  std::int64_t total = 0;
  for (std::int64_t row = 0; row < sequences * shared; ++row) total += m.rows[row].count;
  if (total > out.capacity) {
    exec.sync();
    return {errc::capacity_exceeded, "select: the selection cannot hold what is kept"};
  }

  auto const row_of = [&](std::int32_t l, std::int32_t s, std::int32_t h) { return s * shared + l * kv_heads + h; };
  if (exec.rank() == 0) {
    std::int64_t offset = 0, row = 0;
    for (std::int32_t l = 0; l < layers; ++l)
      for (std::int32_t s = 0; s < sequences; ++s)
        for (std::int32_t h = 0; h < kv_heads; ++h, ++row) {
          out.offset[row] = offset;
          offset += m.rows[row_of(l, s, h)].count;
        }
    out.offset[row] = total;
  }
  exec.sync();
  each_row([&](std::int64_t row, std::int32_t l, std::int32_t s, std::int32_t h, std::int64_t begin) {
    std::int64_t const at = (std::int64_t{l} * sequences + s) * kv_heads + h;
    detail::put_above(m.keys + begin, model[l].cache.length(s, h), m.rows[row].where, out.token + out.offset[at],
                      m.rows[row].count);
  });
  exec.sync();
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
