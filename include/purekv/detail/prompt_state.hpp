// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cpu.hpp>
#include <purekv/detail/carve.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/model_shape.hpp>
#include <purekv/schedule.hpp>
#include <purekv/source.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What a pipeline knows of a prompt, in memory that it was lent: how far each layer is, and what sources said.
struct prompt_state {
  model_shape model;
  schedule plan;
  std::int32_t sequences = 0, longest = 0, new_tokens = 0;
  std::int32_t* tokens = nullptr;     // [sequences]
  std::int32_t* positions = nullptr;  // [sequences, longest]
  std::int32_t* lengths = nullptr;    // [layers, sequences, kv_heads] tokens that have come, as lengths of a cache
  std::int32_t* passed = nullptr;     // [layers] whether all have
  std::int32_t* evicted = nullptr;    // [layers]
  std::int32_t* scored = nullptr;     // [bands] layers scored
  float* scores = nullptr;            // [bands, sequences, kv_heads, longest]
  float* masses = nullptr;            // [masses, sequences, heads, longest], of a prompt in chunks
  selection kept;                     // the rows that enter the layers that drop
  std::int32_t* chosen = nullptr;     // [1] whether they are known; null where no layer drops

  /// mass_count: for how many layers attention mass is put together chunk by chunk.
  static prompt_state take(carve& memory, model_shape const& model, schedule const& plan, std::int32_t mass_count,
                           std::int32_t sequences, std::int32_t longest) {
    std::int64_t const rows = std::int64_t{sequences} * longest;
    prompt_state s;
    s.model = model;
    s.plan = plan;
    s.sequences = sequences;
    s.longest = longest;
    s.tokens = memory.take<std::int32_t>(sequences);
    s.positions = memory.take<std::int32_t>(rows);
    s.lengths = memory.take<std::int32_t>(std::int64_t{model.layers} * sequences * model.kv_heads);
    s.passed = memory.take<std::int32_t>(model.layers);
    s.evicted = memory.take<std::int32_t>(model.layers);
    s.scored = memory.take<std::int32_t>(plan.band_count);
    s.scores = memory.take<float>(plan.band_count * model.kv_heads * rows);
    s.masses = memory.take<float>(mass_count * model.heads * rows);
    if (plan.first_dropping() < model.layers) {
      s.kept = {.offset = memory.take<std::int64_t>(std::int64_t{sequences} + 1),
                .token = memory.take<std::int32_t>(rows),
                .capacity = rows,
                .rows = sequences,
                .scope = selection_scope::layer};
      s.chosen = memory.take<std::int32_t>(1);
    }
    return s;
  }

  void start(std::int32_t const* prompt_tokens, std::int32_t room) {
    new_tokens = room;
    for (std::int32_t s = 0; s < sequences; ++s) tokens[s] = prompt_tokens[s];
    for (std::int32_t l = 0; l < model.layers; ++l) passed[l] = evicted[l] = 0;
    for (std::int64_t i = 0; i < std::int64_t{model.layers} * sequences * model.kv_heads; ++i) lengths[i] = 0;
    for (std::int32_t b = 0; b < plan.band_count; ++b) scored[b] = 0;
    if (chosen != nullptr) *chosen = 0;
  }
  bool started() const { return tokens != nullptr; }

  /// Whether the layer is done with the prompt, so that further tokens may come.
  bool is_through(std::int32_t layer) const {
    return plan.needs_full(layer) ? evicted[layer] != 0 : passed[layer] != 0 || longest == 0;
  }

  /// Rows of sequence s that enter the layer: in all, so far, and still to come after these queries.
  std::int32_t rows_of(std::int32_t layer, std::int32_t s) const {
    return plan.drops(layer) ? kept.count(s) : tokens[s];
  }
  std::int32_t fed(std::int32_t layer, std::int32_t s) const { return lengths_of(layer)[s * model.kv_heads]; }
  template <class TQ> std::int32_t left_after(std::int32_t layer, query_view<TQ> const& q, std::int32_t s) const {
    return rows_of(layer, s) - fed(layer, s) - q.count(s);
  }
  template <class TQ> bool completed_by(std::int32_t layer, query_view<TQ> const& q) const {
    bool all = true;
    for (std::int32_t s = 0; s < sequences; ++s) all = all && left_after(layer, q, s) == 0;
    return all;
  }
  bool fed_any(std::int32_t layer) const {
    bool any = false;
    for (std::int32_t s = 0; s < sequences; ++s) any = any || fed(layer, s) > 0;
    return any;
  }
  std::int32_t* lengths_of(std::int32_t layer) const {
    return lengths + std::int64_t{layer} * sequences * model.kv_heads;
  }

  /// These queries have passed the layer.
  template <class TQ> void advance(cpu exec, std::int32_t layer, query_view<TQ> const& q) const {
    exec.sync();
    if (exec.rank() == 0) {
      passed[layer] = completed_by(layer, q);
      for (std::int32_t s = 0; s < sequences; ++s)
        for (std::int32_t h = 0; h < model.kv_heads; ++h) lengths_of(layer)[s * model.kv_heads + h] += q.count(s);
    }
    exec.sync();
  }

