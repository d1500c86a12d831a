// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/append.hpp>
#include <purekv/attend.hpp>
#include <purekv/compact.hpp>
#include <purekv/detail/appended_cache.hpp>
#include <purekv/per_layer.hpp>
#include <purekv/pipeline.hpp>
#include <purekv/score.hpp>
#include <purekv/select_model.hpp>
#include <purekv/take_back.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Compression before anybody has asked: the context is cached whole, the model repeats it, or is asked what is likely
/// to be asked, and what that needed is kept, by a budget for each layer or by one over all layers and heads. In order,
/// each of the first two layer by layer:
///
///   prefill   the context, whole or in chunks, over `full`; nothing is evicted
///   repeat    "repeat the context" and the context itself, whole or in chunks, or one probe question after the other;
///             each attends to the whole context and to itself, is scored, and leaves `full` as it was. Positions go on
///             after the context's; each chunk begins there again
///   select    once for the model; now kept_slots() says what every layer's `kept` needs
///   compact   layer by layer, `full` into `kept`
///
/// From then on questions and answers append to `kept` and decode over it, as over any cache; take_back makes room for
/// the next question, and neither `full` nor the state is needed any more.
/// score(layer, h, t) = the largest that the estimator says over the chunks. A small host value that owns no memory,
/// run on the caller's threads like every operation. An error leaves every cache, and what has been scored, as it was.
/// KVzip, arXiv 2505.23416, which normalises a chunk's probabilities over the part of the context that it repeats; here
/// they are those of attention over all of it.
template <class Compressor, Pattern P> class reconstructor {
  using estimator = typename Compressor::estimator_type;
  static constexpr bool layers_share = detail::layers_share_budget<decltype(Compressor::budget)>();
  static_assert(!detail::needs_source<estimator>(),
                "reconstructor: every layer is scored by its own attention; the estimator cannot be a cross_layer");
  static_assert(Compressor::scope == selection_scope::kv_head, "reconstructor: KV heads choose for themselves");

 public:
  /// pattern: one for all layers, or an array with one for each.
  reconstructor(model_shape const& model, Compressor const& compressor, per_layer<P> const& pattern)
      : model_(model), compressor_(compressor), pattern_(pattern) {}

  status check() const {
    if (model_.layers <= 0 || model_.heads <= 0 || model_.kv_heads <= 0 || model_.dim <= 0 || model_.value_dim < 0)
      return {errc::bad_shape,
              "reconstructor: layers, heads, kv_heads and dim must be positive, value_dim not negative"};
    if (model_.heads % model_.kv_heads != 0)
      return {errc::bad_shape, "reconstructor: heads is not a multiple of kv_heads"};
    if (pattern_.missing()) return {errc::null_data, "reconstructor: patterns is null"};
    return compressor_.budget.check();
  }

  /// Memory `begin` wants for contexts of at most `tokens` tokens.
  std::size_t state_bytes(std::int32_t sequences, std::int32_t tokens) const {
    detail::carve memory;
    take_state(memory, sequences, tokens, std::int64_t{sequences} * tokens);
    return memory.bytes();
  }

  /// Starts a context: tokens[s] tokens of sequence s. `state` is lent until the next begin. One thread calls it.
  status begin(std::int32_t sequences, std::int32_t const* tokens, workspace state) {
    if (status const s = check(); !s.ok()) return s;
    if (sequences <= 0) return {errc::bad_shape, "reconstructor::begin: sequences must be positive"};
    if (tokens == nullptr) return {errc::null_data, "reconstructor::begin: tokens is null"};
    std::int32_t longest = 0;
    std::int64_t total = 0;
    for (std::int32_t s = 0; s < sequences; ++s) {
      if (tokens[s] < 0) return {errc::bad_shape, "reconstructor::begin: a context has a negative number of tokens"};
      longest = tokens[s] > longest ? tokens[s] : longest;
      total += tokens[s];
    }
    detail::carve memory{state};
    context_state const next = take_state(memory, sequences, longest, total);
    if (!memory.fits()) return {errc::workspace_too_small, "reconstructor::begin: state smaller than state_bytes()"};
    state_ = next;
    for (std::int32_t s = 0; s < sequences; ++s) state_.tokens[s] = tokens[s];
    for (std::int32_t l = 0; l < model_.layers; ++l) state_.repeated[l] = state_.compacted[l] = 0;
    *state_.selected = 0;
    return {};
  }

  /// Memory that `prefill` and `repeat` want for these queries; no data is read but positions and lengths.
  template <class T, class TQ>
  std::size_t prefill_workspace(cpu exec, std::int32_t layer, query_view<TQ> const& q,
                                layer_storage<T> const* storage) const {
    return attend_workspace(exec, pattern_[layer], q, appended(storage[layer].full, q));
  }
  template <class T, class TQ>
  std::size_t repeat_workspace(cpu exec, std::int32_t layer, query_view<TQ> const& q,
                               layer_storage<T> const* storage) const {
    repeat_memory<TQ> memory;
    return memory.take(*this, exec, layer, q, storage[layer].full, detail::carve{});
  }

  /// Caches and attends to the next tokens of the context. `full` is empty before the first of them.
  /// q : [heads, queries, dim], k : [kv_heads, queries, dim], v : [kv_heads, queries, value dim],
  /// out : [heads, queries, value dim], storage : [layers].
  template <class TQ, class TI, class T, class TO>
  status prefill(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k, rows_view<TI const> v,
                 layer_storage<T> const* storage, rows_view<TO> out, workspace work) const {
    if (status const s = check_call(layer, q, storage); !s.ok()) return s;
    contiguous_cache<T> const& full = storage[layer].full;
    if (status const s = check_full(full); !s.ok()) return s;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      for (std::int32_t h = 0; h < model_.kv_heads; ++h)
        if (q.count(s) > state_.tokens[s] - full.length(s, h))
          return {errc::mismatch, "reconstructor::prefill: more tokens than begin() was told"};
    return append_and_attend(exec, layer, q, k, v, full, out, attend_taps{}, work);
  }

  /// A chunk of the repetition: attends to the context and to itself, folds its scores in, and leaves `full` as it was.
  template <class TQ, class TI, class T, class TO>
  status repeat(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k, rows_view<TI const> v,
                layer_storage<T> const* storage, rows_view<TO> out, workspace work) const {
    if (status const s = check_call(layer, q, storage); !s.ok()) return s;
    contiguous_cache<T> const& full = storage[layer].full;
    if (status const s = check_whole(full); !s.ok()) return s;
    if (*state_.selected != 0)
      return {errc::bad_policy, "reconstructor::repeat: the model has been selected already; call begin() first"};
    repeat_memory<TQ> memory;
    memory.take(*this, exec, layer, q, full, detail::carve{work});
    if (!memory.fits)
      return {errc::workspace_too_small, "reconstructor::repeat: workspace smaller than repeat_workspace()"};

    std::ptrdiff_t const queries = q.rows.tokens;
    attend_taps const taps{.lse = memory.lse, .lse_stride = queries};
    if (status const s = append_and_attend(exec, layer, q, k, v, full, out, taps, memory.rest); !s.ok()) return s;
    detail::shorten(exec, full, [&](std::int32_t s) { return q.count(s); });

    score_view const scores = dense_scores(memory.scores, state_.sequences, model_.kv_heads, state_.longest);
    evidence<P, TQ> const seen{pattern_[layer], q, memory.lse, queries};
    if (status const s = score(exec, compressor_.estimator, seen, full, source_view{}, scores, memory.rest); !s.ok())
      return s;
    score_view const all = scores_of(layer);
    bool const first = state_.repeated[layer] == 0;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      for (std::int32_t h = 0; h < model_.kv_heads; ++h) {
        float const* const from = scores.row(s, h);
        float* const to = all.row(s, h);
        for_share(exec, state_.tokens[s],
                  [&](std::int32_t t) { to[t] = first ? from[t] : detail::larger_score(to[t], from[t]); });
      }
    exec.sync();
    if (exec.rank() == 0) state_.repeated[layer] = 1;
    exec.sync();
    return {};
  }

  /// What the repetition said of a layer's context so far: [sequences, kv_heads, tokens].
  score_view scores_of(std::int32_t layer) const {
    std::int64_t const layer_floats = std::int64_t{state_.sequences} * model_.kv_heads * state_.longest;
    return dense_scores(state_.scores + layer * layer_floats, state_.sequences, model_.kv_heads, state_.longest);
  }

  /// Memory `select` wants; T: the caches' element.
  template <Element T> std::size_t select_workspace() const {
    detail::carve memory;
    if constexpr (layers_share) {
      memory.take<scored_layer<contiguous_cache<T>>>(model_.layers);
      detail::select_model_memory::take(memory, state_.kept.rows, state_.kept.capacity);
    } else {
      memory.take<detail::row_choice>(state_.kept.rows / model_.layers);
      memory.take<std::uint32_t>(state_.kept.capacity / model_.layers);
      memory.take<std::uint32_t>(state_.kept.capacity / model_.layers);
    }
    return memory.bytes();
  }

  /// Chooses what all layers keep. Every layer has been repeated.
  template <class T> status select(cpu exec, layer_storage<T> const* storage, workspace work) const {
    if (state_.tokens == nullptr) return {errc::not_ready, "reconstructor: begin() has not been called"};
    if (storage == nullptr) return {errc::null_data, "reconstructor: storage is null"};
    for (std::int32_t l = 0; l < model_.layers; ++l) {
      if (state_.repeated[l] == 0)
        return {errc::not_ready, "reconstructor::select: a layer has not been through a repetition yet"};
      if (state_.compacted[l] != 0)
        return {errc::bad_policy, "reconstructor::select: a layer has been compacted already; call begin() first"};
      if (status const s = check_whole(storage[l].full); !s.ok()) return s;
    }
    status const result = [&] {
      if constexpr (layers_share)
        return select_model(exec, storage, work);
      else
        return select_layers(exec, storage, work);
    }();
    exec.sync();
    if (exec.rank() == 0 && (result.ok() || !layers_share)) *state_.selected = result.ok();
    exec.sync();
    return result;
  }

  /// What a layer keeps, after `select`.
  selection kept(std::int32_t layer) const { return layer_of(state_.kept, layer, model_.layers); }

  /// Slots that `kept` of this layer needs, with room for new_tokens more in every head; after `select`.
  std::int64_t kept_slots(std::int32_t layer, std::int32_t new_tokens) const {
    selection const part = kept(layer);
    return part.offset[part.rows] - part.offset[0] + std::int64_t{part.rows} * new_tokens;
  }

  /// Moves what a layer keeps from `full` to `kept`, which must not overlap it; `full` is not needed afterwards.
  template <class T>
  status compact(cpu exec, std::int32_t layer, std::int32_t new_tokens, layer_storage<T> const* storage) const {
    if (state_.tokens == nullptr || *state_.selected == 0)
      return {errc::not_ready, "reconstructor::compact: select comes first"};
    if (layer < 0 || layer >= model_.layers) return {errc::bad_shape, "reconstructor: no such layer"};
    if (new_tokens < 0) return {errc::bad_shape, "reconstructor::compact: new_tokens is negative"};
    if (storage == nullptr) return {errc::null_data, "reconstructor: storage is null"};
    if (status const s = check_whole(storage[layer].full); !s.ok()) return s;
    ragged_cache<T> const& to = storage[layer].kept;
    if (to.sequences != state_.sequences || to.kv_heads != model_.kv_heads || to.dim != model_.dim ||
        value_dim_of(to) != value_dim())
      return {errc::mismatch, "reconstructor::compact: the kept cache differs from the model or the context"};
    if (to.extents == nullptr ||
        (to.slots > 0 && (to.keys == nullptr || to.values == nullptr || to.positions == nullptr)))
      return {errc::null_data, "reconstructor::compact: keys, values, positions or extents of the kept cache is null"};
    if (to.slots < kept_slots(layer, new_tokens))
      return {errc::capacity_exceeded, "reconstructor::compact: the kept cache has fewer slots than kept_slots()"};
    exec.sync();
    if (exec.rank() == 0) lay_out(kept(layer), state_.sequences, model_.kv_heads, new_tokens, to.extents);
    exec.sync();
    if (status const s = purekv::compact(exec, kept(layer), storage[layer].full, to); !s.ok()) return s;
    if (exec.rank() == 0) state_.compacted[layer] = 1;
    exec.sync();
    return {};
  }

 private:
  struct context_state {
    std::int32_t sequences = 0, longest = 0;
    std::int32_t* tokens = nullptr;     // [sequences]
    std::int32_t* repeated = nullptr;   // [layers]
    std::int32_t* compacted = nullptr;  // [layers]
    std::int32_t* selected = nullptr;
    float* scores = nullptr;  // [layers, sequences, kv_heads, longest]
    selection kept;           // rows [layers, sequences, kv_heads]
  };

  context_state take_state(detail::carve& memory, std::int32_t sequences, std::int32_t longest,
                           std::int64_t tokens) const {
    std::int64_t const rows = std::int64_t{model_.layers} * model_.kv_heads * sequences;
    std::int64_t const capacity = std::int64_t{model_.layers} * model_.kv_heads * tokens;
    context_state s;
    s.sequences = sequences;
    s.longest = longest;
    s.tokens = memory.take<std::int32_t>(sequences);
    s.repeated = memory.take<std::int32_t>(model_.layers);
    s.compacted = memory.take<std::int32_t>(model_.layers);
    s.selected = memory.take<std::int32_t>(1);
    s.scores = memory.take<float>(rows * longest);
    s.kept = {.offset = memory.take<std::int64_t>(rows + 1),
              .token = memory.take<std::int32_t>(capacity),
              .capacity = capacity,
              .rows = static_cast<std::int32_t>(rows)};
    return s;
  }

  template <class T> status select_model(cpu exec, layer_storage<T> const* storage, workspace const& work) const {
    detail::carve memory{work};
    auto* const model = memory.take<scored_layer<contiguous_cache<T>>>(model_.layers);
    if (!memory.fits())
      return {errc::workspace_too_small, "reconstructor::select: workspace smaller than select_workspace()"};
    for (std::int32_t l = exec.rank(); l < model_.layers; l += exec.size()) model[l] = {storage[l].full, scores_of(l)};
    exec.sync();
    return purekv::select(exec, compressor_, model, model_.layers, state_.kept, memory.rest());
  }

  /// What each layer keeps comes to lie behind what those below it keep.
  template <class T> status select_layers(cpu exec, layer_storage<T> const* storage, workspace const& work) const {
    std::int64_t before = 0;
    for (std::int32_t l = 0; l < model_.layers; ++l) {
      selection part = kept(l);
      part.token += before;
      part.capacity -= before;
      layer_position const layer{l, model_.layers};
      status const s = purekv::select(exec, compressor_, scores_of(l), storage[l].full, part, work, layer);
      if (!s.ok()) return s;
      std::int64_t const count = part.offset[part.rows];
      exec.sync();
      for (std::int32_t row = 0; exec.rank() == 0 && row <= part.rows; ++row) part.offset[row] += before;
      exec.sync();
      before += count;
    }
    return {};
  }

  template <class TQ> struct repeat_memory {
    float* lse;      // [heads, queries]
    float* scores;   // [sequences, kv_heads, longest]
    workspace rest;  // lent to one operation after the other
    bool fits;

    template <class T>
    std::size_t take(reconstructor const& r, cpu exec, std::int32_t layer, query_view<TQ> const& q,
                     contiguous_cache<T> const& full, detail::carve memory) {
      std::int64_t const queries = q.rows.tokens;
      lse = memory.take<float>(r.model_.heads * queries);
      scores = memory.take<float>(std::int64_t{full.sequences} * r.model_.kv_heads * r.state_.longest);
      std::size_t const attending =
          attend_workspace(exec, r.pattern_[layer], q, appended(full, q), {.lse = lse, .lse_stride = queries});
      evidence<P, TQ> const seen{r.pattern_[layer], q, lse, queries};
      std::size_t const scoring = score_workspace(exec, r.compressor_.estimator, seen, full);
      std::size_t const most = attending > scoring ? attending : scoring;
      rest = {memory.take<std::byte>(most <= INT64_MAX ? static_cast<std::int64_t>(most) : -1), most};
      fits = memory.fits();
      return memory.bytes();
    }
  };

  template <class T, class TQ>
  static detail::appended_cache<contiguous_cache<T>> appended(contiguous_cache<T> const& cache,
                                                              query_view<TQ> const& q) {
    return {cache, q.batch, q.rows.tokens};
  }

  template <class TQ, class T>
  status check_call(std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const* storage) const {
    if (state_.tokens == nullptr) return {errc::not_ready, "reconstructor: begin() has not been called"};
    if (layer < 0 || layer >= model_.layers) return {errc::bad_shape, "reconstructor: no such layer"};
    if (storage == nullptr) return {errc::null_data, "reconstructor: storage is null"};
    if (q.rows.heads != model_.heads || q.rows.dim != model_.dim || q.batch.sequences != state_.sequences)
      return {errc::mismatch,
              "reconstructor: queries differ from the model in heads or dim, or from the context in sequences"};
    return detail::check_batch(q.batch, q.rows.tokens);
  }

  template <class T> status check_full(contiguous_cache<T> const& full) const {
    if (status const s = full.check(); !s.ok()) return s;
    if (full.sequences != state_.sequences || full.kv_heads != model_.kv_heads || full.dim != model_.dim ||
        value_dim_of(full) != value_dim())
      return {errc::mismatch, "reconstructor: the full cache differs from the model or the context"};
    return {};
  }
  template <class T> status check_whole(contiguous_cache<T> const& full) const {
    if (status const s = check_full(full); !s.ok()) return s;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      for (std::int32_t h = 0; h < model_.kv_heads; ++h)
        if (full.length(s, h) != state_.tokens[s])
          return {errc::not_ready, "reconstructor: the full cache does not hold the whole context, and nothing else"};
    return {};
  }

  /// Appends, then attends; an error of the second undoes the first.
  template <class TQ, class TI, class T, class TO>
  status append_and_attend(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> const& k,
                           rows_view<TI const> const& v, contiguous_cache<T> const& full, rows_view<TO> const& out,
                           attend_taps const& taps, workspace const& work) const {
    if (status const s = append(exec, k, v, q.batch, full); !s.ok()) return s;
    status const result = attend(exec, pattern_[layer], q, full, out, taps, work);
    if (!result.ok()) detail::shorten(exec, full, [&](std::int32_t s) { return q.count(s); });
    return result;
  }

  std::int32_t value_dim() const { return model_.value_dim != 0 ? model_.value_dim : model_.dim; }

  model_shape model_;
  Compressor compressor_;
  per_layer<P> pattern_;
  context_state state_;
};

template <class Compressor, Pattern P>
reconstructor(model_shape const&, Compressor const&, P const&) -> reconstructor<Compressor, P>;
template <class Compressor, Pattern P>
reconstructor(model_shape const&, Compressor const&, P const*) -> reconstructor<Compressor, P>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
