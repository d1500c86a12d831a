// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/append.hpp>
#include <purekv/attend.hpp>
#include <purekv/compact.hpp>
#include <purekv/decode.hpp>
#include <purekv/detail/appended_cache.hpp>
#include <purekv/detail/chunk_mass.hpp>
#include <purekv/detail/kept_plan.hpp>
#include <purekv/detail/pipeline_base.hpp>
#include <purekv/detail/prefill_memory.hpp>
#include <purekv/detail/prompt_cache.hpp>
#include <purekv/detail/prompt_state.hpp>
#include <purekv/layer_storage.hpp>
#include <purekv/score.hpp>
#include <purekv/select.hpp>
#include <purekv/take_back.hpp>

namespace purekv::inline v0_1 {

/// The two kinds of work in a prefill call: caching and attending; scoring, selecting and compacting.
enum class pipeline_phase : std::int32_t { attending, compressing };

/// Called by rank 0 whenever a prefill call turns to the other kind of work, for engines that measure.
struct phase_listener {
  void (*entered)(void* context, pipeline_phase phase) = nullptr;
  void* context = nullptr;
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// A compressor and a pattern over all layers of a model: told once about the model and its schedule, called once per
/// layer. A small host value that owns no memory: `begin` lends it some for a prompt. `prefill` and `decode` run on the
/// caller's threads like every operation; an error leaves every `kept` as it was, `full` is scratch.
template <class Compressor, Pattern P> class pipeline : public detail::pipeline_base<Compressor, P> {
  using base = detail::pipeline_base<Compressor, P>;
  using base::collecting_below;
  using base::collects;
  using base::compressor_;
  using base::model_;
  using base::pattern_;
  using base::schedule_;
  static constexpr bool cross_layer = base::cross_layer;
  static constexpr std::int32_t mass_queries = base::mass_queries;
  static constexpr mass_reduction mass_by = base::mass_by;

 public:
  using base::check;
  using base::drops;
  using base::evicts_at;
  using base::keeps_full;
  using base::kept_slots;
  using base::kept_tokens;
  using base::needs_full;

  /// compressor, pattern: one for all layers, or an array with one for each: estimators with views of a layer's own
  /// data, every other layer with a sliding window.
  pipeline(model_shape const& model, schedule const& plan, per_layer<Compressor> const& compressor,
           per_layer<P> const& pattern)
      : base(model, plan, compressor, pattern) {}

  void listen(phase_listener const& listener) { listener_ = listener; }

  /// The rows of the prompt that enter the layers that drop, one list per sequence: tokens(s) are ascending indices
  /// into the rows of sequence s, count(s) of them. The last row, whose logits an engine wants, is always there; more
  /// such rows are the compressor's to pin. They lie in the lent state; no rows before the source's last layer has had
  /// its prompt.
  selection kept_rows() const { return state_.chosen != nullptr && *state_.chosen != 0 ? state_.kept : selection{}; }
  /// Whether `full` of this layer is not needed any more for this prompt.
  bool released(std::int32_t layer) const { return state_.evicted[layer] != 0; }

  /// Memory `begin` wants for prompts of at most `prompt_tokens` tokens.
  std::size_t state_bytes(std::int32_t sequences, std::int32_t prompt_tokens) const {
    detail::carve memory;
    detail::prompt_state::take(memory, model_, schedule_, collecting_below(model_.layers), sequences, prompt_tokens);
    return memory.bytes();
  }

  /// Memory `prefill` wants for this prompt in one call; only the shape and the positions of `q` are read. T: the
  /// caches' element.
  template <Element T, class TQ> std::size_t prefill_workspace(cpu exec, query_view<TQ> const& q) const {
    std::size_t most = 0;
    for (std::int32_t l = 0; l < (pattern_.varies() || schedule_.chunked ? model_.layers : 1); ++l) {
      std::size_t const bytes = whole_memory<T>(exec, l, q, nullptr, detail::carve{}).bytes;
      most = bytes > most ? bytes : most;
    }
    return most;
  }

  /// The same for the next chunk of a prompt in this layer; of the caches positions and lengths are read too.
  template <class T, class TQ>
  std::size_t prefill_workspace(cpu exec, std::int32_t layer, query_view<TQ> const& q,
                                layer_storage<T> const* storage) const {
    tile_plan const* const plan = kept_plan_of(layer, q, storage);
    if (schedule_.layers[layer].when == evict_when::never)
      return with_cache(layer, q, storage, [&](auto const& cache) {
        return plan != nullptr ? attend_workspace(exec, *plan, q, cache)
                               : attend_workspace(exec, pattern_[layer], q, cache);
      });
    return schedule_.chunked ? chunk_memory(exec, layer, q, storage[layer].full, plan, detail::carve{}).bytes
                             : whole_memory<T>(exec, layer, q, plan, detail::carve{}).bytes;
  }

  /// Memory `keep_plan` wants for these queries, the next of the prompt; 0 where it would serve nothing. Of the caches
  /// positions and lengths are read.
  template <class T, class TQ> std::size_t plan_bytes(query_view<TQ> const& q, layer_storage<T> const* storage) const {
    if (pattern_.varies()) return 0;
    return with_cache(0, q, storage,
                      [&](auto const& cache) { return detail::kept_plan::bytes(pattern_[0], q, cache); });
  }

  /// Lends memory for the plan of the prompt, until the next keep_plan or begin: the first layer that attends to the
  /// whole prompt makes it, and those that attend to the same positions use it, for attention and for the mass of all
  /// queries, with the same bits as without. Where positions differ, as in the next chunk, it is made anew; layers that
  /// prune first or drop plan by themselves, and so do all where the pattern is an array. Null memory: they all do.
  /// Between calls for layers, by one thread. Too little memory for the plan is an error of `prefill`, before anything
  /// is written.
  status keep_plan(workspace const& memory) {
    if (!state_.started()) return {errc::not_ready, "pipeline: begin() has not been called"};
    return plan_.lend(memory);
  }

  /// Memory `decode` wants for queries of this shape, up to the capacity of `kept`; for many of them, for these
  /// positions after what `kept` holds now.
  template <class T, class TQ>
  std::size_t decode_workspace(cpu exec, std::int32_t layer, query_view<TQ> const& q,
                               layer_storage<T> const* storage) const {
    if (are_many(q)) return attend_workspace(exec, pattern_[layer], q, appended(storage[layer].kept, q));
    return purekv::decode_workspace(exec, pattern_[layer], q, detail::full_cache<T>{storage[layer].kept},
                                    attend_taps{});
  }

  /// Starts a prompt: tokens[s] tokens for sequence s, and room for new_tokens more each. `state` is lent until the
  /// next begin. One thread calls it.
  status begin(std::int32_t sequences, std::int32_t const* tokens, std::int32_t new_tokens, workspace state) {
    if (status const s = check(); !s.ok()) return s;
    if (sequences <= 0 || new_tokens < 0)
      return {errc::bad_shape, "pipeline::begin: sequences must be positive, new_tokens not negative"};
    if (tokens == nullptr) return {errc::null_data, "pipeline::begin: tokens is null"};
    std::int32_t longest = 0;
    for (std::int32_t s = 0; s < sequences; ++s) {
      if (tokens[s] < 0) return {errc::bad_shape, "pipeline::begin: a prompt has a negative number of tokens"};
      longest = tokens[s] > longest ? tokens[s] : longest;
    }
    detail::carve memory{state};
    detail::prompt_state const next =
        detail::prompt_state::take(memory, model_, schedule_, collecting_below(model_.layers), sequences, longest);
    if (!memory.fits()) return {errc::workspace_too_small, "pipeline::begin: state smaller than state_bytes()"};
    state_ = next;
    state_.start(tokens, new_tokens);
    plan_ = {};
    return {};
  }

  /// One layer of the prompt: caches k and v, attends, and evicts what the schedule says is due, in this layer and in
  /// those that were waiting for it. Layers come in order, each with all queries of the prompt in one call, those that
  /// drop with the queries of kept_rows(). Under a chunked schedule, and where no layer ever evicts, a call may bring
  /// any number of the next queries of each sequence instead; a layer is through when begin()'s tokens have come.
  /// q : [heads, queries, dim], k : [kv_heads, queries, dim], v : [kv_heads, queries, value dim],
  /// out : [heads, queries, value dim], storage : [layers]. lse, if not null: the log-sum-exp of the layer's attention,
  /// base 2, [heads, queries] with rows lse_stride apart.
  template <class TQ, class TI, class T, class TO>
  status prefill(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k, rows_view<TI const> v,
                 layer_storage<T> const* storage, rows_view<TO> out, workspace work, float* lse = nullptr,
                 std::ptrdiff_t lse_stride = 0) const {
    if (status const s = check_out(q, out); !s.ok()) return s;
    if (lse != nullptr)
      if (status const s = detail::check_lse(q, lse_stride); !s.ok()) return s;
    return pass(exec, layer, q, k, v, storage, attention_here<TO>{out, {.lse = lse, .lse_stride = lse_stride}}, work);
  }

  /// The same without attention, for engines that attend with a kernel of their own: caches k and v, and evicts what is
  /// due. lse: that attention's log-sum-exp, base 2, [heads, queries] with rows lse_stride apart; may be null where no
  /// estimator reads this layer's attention mass. Layers that prune first are to attend to `kept` and themselves
  /// afterwards, those that drop to `kept`, all others to the whole prompt.
  template <class TQ, class TI, class T>
  status cache_prompt(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k,
                      rows_view<TI const> v, layer_storage<T> const* storage, float const* lse,
                      std::ptrdiff_t lse_stride, workspace work) const {
    return pass(exec, layer, q, k, v, storage, attention_elsewhere{lse, lse_stride}, work);
  }

  /// New tokens of every sequence, one of an answer, a few that are to be verified or the hundreds of a next question:
  /// caches k and v, attends to what the layer keeps. Same arguments as prefill.
  template <class TQ, class TI, class T, class TO>
  status decode(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k, rows_view<TI const> v,
                layer_storage<T> const* storage, rows_view<TO> out, workspace work) const {
    if (status const s = check_call(layer, q, k, v, storage); !s.ok()) return s;
    if (status const s = check_out(q, out); !s.ok()) return s;
    if (!state_.is_through(layer))
      return {errc::not_ready, "pipeline::decode: this layer has not been through its prompt yet"};
    ragged_cache<T> const& kept = storage[layer].kept;
    if (status const s = append(exec, k, v, q.batch, kept); !s.ok()) return s;
    status const result = are_many(q) ? attend(exec, pattern_[layer], q, kept, out, attend_taps{}, work)
                                      : purekv::decode(exec, pattern_[layer], q, kept, out, attend_taps{}, work);
    if (!result.ok()) detail::shorten(exec, kept, [&](std::int32_t s) { return q.count(s); });
    return result;
  }

  /// The newest tokens[s] of those that came after the prompt of sequence s are gone from all layers, as if they had
  /// never been decoded: rejected drafts, a question that was answered. What was evicted for good is not asked back:
  /// tokens of the prompt cannot be taken back. tokens : [sequences]. On error no length changes.
  template <class T> status take_back(cpu exec, std::int32_t const* tokens, layer_storage<T> const* storage) const {
    if (!state_.started()) return {errc::not_ready, "pipeline: begin() has not been called"};
    if (tokens == nullptr || storage == nullptr)
      return {errc::null_data, "pipeline::take_back: tokens or storage is null"};
    for (std::int32_t l = 0; l < model_.layers; ++l) {
      if (!state_.is_through(l))
        return {errc::not_ready, "pipeline::take_back: a layer has not been through its prompt yet"};
      ragged_cache<T> const& kept = storage[l].kept;
      if (status const s = detail::check_kept(state_, slots_of(l), kept); !s.ok()) return s;
      for (std::int32_t s = 0; s < state_.sequences; ++s)
        for (std::int32_t h = 0; h < model_.kv_heads; ++h) {
          std::int32_t const of_prompt = kept.capacity(s, h) - state_.new_tokens;
          if (tokens[s] < 0) return {errc::bad_shape, "pipeline::take_back: a number of tokens is negative"};
          if (tokens[s] > kept.length(s, h) - of_prompt)
            return {errc::capacity_exceeded, "pipeline::take_back: a head holds fewer tokens from after its prompt"};
        }
    }
    for (std::int32_t l = 0; l < model_.layers; ++l)
      detail::shorten(exec, storage[l].kept, [&](std::int32_t s) { return tokens[s]; });
    return {};
  }

 private:
  /// What a call works in, for a prompt at once and for a chunk of one.
  template <class T, class TQ>
  detail::prefill_memory whole_memory(cpu exec, std::int32_t layer, query_view<TQ> const& q, tile_plan const* plan,
                                      detail::carve const& memory) const {
    evidence<P, TQ> const seen{pattern_[layer], q, nullptr, 0, score_view{}, plan};
    auto const range = [&](std::int32_t s) { return detail::among_the_last(mass_queries, q.count(s), 0); };
    return detail::prefill_memory::take(exec, compressor_[layer], seen, prompt_shape<T>(q), collects(layer), range,
                                        memory);
  }
  template <class T, class TQ>
  detail::prefill_memory chunk_memory(cpu exec, std::int32_t layer, query_view<TQ> const& q,
                                      contiguous_cache<T> const& full, tile_plan const* plan,
                                      detail::carve const& memory) const {
    evidence<P, TQ> const seen{pattern_[layer], q, nullptr, 0, mass_of(layer), plan};
    auto const range = [&](std::int32_t s) { return collected(layer, q, s); };
    return detail::prefill_memory::take(exec, compressor_[layer], seen, appended(state_.so_far(layer, full), q),
                                        collects(layer), range, memory);
  }

  template <class TQ, class TI, class T>
  status check_call(std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> const& k,
                    rows_view<TI const> const& v, layer_storage<T> const* storage) const {
    if (!state_.started()) return {errc::not_ready, "pipeline: begin() has not been called"};
    if (layer < 0 || layer >= model_.layers) return {errc::bad_shape, "pipeline: no such layer"};
    if (storage == nullptr) return {errc::null_data, "pipeline: storage is null"};
    return detail::check_vectors(state_, q, k, v);
  }

  template <class TQ, class TO> status check_out(query_view<TQ> const& q, rows_view<TO> const& out) const {
    if (out.heads != q.rows.heads || out.dim != model_.value_width() || out.tokens != q.rows.tokens)
      return {errc::mismatch, "pipeline: out differs from the queries in heads, tokens or dim"};
    if (q.rows.tokens > 0 && out.data == nullptr) return {errc::null_data, "pipeline: out is null"};
    return {};
  }

  template <class TQ, class T>
  status check_prompt(std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const* storage) const {
    if (status const s = detail::check_batch(q.batch, q.rows.tokens); !s.ok()) return s;
    if (state_.passed[layer] != 0)
      return {errc::bad_policy, "pipeline::prefill: this layer has had its prompt; call begin() for the next"};
    if (drops(layer))
      if (status const s = detail::check_kept_rows(state_, q); !s.ok()) return s;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      if (state_.left_after(layer, q, s) < 0)
        return {errc::mismatch, "pipeline::prefill: a sequence gets more tokens than begin() was told"};
    bool const completes = state_.completed_by(layer, q);
    if (!completes && !schedule_.chunked && schedule_.evicts())
      return {errc::bad_policy,
              "pipeline::prefill: a prompt in chunks needs schedule::chunked; without it give all queries at once"};
    for (std::int32_t s = 0; s < state_.sequences; ++s) {
      if (q.count(s) == 0) continue;
      std::int32_t const last = q.batch.positions[q.end(s) - 1];
      if constexpr (requires(P const& pattern) { pattern.check(last); })
        if (status const r = pattern_[layer].check(last); !r.ok()) return r;
      auto const& protect = compressor_[layer].protect;
      if (status const r = protect.check(last); !r.ok()) return r;
      if (schedule_.layers[layer].when == evict_when::before_attending &&
          detail::is_evicted(protect, q.batch.positions[q.begin(s)], last))
        return {errc::bad_policy,
                "pipeline::prefill: a layer that prunes first would evict what its prompt sees; let one with a window "
                "evict after attending"};
    }
    layer_plan const& plan = schedule_.layers[layer];
    if (!needs_full(layer)) return detail::check_kept(state_, slots_of(layer), storage[layer].kept);
    if (status const s = detail::check_full(state_, layer, storage[layer].full); !s.ok() || !completes) return s;
    if (plan.source >= 0) {
      bool const scores_last = schedule_.bands[plan.source].last >= layer;
      if (!scores_last && !state_.band_scored(plan.source))
        return {errc::not_ready, "pipeline::prefill: the source of this layer has not been scored yet"};
    }
    for (std::int32_t b = 0; b < schedule_.band_count; ++b)
      if (schedule_.in_band(b, layer) && state_.scored[b] != layer - schedule_.bands[b].first)
        return {errc::not_ready, "pipeline::prefill: a layer of this source was left out; layers come in order"};
    for (std::int32_t l = 0; l <= layer; ++l)
      if (needs_full(l) && evicts_at(l) == layer) {
        if (l < layer && state_.passed[l] == 0)
          return {errc::not_ready, "pipeline::prefill: a layer that evicts now has not had its whole prompt"};
        if (status const s = detail::check_kept(state_, slots_of(l), storage[l].kept); !s.ok()) return s;
      }
    return {};
  }

  /// Slots that `kept` of this layer needs for the whole batch.
  std::int64_t slots_of(std::int32_t layer) const {
    std::int64_t slots = 0;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      slots += needs_full(layer) ? kept_slots(layer, state_.tokens[s], state_.new_tokens)
                                 : std::int64_t{model_.kv_heads} * (state_.rows_of(layer, s) + state_.new_tokens);
    return slots;
  }

  /// Whether `attend` beats `decode`: from 64 rows (query, head of the group) of a sequence on it takes 0.6 to 1 times
  /// as long, and memory that does not grow with queries times tokens.
  template <class TQ> bool are_many(query_view<TQ> const& q) const {
    std::int32_t most = 0;
    for (std::int32_t s = 0; s < q.batch.sequences; ++s) most = q.count(s) > most ? q.count(s) : most;
    constexpr std::int32_t many_rows = 64;
    return std::int64_t{most} * (model_.heads / model_.kv_heads) >= many_rows;
  }
  template <Cache C, class TQ> static detail::appended_cache<C> appended(C const& cache, query_view<TQ> const& q) {
    return {cache, q.batch, q.rows.tokens};
  }
  /// f(what the layer attends to with these queries, unless it prunes first).
  template <class T, class TQ, class F>
  auto with_cache(std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const* storage, F const& f) const {
    if (!state_.fed_any(layer)) return f(prompt_shape<T>(q));
    if (!needs_full(layer)) return f(appended(storage[layer].kept, q));
    return f(appended(state_.so_far(layer, storage[layer].full), q));
  }

  /// Whether the layer attends to the whole prompt by the pattern of all layers, and there is memory for its plan.
  bool shares_plan(std::int32_t layer) const {
    return plan_.lent() && !pattern_.varies() && !drops(layer) &&
           schedule_.layers[layer].when != evict_when::before_attending;
  }
  template <class T, class TQ>
  tile_plan const* kept_plan_of(std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const* storage) const {
    if (!shares_plan(layer)) return nullptr;
    return with_cache(layer, q, storage, [&](auto const& cache) { return plan_.find(q, cache); });
  }

  score_view mass_of(std::int32_t layer) const {
    return collects(layer) ? state_.mass(collecting_below(layer)) : score_view{};
  }
  /// Which of these queries of sequence s count for it.
  template <class TQ> query_range collected(std::int32_t layer, query_view<TQ> const& q, std::int32_t s) const {
    return detail::among_the_last(mass_queries, q.count(s), state_.left_after(layer, q, s));
  }

  /// Who computes a layer's attention to the whole prompt, and where its log-sum-exp is found then.
  template <class TO> struct attention_here {
    static constexpr bool here = true;
    rows_view<TO> out;
    attend_taps taps;
  };
  struct attention_elsewhere {
    static constexpr bool here = false;
    float const* lse;
    std::ptrdiff_t lse_stride;
  };

  template <class TQ, class TI, class T, class Attention>
  status pass(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k, rows_view<TI const> v,
              layer_storage<T> const* storage, Attention const& attention, workspace work) const {
    if (status const s = check_call(layer, q, k, v, storage); !s.ok()) return s;
    if (status const s = check_prompt(layer, q, storage); !s.ok()) return s;
    layer_plan const& plan = schedule_.layers[layer];
    layer_storage<T> const& own = storage[layer];
    exec.sync();  // every rank has checked; from here on lengths and state change
    enter(exec, pipeline_phase::attending);

    tile_plan shared;
    if (shares_plan(layer)) {
      status const s = with_cache(layer, q, storage, [&](auto const& cache) {
        return plan_.find_or_make(exec, pattern_[layer], q, cache, shared);
      });
      if (!s.ok()) return s;
    }
    tile_plan const* const tiles = shares_plan(layer) ? &shared : nullptr;
    if (plan.when == evict_when::never) return keep_whole(exec, layer, q, k, v, own.kept, attention, tiles, work);

    detail::carve const carved{work};
    detail::prefill_memory const memory = schedule_.chunked ? chunk_memory(exec, layer, q, own.full, tiles, carved)
                                                            : whole_memory<T>(exec, layer, q, tiles, carved);
    if (!memory.fits)
      return {errc::workspace_too_small, "pipeline::prefill: workspace smaller than prefill_workspace()"};
    if (drops(layer)) return keep_whole(exec, layer, q, k, v, own.kept, attention, tiles, memory.rest);

    if (exec.rank() == 0)
      for (std::int32_t i = 0; i < state_.sequences * model_.kv_heads; ++i)
        own.full.lengths[i] = state_.lengths_of(layer)[i];
    exec.sync();
    if (status const s = append(exec, k, v, q.batch, own.full); !s.ok()) return s;
    status const result = plan.when == evict_when::before_attending
                              ? prune_then_attend(exec, layer, q, own, attention, memory)
                              : attend_then_evict(exec, layer, q, storage, attention, tiles, memory);
    if (result.ok()) state_.advance(exec, layer, q);
    return result;
  }

  template <class T> void lay_out_whole(std::int32_t layer, ragged_cache<T> const& kept) const {
    std::int64_t begin = 0;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      for (std::int32_t h = 0; h < model_.kv_heads; ++h) {
        std::int32_t const capacity = state_.rows_of(layer, s) + state_.new_tokens;
        kept.at(s, h) = {begin, 0, capacity};
        begin += capacity;
      }
  }

  template <class TQ, class TI, class T, class Attention>
  status keep_whole(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k, rows_view<TI const> v,
                    ragged_cache<T> const& kept, Attention const& attention, tile_plan const* tiles,
                    workspace work) const {
    if (exec.rank() == 0 && !state_.fed_any(layer)) lay_out_whole(layer, kept);
    exec.sync();
    if (status const s = append(exec, k, v, q.batch, kept); !s.ok()) return s;
    status result;
    if constexpr (Attention::here)
      result = attend_by(exec, pattern_[layer], tiles, q, kept, attention.out, attention.taps, work);
    if (!result.ok()) detail::shorten(exec, kept, [&](std::int32_t s) { return q.count(s); });
    if (result.ok()) state_.advance(exec, layer, q);
    return result;
  }

  /// With the plan that the layers share, or one of its own.
  template <class TQ, Cache C, class TO>
  static status attend_by(cpu exec, P const& pattern, tile_plan const* tiles, query_view<TQ> const& q, C const& cache,
                          rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
    return tiles != nullptr ? attend(exec, pattern, *tiles, q, cache, out, taps, work)
                            : attend(exec, pattern, q, cache, out, taps, work);
  }

  template <class TQ, class T, class Attention>
  status prune_then_attend(cpu exec, std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const& own,
                           Attention const& attention, detail::prefill_memory const& memory) const {
    enter(exec, pipeline_phase::compressing);
    P const& pattern = pattern_[layer];
    evidence<P, TQ> const none{pattern, q, nullptr, 0};
    if (status const s = evict(exec, layer, none, state_.band_source(schedule_.layers[layer].source), own, memory);
        !s.ok())
      return s;
    if constexpr (Attention::here) return attend_to_kept(exec, pattern, q, own, attention, memory.rest);
    return {};
  }

  template <class TQ, class T, class TO>
  status attend_to_kept(cpu exec, P const& pattern, query_view<TQ> const& q, layer_storage<T> const& own,
                        attention_here<TO> const& attention, workspace work) const {
    enter(exec, pipeline_phase::attending);
    for (std::int32_t s = 0; s < state_.sequences; ++s) {
      query_view<TQ> one = q;
      one.rows.data = q.rows.row(0, q.begin(s));
      one.rows.tokens = q.count(s);
      one.batch = {1, nullptr, q.batch.positions + q.begin(s)};
      rows_view<TO> one_out = attention.out;
      one_out.data = attention.out.row(0, q.begin(s));
      one_out.tokens = q.count(s);
      attend_taps taps = attention.taps;
      if (taps.lse != nullptr) taps.lse += q.begin(s);
      contiguous_cache<T> const full = one_sequence(own.full, s);
      bool const alike = full.value_dim == 0;
      self_view<T> const self{
          {full.keys, model_.kv_heads, q.count(s), model_.dim, full.head_stride, full.token_stride},
          {full.values, model_.kv_heads, q.count(s), model_.value_width(),
           alike ? full.head_stride : full.value_head_stride, alike ? full.token_stride : full.value_token_stride}};
      if (status const r = attend(exec, pattern, one, one_sequence(own.kept, s), self, one_out, taps, work); !r.ok())
        return r;
    }
    return {};
  }

  template <class TQ, class T, class Attention>
  status attend_then_evict(cpu exec, std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const* storage,
                           Attention const& attention, tile_plan const* tiles,
                           detail::prefill_memory const& memory) const {
    layer_storage<T> const& own = storage[layer];
    evidence<P, TQ> seen{pattern_[layer], q, memory.lse, q.rows.tokens, mass_of(layer), tiles};
    if constexpr (Attention::here) {
      attend_taps taps = attention.taps;
      if (taps.lse == nullptr) taps = {.lse = memory.lse, .lse_stride = q.rows.tokens};
      seen.lse = taps.lse;
      seen.lse_stride = taps.lse_stride;
      if (status const s = attend_by(exec, seen.pattern, tiles, q, own.full, attention.out, taps, memory.rest); !s.ok())
        return s;
    } else {
      seen.lse = attention.lse;
      seen.lse_stride = attention.lse_stride;
    }
    enter(exec, pipeline_phase::compressing);
    for (std::int32_t s = 0; collects(layer) && s < state_.sequences; ++s) {
      query_range const range = collected(layer, q, s);
      if (status const r = detail::add_chunk_mass(exec, seen, own.full, s, range, mass_by, memory.mass, memory.rest);
          !r.ok())
        return r;
    }
    if constexpr (cross_layer) state_.note_positions(exec, layer, q);
    if (!state_.completed_by(layer, q)) return {};

    if constexpr (cross_layer) {
      layer_plan const& plan = schedule_.layers[layer];
      bool const own_score = plan.source < 0;
      if (own_score || schedule_.in_any_band(layer)) {
        score_view const scores = state_.scores_in(memory.scores);
        auto const& source = compressor_[layer].estimator.source;
        if (status const s = score(exec, source, seen, own.full, source_view{}, scores, memory.rest); !s.ok()) return s;
        for (std::int32_t b = 0; b < schedule_.band_count; ++b)
          if (schedule_.in_band(b, layer))
            if (status const s =
                    fold(exec, layer, scores, own.full, state_.scored[b] == 0, state_.band_source(b), memory.rest);
                !s.ok())
              return s;
        if (own_score)
          if (status const s =
                  fold(exec, layer, scores, own.full, true, state_.source_of(memory.own_source), memory.rest);
              !s.ok())
            return s;
        if (exec.rank() == 0)
          for (std::int32_t b = 0; b < schedule_.band_count; ++b) state_.scored[b] += schedule_.in_band(b, layer);
        exec.sync();
      }
    }
    if constexpr (cross_layer) {
      std::int32_t const first = schedule_.first_dropping();
      if (first < model_.layers && schedule_.bands[schedule_.layers[first].source].last == layer)
        if (status const s = choose_rows(exec, layer, own.full, memory); !s.ok()) return s;
    }
    for (std::int32_t l = 0; l <= layer; ++l)
      if (needs_full(l) && evicts_at(l) == layer) {
        std::int32_t const band = schedule_.layers[l].source;
        source_view source{};
        if constexpr (cross_layer) source = band < 0 ? state_.source_of(memory.own_source) : state_.band_source(band);
        if (status const s = evict(exec, l, seen, source, storage[l], memory); !s.ok()) return s;
      }
    return {};
  }

  template <class T>
  status fold(cpu exec, std::int32_t layer, score_view const& scores, contiguous_cache<T> const& cache, bool first,
              source_view const& source, workspace work) const {
    Compressor const& c = compressor_[layer];
    return accumulate_source(exec, c.estimator, c.protect, scores, cache, first, source, work);
  }

  /// The one set of tokens that goes on above the source, by its score. Value norms stay out: those of the layers that
  /// drop are not known yet, and one layer's would take the same small words out of the middle of a span in all of
  /// them.
  template <class T>
  status choose_rows(cpu exec, std::int32_t layer, contiguous_cache<T> const& full,
                     detail::prefill_memory const& memory) const {
    source_view const source = state_.band_source(schedule_.layers[schedule_.first_dropping()].source);
    auto const c = detail::one_set(compressor_[layer]);
    layer_position const where{layer, model_.layers};
    if (status const s = select(exec, c, source.scores, full, state_.kept, memory.rest, where); !s.ok()) return s;
    if (exec.rank() == 0) *state_.chosen = 1;
    exec.sync();
    return {};
  }

  template <class TQ, class T>
  status evict(cpu exec, std::int32_t layer, evidence<P, TQ> const& seen, source_view const& source,
               layer_storage<T> const& own, detail::prefill_memory const& memory) const {
    score_view const scores = state_.scores_in(memory.scores);
    if (status const s = score(exec, compressor_[layer].estimator, seen, own.full, source, scores, memory.rest);
        !s.ok())
      return s;
    layer_position const where{layer, model_.layers};
    if (status const s = select(exec, compressor_[layer], scores, own.full, memory.kept, memory.rest, where); !s.ok())
      return s;
    if (exec.rank() == 0) lay_out(memory.kept, state_.sequences, model_.kv_heads, state_.new_tokens, own.kept.extents);
    exec.sync();
    if (status const s = compact(exec, memory.kept, own.full, own.kept); !s.ok()) return s;
    if (exec.rank() == 0) state_.evicted[layer] = 1;
    exec.sync();
    return {};
  }

  void enter(cpu exec, pipeline_phase phase) const {
    if (exec.rank() == 0 && listener_.entered != nullptr) listener_.entered(listener_.context, phase);
  }

  /// The cache that holds exactly the prompt of these queries.
  template <class T, class TQ> detail::prompt_cache<T> prompt_shape(query_view<TQ> const& q) const {
    return {q.batch, model_.kv_heads, model_.dim, model_.value_width(), q.rows.tokens};
  }

  phase_listener listener_;
  detail::prompt_state state_;
  detail::kept_plan plan_;
};

template <class C, class P>
pipeline(model_shape const&, schedule const&, C, P)
    -> pipeline<std::remove_cv_t<std::remove_pointer_t<C>>, std::remove_cv_t<std::remove_pointer_t<P>>>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