  /// The full cache with what has come so far in it, whatever its lengths say.
  template <class T> contiguous_cache<T> so_far(std::int32_t layer, contiguous_cache<T> full) const {
    full.lengths = lengths_of(layer);
    return full;
  }

  /// Where the positions of these queries go, beside a source's scores.
  template <class TQ> void note_positions(cpu exec, std::int32_t layer, query_view<TQ> const& q) const {
    if (exec.rank() == 0)
      for (std::int32_t s = 0; s < sequences; ++s) {
        std::int32_t* const next = positions + std::int64_t{s} * longest + fed(layer, s);
        for (std::int32_t i = 0; i < q.count(s); ++i) next[i] = q.batch.positions[q.begin(s) + i];
      }
    exec.sync();
  }

  score_view scores_in(float* data) const { return dense_scores(data, sequences, model.kv_heads, longest); }
  source_view source_of(float* data) const { return {scores_in(data), positions, longest, tokens}; }
  source_view band_source(std::int32_t band) const {
    return source_of(scores + std::int64_t{band} * sequences * model.kv_heads * longest);
  }
  bool band_scored(std::int32_t band) const {
    return scored[band] == plan.bands[band].last - plan.bands[band].first + 1;
  }
  score_view mass(std::int32_t index) const {
    return dense_scores(masses + std::int64_t{index} * sequences * model.heads * longest, sequences, model.heads,
                        longest);
  }
};

template <class TQ, class TI>
status check_vectors(prompt_state const& state, query_view<TQ> const& q, rows_view<TI const> const& k,
                     rows_view<TI const> const& v) {
  model_shape const& model = state.model;
  if (q.rows.heads != model.heads || q.rows.dim != model.dim || q.batch.sequences != state.sequences)
    return {errc::mismatch, "pipeline: queries differ from the model in heads or dim, or from the prompt in sequences"};
  if (k.heads != model.kv_heads || k.dim != model.dim || k.tokens != q.rows.tokens || v.heads != model.kv_heads ||
      v.dim != model.value_width() || v.tokens != q.rows.tokens)
    return {errc::mismatch, "pipeline: keys or values differ from the model or the queries"};
  if (q.rows.tokens > 0 &&
      (q.rows.data == nullptr || k.data == nullptr || v.data == nullptr || q.batch.positions == nullptr))
    return {errc::null_data, "pipeline: queries, keys, values or positions are null"};
  return {};
}

template <Cache C> bool fits_model(prompt_state const& state, C const& cache) {
  model_shape const& model = state.model;
  return cache.sequences == state.sequences && cache.kv_heads == model.kv_heads && cache.dim == model.dim &&
         value_dim_of(cache) == model.value_width();
}

template <class T> status check_full(prompt_state const& state, std::int32_t layer, contiguous_cache<T> const& full) {
  if (status const s = full.check(); !s.ok()) return s;
  if (!fits_model(state, full))
    return {errc::mismatch, "pipeline::prefill: the full cache differs from the model or the prompt"};
  if (full.tokens < state.longest)
    return {errc::capacity_exceeded, "pipeline::prefill: the full cache is shorter than the prompt"};
  for (std::int32_t i = 0; i < state.sequences * state.model.kv_heads; ++i)
    if (full.lengths[i] < state.lengths_of(layer)[i])
      return {errc::mismatch, "pipeline::prefill: the full cache does not hold the chunks that came before"};
  return {};
}

/// slots: how many it needs at least.
template <class T> status check_kept(prompt_state const& state, std::int64_t slots, ragged_cache<T> const& kept) {
  if (!fits_model(state, kept))
    return {errc::mismatch, "pipeline: the kept cache differs from the model or the prompt"};
  if (kept.extents == nullptr || (kept.slots > 0 && (kept.keys == nullptr || kept.values == nullptr)))
    return {errc::null_data, "pipeline: keys, values or extents of the kept cache is null"};
  if (kept.slots < slots)
    return {errc::capacity_exceeded, "pipeline: the kept cache has fewer slots than kept_slots()"};
  return {};
}

/// Whether these queries are those of kept_rows().
template <class TQ> status check_kept_rows(prompt_state const& state, query_view<TQ> const& q) {
  if (*state.chosen == 0)
    return {errc::not_ready, "pipeline::prefill: the source of this layer has not been scored yet"};
  for (std::int32_t s = 0; s < state.sequences; ++s)
    if (q.count(s) != state.kept.count(s))
      return {errc::mismatch,
              "pipeline::prefill: a layer that drops gets the rows of kept_rows(), no more and no less"};
  for (std::int32_t s = 0; s < state.sequences; ++s) {
    std::int32_t const* const positions = state.positions + std::int64_t{s} * state.longest;
    for (std::int32_t i = 0; i < q.count(s); ++i)
      if (q.batch.positions[q.begin(s) + i] != positions[state.kept.tokens(s)[i]])
        return {errc::bad_positions,
                "pipeline::prefill: a layer that drops gets other positions than kept_rows() have"};
  }
  return {};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
