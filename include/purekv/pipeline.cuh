// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/append.cuh>
#include <purekv/attend.cuh>
#include <purekv/compact.cuh>
#include <purekv/decode.cuh>
#include <purekv/detail/chunk_mass.cuh>
#include <purekv/detail/pipeline_base.hpp>
#include <purekv/detail/prompt_on_gpu.cuh>
#include <purekv/layer_storage.hpp>
#include <purekv/plan.cuh>
#include <purekv/score.cuh>
#include <purekv/select.cuh>
#include <purekv/source.cuh>
#include <purekv/take_back.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// `pipeline` on a GPU: the same model, schedule, policies and calls, one per layer, none of which waits for the
/// device. The schedule and how far each layer is lie in host memory, all else on the device; so that no size has to
/// come back, the queries of a call are counted, not looked at. Preconditions: every sequence gets as many in all as
/// begin() was told, each chunk the same in all layers, those that drop the rows of kept_rows(); between the chunks of
/// a prompt nobody else touches the full caches. An error that the host can see leaves everything as it was.
template <class Compressor, Pattern P> class gpu_pipeline : public detail::pipeline_base<Compressor, P> {
  using base = detail::pipeline_base<Compressor, P>;
  using base::collecting_below;
  using base::collects;
  using base::compressor_;
  using base::model_;
  using base::pattern_;
  using base::schedule_;
  static constexpr bool cross_layer = base::cross_layer;
  static constexpr std::int32_t mass_queries = base::mass_queries;

 public:
  using base::check;
  using base::drops;
  using base::evicts_at;
  using base::keeps_full;
  using base::kept_slots;
  using base::needs_full;

  gpu_pipeline(model_shape const& model, schedule const& plan, per_layer<Compressor> const& compressor,
               per_layer<P> const& pattern)
      : base(model, plan, compressor, pattern) {}

  /// As pipeline::kept_rows, on the device: a host that wants the numbers copies them.
  selection kept_rows() const { return state_.started() && *state_.chosen != 0 ? state_.kept : selection{}; }
  bool released(std::int32_t layer) const { return state_.evicted[layer] != 0; }

  /// Host memory that `begin` wants.
  std::size_t host_state_bytes(std::int32_t sequences) const {
    detail::prompt_on_gpu state{.sequences = sequences};
    detail::carve memory;
    state.take_host(memory, model_, schedule_);
    return memory.bytes();
  }
  /// Device memory that `begin` wants for prompts of at most `prompt_tokens` tokens; full_tokens: the capacity of a
  /// head of the full caches.
  std::size_t state_bytes(std::int32_t sequences, std::int32_t prompt_tokens, std::int32_t full_tokens) const {
    detail::prompt_on_gpu state{.sequences = sequences, .longest = prompt_tokens};
    detail::carve memory;
    state.take_device(memory, model_, schedule_, collecting_below(model_.layers), full_tokens);
    return memory.bytes();
  }

  /// Starts a prompt. tokens : [sequences], on the host.
  status begin(gpu const& exec, std::int32_t sequences, std::int32_t const* tokens, std::int32_t new_tokens,
               std::int32_t full_tokens, workspace host_state, workspace state) {
    if (status const s = check(); !s.ok()) return s;
    if (status const s = detail::check_gpu(exec); !s.ok()) return s;
    if (sequences <= 0 || new_tokens < 0 || full_tokens < 0)
      return {errc::bad_shape,
              "gpu_pipeline::begin: sequences must be positive, new_tokens and full_tokens not negative"};
    if (tokens == nullptr) return {errc::null_data, "gpu_pipeline::begin: tokens is null"};
    detail::prompt_on_gpu next{.sequences = sequences, .new_tokens = new_tokens};
    for (std::int32_t s = 0; s < sequences; ++s) {
      if (tokens[s] < 0) return {errc::bad_shape, "gpu_pipeline::begin: a prompt has a negative number of tokens"};
      next.longest = tokens[s] > next.longest ? tokens[s] : next.longest;
      next.total += tokens[s];
    }
    detail::carve of_host{host_state}, of_device{state};
    next.take_host(of_host, model_, schedule_);
    next.take_device(of_device, model_, schedule_, collecting_below(model_.layers), full_tokens);
    if (!of_host.fits() || !of_device.fits())
      return {errc::workspace_too_small, "gpu_pipeline::begin: less memory than host_state_bytes() or state_bytes()"};
    if (status const s = detail::put(exec, tokens, next.counts, sequences); !s.ok()) return s;
    for (std::int32_t s = 0; s < sequences; ++s) next.tokens[s] = tokens[s];
    for (std::int32_t l = 0; l < model_.layers; ++l) next.come[l] = next.passed[l] = next.evicted[l] = 0;
    for (std::int32_t b = 0; b < schedule_.band_count; ++b) next.scored[b] = 0;
    *next.chosen = 0;
    state_ = next;
    plan_memory_ = {};
    plan_ = {};
    return {};
  }

  /// Device memory that `keep_plan` wants for these queries, the whole prompt's or those of a chunk.
  template <class T, class TQ>
  std::size_t plan_bytes(gpu const& exec, query_view<TQ> const& q, contiguous_cache<T> const& full) const {
    return pattern_.varies() ? 0 : plan_workspace(exec, pattern_[0], q, full, heads_hold::the_same);
  }
  /// As pipeline::keep_plan: the first layer that attends to the prompt, or to a chunk of it, makes the plan, for those
  /// that follow.
  status keep_plan(workspace const& memory) {
    if (!state_.started()) return {errc::not_ready, "gpu_pipeline: begin() has not been called"};
    plan_memory_ = memory;
    plan_ = {};
    return {};
  }

  /// Device memory that `prefill` wants for these queries. Of the caches only shapes are read.
  template <class T, class TQ>
  std::size_t prefill_workspace(gpu const& exec, std::int32_t layer, query_view<TQ> const& q,
                                layer_storage<T> const* storage) const {
    return take(exec, layer, q, storage, detail::carve{}).bytes;
  }
  /// Device memory that `decode` wants.
  template <class T, class TQ>
  std::size_t decode_workspace(gpu const& exec, std::int32_t layer, query_view<TQ> const& q,
                               layer_storage<T> const* storage) const {
    return are_many(q) ? attend_workspace(exec, pattern_[layer], q, storage[layer].kept)
                       : purekv::decode_workspace(exec, pattern_[layer], q, storage[layer].kept);
  }

  /// As pipeline::prefill.
  template <class TQ, class TI, class T, class TO>
  status prefill(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k,
                 rows_view<TI const> v, layer_storage<T> const* storage, rows_view<TO> out, workspace work,
                 float* lse = nullptr, std::ptrdiff_t lse_stride = 0) {
    if (status const s = check_prompt(exec, layer, q, k, v, storage, out, lse, lse_stride); !s.ok()) return s;
    memory_map const m = take(exec, layer, q, storage, detail::carve{work});
    if (!m.fits)
      return {errc::workspace_too_small, "gpu_pipeline::prefill: workspace smaller than prefill_workspace()"};
    if (shares_plan(layer) && !has_plan(layer, q) && plan_memory_.bytes < plan_bytes_of(exec, layer, q, storage[layer]))
      return {errc::workspace_too_small, "gpu_pipeline: the memory lent by keep_plan() is smaller than plan_bytes()"};
    attend_taps const taps{.lse = lse != nullptr ? lse : m.lse,
                           .lse_stride = lse != nullptr ? lse_stride : q.rows.tokens};
    layer_storage<T> const& own = storage[layer];
    status result;
    if (!needs_full(layer)) {
      result = keep_whole(exec, layer, q, k, v, own.kept, out, taps, m.rest);
    } else {
      result = fill(exec, layer, q, k, v, own.full);
      if (result.ok())
        result = schedule_.layers[layer].when == evict_when::before_attending
                     ? prune_then_attend(exec, layer, q, own, out, taps, m)
                     : attend_then_evict(exec, layer, q, storage, out, taps, m);
    }
    if (result.ok()) {
      state_.come[layer] += q.rows.tokens;
      state_.passed[layer] = drops(layer) || state_.come[layer] == state_.total;
    }
    return result;
  }

  /// As pipeline::decode.
  template <class TQ, class TI, class T, class TO>
  status decode(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k,
                rows_view<TI const> v, layer_storage<T> const* storage, rows_view<TO> out, workspace work) const {
    if (status const s = check_call(layer, q, storage); !s.ok()) return s;
    if (status const s = check_kept(exec, layer, q, k, v, storage[layer].kept, out); !s.ok()) return s;
    if (needs_full(layer) ? state_.evicted[layer] == 0 : state_.passed[layer] == 0 && state_.longest > 0)
      return {errc::not_ready, "gpu_pipeline::decode: this layer has not been through its prompt yet"};
    if (work.bytes < decode_workspace(exec, layer, q, storage))
      return {errc::workspace_too_small, "gpu_pipeline::decode: workspace smaller than decode_workspace()"};
    ragged_cache<T> const& kept = storage[layer].kept;
    if (status const s = append(exec, k, v, q.batch, kept); !s.ok()) return s;
    return are_many(q) ? attend(exec, pattern_[layer], q, kept, out, attend_taps{}, work)
                       : purekv::decode(exec, pattern_[layer], q, kept, out, attend_taps{}, work);
  }

  /// As pipeline::take_back; tokens : [sequences], on the device.
  template <class T>
  status take_back(gpu const& exec, std::int32_t const* tokens, layer_storage<T> const* storage) const {
    if (!state_.started()) return {errc::not_ready, "gpu_pipeline: begin() has not been called"};
    if (storage == nullptr) return {errc::null_data, "gpu_pipeline::take_back: storage is null"};
    for (std::int32_t l = 0; l < model_.layers; ++l)
      if (status const s = purekv::take_back(exec, tokens, storage[l].kept); !s.ok()) return s;
    return {};
  }

 private:
  /// What a prefill call works in.
  struct memory_map {
    float* lse = nullptr;         // [heads, queries]
    float* scores = nullptr;      // [sequences, kv_heads, longest]
    float* own_source = nullptr;  // the same, for a cross_layer that is its own source
    float* mass = nullptr;        // [sequences, heads, longest], what a chunk adds to the mass
    selection kept;
    workspace rest;  // lent to one operation after the other
    bool fits = false;
    std::size_t bytes = 0;
  };

  template <class TQ, class T>
  memory_map take(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const* storage,
                  detail::carve memory) const {
    memory_map m;
    std::size_t most = 0;
    auto const cover = [&](std::size_t wanted) { most = wanted > most ? wanted : most; };
    auto const cover_attention = [&](auto const& cache) {
      cover(attend_workspace(exec, pattern_[layer], q, cache, attend_taps{.lse = m.lse, .lse_stride = q.rows.tokens}));
    };
    m.lse = memory.take<float>(std::int64_t{q.rows.heads} * q.rows.tokens);
    if (!needs_full(layer)) {
      cover_attention(storage[layer].kept);
    } else {
      contiguous_cache<T> const& full = storage[layer].full;
      Compressor const& c = compressor_[layer];
      std::int64_t const rows = std::int64_t{full.sequences} * full.kv_heads, tokens = rows * full.tokens;
      m.scores = memory.take<float>(rows * state_.longest);
      m.own_source = memory.take<float>(cross_layer ? rows * state_.longest : 0);
      m.mass = memory.take<float>(collects(layer) ? std::int64_t{full.sequences} * model_.heads * state_.longest : 0);
      m.kept = {.offset = memory.take<std::int64_t>(rows + 1),
                .token = memory.take<std::int32_t>(tokens),
                .capacity = tokens,
                .rows = detail::selection_rows<Compressor>(full),
                .scope = Compressor::scope};
      evidence<P, TQ> const seen{pattern_[layer], q, m.lse, q.rows.tokens, mass_of(layer)};
      cover_attention(full);
      if (collects(layer)) cover(detail::chunk_mass_workspace(exec, q, full, mass_queries));
      if (schedule_.layers[layer].when == evict_when::before_attending) cover_attention(storage[layer].kept);
      cover(score_workspace(exec, c.estimator, seen, full, state_.longest));
      if constexpr (cross_layer) {
        cover(score_workspace(exec, c.estimator.source, seen, full, state_.longest));
        cover(accumulate_source_workspace(exec, c.estimator, full));
      }
      cover(select_workspace(exec, c, full));
      cover(select_workspace(exec, detail::one_set(c), full));
    }
    m.rest = {memory.take<std::byte>(static_cast<std::int64_t>(most)), most};
    m.fits = memory.fits();
    m.bytes = memory.bytes();
    return m;
  }

  template <class TQ, class T>
  status check_call(std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const* storage) const {
    if (!state_.started()) return {errc::not_ready, "gpu_pipeline: begin() has not been called"};
    if (layer < 0 || layer >= model_.layers) return {errc::bad_shape, "gpu_pipeline: no such layer"};
    if (storage == nullptr) return {errc::null_data, "gpu_pipeline: storage is null"};
    if (q.rows.heads != model_.heads || q.rows.dim != model_.dim || q.batch.sequences != state_.sequences)
      return {errc::mismatch, "gpu_pipeline: queries differ from the model or the prompt"};
    return {};
  }

  template <class C> bool fits_model(C const& cache) const {
    return cache.sequences == state_.sequences && cache.kv_heads == model_.kv_heads && cache.dim == model_.dim &&
           value_dim_of(cache) == model_.value_width();
  }

  /// Whether `kept` of a layer is there and has room for what it will hold.
  template <class T> status check_room(gpu const& exec, std::int32_t layer, ragged_cache<T> const& kept) const {
    if (!fits_model(kept)) return {errc::mismatch, "gpu_pipeline: the kept cache differs from the model or the prompt"};
    if (status const s = kept.check_view(); !s.ok()) return s;
    if (status const s = detail::check_reachable_cache(exec, kept); !s.ok()) return s;
    std::int64_t slots = 0;
    for (std::int32_t s = 0; s < state_.sequences; ++s) slots += kept_slots(layer, state_.tokens[s], state_.new_tokens);
    return kept.slots >= slots
               ? status{}
               : status{errc::capacity_exceeded, "gpu_pipeline: the kept cache has fewer slots than kept_slots()"};
  }

  /// And whether these queries can attend to it, and their tokens be cached in it.
  template <class TQ, class TI, class T, class TO>
  status check_kept(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> const& k,
                    rows_view<TI const> const& v, ragged_cache<T> const& kept, rows_view<TO> const& out) const {
    if (status const s = check_room(exec, layer, kept); !s.ok()) return s;
    if (status const s = detail::check_append(exec, k, v, q.batch, kept); !s.ok()) return s;
    return detail::check_attention(exec, pattern_[layer], q, kept, out, attend_taps{});
  }

  template <class TQ, class TI, class T, class TO>
  status check_prompt(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> const& k,
                      rows_view<TI const> const& v, layer_storage<T> const* storage, rows_view<TO> const& out,
                      float const* lse, std::ptrdiff_t lse_stride) const {
    if (status const s = check_call(layer, q, storage); !s.ok()) return s;
    if (lse != nullptr)
      if (status const s = detail::check_lse(q, lse_stride); !s.ok()) return s;
    if (state_.passed[layer] != 0)
      return {errc::bad_policy, "gpu_pipeline::prefill: this layer has had its prompt; call begin() for the next"};
    if (drops(layer) && *state_.chosen == 0)
      return {errc::not_ready, "gpu_pipeline::prefill: the source of this layer has not been scored yet"};
    if (state_.come[layer] + q.rows.tokens > state_.total)
      return {errc::mismatch, "gpu_pipeline::prefill: more queries than begin() was told"};
    if (!completes(layer, q) && !drops(layer) && !schedule_.chunked && schedule_.evicts())
      return {errc::bad_policy,
              "gpu_pipeline::prefill: a prompt in chunks needs schedule::chunked; without it give all queries at once"};
    if (!needs_full(layer)) return check_kept(exec, layer, q, k, v, storage[layer].kept, out);

    contiguous_cache<T> const& full = storage[layer].full;
    if (!fits_model(full))
      return {errc::mismatch, "gpu_pipeline::prefill: the full cache differs from the model or the prompt"};
    if (status const s = detail::check_append(exec, k, v, q.batch, full); !s.ok()) return s;
    if (status const s = detail::check_attention(exec, pattern_[layer], q, full, out, attend_taps{}); !s.ok()) return s;
    if (full.tokens < state_.longest)
      return {errc::capacity_exceeded, "gpu_pipeline::prefill: the full cache is shorter than the prompt"};
    if (!completes(layer, q)) return {};
    layer_plan const& plan = schedule_.layers[layer];
    if (plan.source >= 0 && schedule_.bands[plan.source].last < layer && !band_scored(plan.source))
      return {errc::not_ready, "gpu_pipeline::prefill: the source of this layer has not been scored yet"};
    for (std::int32_t b = 0; b < schedule_.band_count; ++b)
      if (schedule_.in_band(b, layer) && state_.scored[b] != layer - schedule_.bands[b].first)
        return {errc::not_ready, "gpu_pipeline::prefill: a layer of this source was left out; layers come in order"};
    for (std::int32_t l = 0; l <= layer; ++l)
      if (needs_full(l) && evicts_at(l) == layer) {
        if (l < layer && state_.passed[l] == 0)
          return {errc::not_ready, "gpu_pipeline::prefill: a layer that evicts now has not had its whole prompt"};
        if (status const s = check_room(exec, l, storage[l].kept); !s.ok()) return s;
        // Its prompt lies in a cache of its own until now.
        if (l < layer && (!fits_model(storage[l].full) || storage[l].full.tokens < state_.longest))
          return {errc::mismatch, "gpu_pipeline::prefill: the full cache of a layer that evicts now has another shape"};
      }
    if (plan.when == evict_when::before_attending)
      return detail::check_attention(exec, pattern_[layer], q, storage[layer].kept, out, attend_taps{});
    return {};
  }

  /// Whether these queries are the last of the prompt.
  template <class TQ> bool completes(std::int32_t layer, query_view<TQ> const& q) const {
    return state_.come[layer] + q.rows.tokens == state_.total;
  }
  score_view mass_of(std::int32_t layer) const {
    return collects(layer) ? state_.mass(collecting_below(layer), model_.heads) : score_view{};
  }
  bool band_scored(std::int32_t band) const {
    return state_.scored[band] == schedule_.bands[band].last - schedule_.bands[band].first + 1;
  }

  /// Whether `attend` beats `decode`, as pipeline::are_many, by the mean over the sequences.
  template <class TQ> bool are_many(query_view<TQ> const& q) const {
    constexpr std::int64_t many_rows = 64;
    return std::int64_t{q.rows.tokens} * (model_.heads / model_.kv_heads) >= many_rows * q.batch.sequences;
  }

  template <class TQ, class TI, class T>
  status fill(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> const& k,
              rows_view<TI const> const& v, contiguous_cache<T> const& full) const {
    std::int32_t const rows = full.sequences * full.kv_heads;
    if (state_.come[layer] == 0)
      if (status const s = simt::launch({.x = (rows - 1) / detail::forget_all::threads + 1}, 0, exec.stream,
                                        detail::forget_all{full.lengths, rows});
          !s.ok())
        return s;
    return append(exec, k, v, q.batch, full);
  }

  template <class TQ, class TI, class T, class TO>
  status keep_whole(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> const& k,
                    rows_view<TI const> const& v, ragged_cache<T> const& kept, rows_view<TO> const& out,
                    attend_taps const& taps, workspace const& work) {
    if (drops(layer)) {
      if (status const s = lay_out(exec, state_.kept, state_.sequences, model_.kv_heads, state_.new_tokens,
                                   kept.extents, state_.slots);
          !s.ok())
        return s;
    } else if (state_.come[layer] == 0) {
      detail::lay_out_prompt const kernel{state_.counts, state_.sequences, model_.kv_heads, state_.new_tokens,
                                          kept.extents};
      if (status const s = simt::launch({}, 0, exec.stream, kernel); !s.ok()) return s;
    }
    if (status const s = append(exec, k, v, q.batch, kept); !s.ok()) return s;
    return attend_by(exec, layer, q, kept, out, taps, work);
  }

  /// Whether the layer attends to all that has come with the plan that layers share, and whether it is there.
  bool shares_plan(std::int32_t layer) const {
    return plan_memory_.data != nullptr && !pattern_.varies() && !drops(layer) &&
           schedule_.layers[layer].when != evict_when::before_attending;
  }
  template <class TQ> bool has_plan(std::int32_t layer, query_view<TQ> const& q) const {
    return plan_.tiles != nullptr && planned_after_ == state_.come[layer] && planned_queries_ == q.rows.tokens;
  }
  template <class TQ, class T>
  std::size_t plan_bytes_of(gpu const& exec, std::int32_t layer, query_view<TQ> const& q,
                            layer_storage<T> const& own) const {
    return needs_full(layer) ? plan_workspace(exec, pattern_[0], q, own.full, heads_hold::the_same)
                             : plan_workspace(exec, pattern_[0], q, own.kept, heads_hold::the_same);
  }

  template <class TQ, Cache C, class TO>
  status attend_by(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, C const& cache,
                   rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
    if (!shares_plan(layer)) return attend(exec, pattern_[layer], q, cache, out, taps, work);
    if (!has_plan(layer, q)) {
      if (status const s = plan(exec, pattern_[layer], q, cache, plan_memory_, plan_, heads_hold::the_same); !s.ok())
        return s;
      planned_after_ = state_.come[layer];
      planned_queries_ = q.rows.tokens;
    }
    return attend(exec, pattern_[layer], plan_, q, cache, out, taps, work);
  }

  template <class TQ, class T, class TO>
  status prune_then_attend(gpu const& exec, std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const& own,
                           rows_view<TO> const& out, attend_taps const& taps, memory_map const& m) const {
    evidence<P, TQ> const none{pattern_[layer], q, nullptr, 0};
    source_view const source = state_.band_source(schedule_.layers[layer].source, model_.kv_heads);
    if (status const s = evict(exec, layer, none, source, own, m); !s.ok()) return s;
    for (std::int32_t s = 0, begin = 0; s < state_.sequences; begin += state_.tokens[s], ++s) {
      std::int32_t const count = state_.tokens[s];
      query_view<TQ> one = q;
      one.rows.data = q.rows.row(0, begin);
      one.rows.tokens = count;
      one.batch = {1, nullptr, q.batch.positions + begin};
      rows_view<TO> one_out = out;
      one_out.data = out.row(0, begin);
      one_out.tokens = count;
      attend_taps one_taps = taps;
      one_taps.lse += begin;
      contiguous_cache<T> const full = one_sequence(own.full, s);
      bool const alike = full.value_dim == 0;
      self_view<T> const self{
          {full.keys, model_.kv_heads, count, model_.dim, full.head_stride, full.token_stride},
          {full.values, model_.kv_heads, count, model_.value_width(), alike ? full.head_stride : full.value_head_stride,
           alike ? full.token_stride : full.value_token_stride}};
      if (status const r =
              attend(exec, pattern_[layer], one, one_sequence(own.kept, s), self, one_out, one_taps, m.rest);
          !r.ok())
        return r;
    }
    return {};
  }

  template <class TQ, class T, class TO>
  status attend_then_evict(gpu const& exec, std::int32_t layer, query_view<TQ> const& q,
                           layer_storage<T> const* storage, rows_view<TO> const& out, attend_taps const& taps,
                           memory_map const& m) {
    contiguous_cache<T> const& full = storage[layer].full;
    if (status const s = attend_by(exec, layer, q, full, out, taps, m.rest); !s.ok()) return s;
    evidence<P, TQ> seen{pattern_[layer], q, taps.lse, taps.lse_stride, mass_of(layer)};
    if (shares_plan(layer)) seen.plan = &plan_;
    if constexpr (mass_queries > 0)
      if (collects(layer))
        if (status const s = detail::add_chunk_mass(exec, seen, full, mass_queries, base::mass_by, state_.counts,
                                                    state_.to_come, m.mass, m.rest);
            !s.ok())
          return s;
    if (!completes(layer, q)) return {};

    if constexpr (cross_layer) {
      if (status const s = note(exec, full); !s.ok()) return s;
      if (status const s = score_sources(exec, layer, seen, full, m); !s.ok()) return s;
      std::int32_t const first = schedule_.first_dropping();
      if (first < model_.layers && schedule_.bands[schedule_.layers[first].source].last == layer)
        if (status const s = choose_rows(exec, layer, full, m); !s.ok()) return s;
    }
    for (std::int32_t l = 0; l <= layer; ++l)
      if (needs_full(l) && evicts_at(l) == layer) {
        std::int32_t const band = schedule_.layers[l].source;
        source_view source{};
        if constexpr (cross_layer)
          source =
              band < 0 ? state_.source_of(m.own_source, model_.kv_heads) : state_.band_source(band, model_.kv_heads);
        if (status const s = evict(exec, l, seen, source, storage[l], m); !s.ok()) return s;
      }
    return {};
  }

  /// Where the tokens of the prompt are, beside a source's scores.
  template <class T> status note(gpu const& exec, contiguous_cache<T> const& full) const {
    using kernel = detail::note_positions<T>;
    return simt::launch({.x = (state_.longest + kernel::threads - 1) / kernel::threads, .y = state_.sequences}, 0,
                        exec.stream, kernel{full, state_.longest, state_.positions});
  }

  template <class TQ, class T>
  status score_sources(gpu const& exec, std::int32_t layer, evidence<P, TQ> const& seen,
                       contiguous_cache<T> const& full, memory_map const& m) const {
    Compressor const& c = compressor_[layer];
    bool const own_score = schedule_.layers[layer].source < 0;
    if (!own_score && !schedule_.in_any_band(layer)) return {};
    score_view const scores = state_.scores_in(m.scores, model_.kv_heads);
    if (status const s = score(exec, c.estimator.source, seen, full, source_view{}, scores, m.rest); !s.ok()) return s;
    auto const fold = [&](bool first, source_view const& source) {
      return accumulate_source(exec, c.estimator, c.protect, scores, full, first, source, m.rest);
    };
    for (std::int32_t b = 0; b < schedule_.band_count; ++b)
      if (schedule_.in_band(b, layer)) {
        if (status const s = fold(state_.scored[b] == 0, state_.band_source(b, model_.kv_heads)); !s.ok()) return s;
        ++state_.scored[b];
      }
    return own_score ? fold(true, state_.source_of(m.own_source, model_.kv_heads)) : status{};
  }

  template <class T>
  status choose_rows(gpu const& exec, std::int32_t layer, contiguous_cache<T> const& full, memory_map const& m) const {
    source_view const source = state_.band_source(schedule_.layers[schedule_.first_dropping()].source, model_.kv_heads);
    if (status const s = select(exec, detail::one_set(compressor_[layer]), source.scores, full, state_.kept, m.rest,
                                layer_position{layer, model_.layers});
        !s.ok())
      return s;
    *state_.chosen = 1;
    return {};
  }

  template <class TQ, class T>
  status evict(gpu const& exec, std::int32_t layer, evidence<P, TQ> const& seen, source_view const& source,
               layer_storage<T> const& own, memory_map const& m) const {
    Compressor const& c = compressor_[layer];
    score_view const scores = state_.scores_in(m.scores, model_.kv_heads);
    if (status const s = score(exec, c.estimator, seen, own.full, source, scores, m.rest); !s.ok()) return s;
    if (status const s = select(exec, c, scores, own.full, m.kept, m.rest, layer_position{layer, model_.layers});
        !s.ok())
      return s;
    if (status const s =
            lay_out(exec, m.kept, state_.sequences, model_.kv_heads, state_.new_tokens, own.kept.extents, state_.slots);
        !s.ok())
      return s;
    if (status const s = compact(exec, m.kept, own.full, own.kept); !s.ok()) return s;
    state_.evicted[layer] = 1;
    return {};
  }

  detail::prompt_on_gpu state_;
  workspace plan_memory_;
  tile_plan plan_;
  // The queries that it was made for: so many, after so many others.
  std::int32_t planned_queries_ = 0;
  std::int64_t planned_after_ = 0;
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
