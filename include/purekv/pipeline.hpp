// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/append.hpp>
#include <purekv/attend.hpp>
#include <purekv/compact.hpp>
#include <purekv/compressor.hpp>
#include <purekv/decode.hpp>
#include <purekv/detail/appended_cache.hpp>
#include <purekv/detail/carve.hpp>
#include <purekv/detail/chunk_mass.hpp>
#include <purekv/detail/one_set.hpp>
#include <purekv/detail/prompt_cache.hpp>
#include <purekv/per_layer.hpp>
#include <purekv/schedule.hpp>
#include <purekv/score.hpp>
#include <purekv/select.hpp>
#include <purekv/take_back.hpp>

namespace purekv::inline v0_1 {

/// value_dim 0: values are as wide as keys.
struct model_shape {
  std::int32_t layers = 0, heads = 0, kv_heads = 0, dim = 0, value_dim = 0;
};

/// The memory of one layer, all of it the caller's.
/// full : the prompt's keys and values while the layer needs all of them, [sequences, kv_heads, >= tokens]. Layers
///        that do not keep it (keeps_full) may share one; the others have their own until they are released.
/// kept : what the layer keeps, growing while decoding; kept_slots() slots, extents laid out by the pipeline. Needed
///        from the call for layer evicts_at() on; with the last chunk where the prompt comes in chunks.
template <class T> struct layer_storage {
  contiguous_cache<T> full;
  ragged_cache<T> kept;
};

/// What a schedule costs for one prompt. Bytes count keys, values and positions, the room for new tokens included.
struct pipeline_cost {
  std::int64_t peak_bytes = 0;    // while the prompt passes, layer by layer, memory taken as late as possible
  std::int64_t steady_bytes = 0;  // afterwards
  std::int64_t full_bytes = 0;    // a cache that keeps everything
  double pairs = 0;               // (query head, key) pairs computed; above a source with kept tokens evenly spread
  double full_pairs = 0;          // the same with every layer attending to all that its pattern shows
  std::int64_t rows = 0;          // (layer, token) pairs that pass: the work beside attention
  std::int64_t full_rows = 0;
};

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
template <class Compressor, Pattern P> class pipeline {
  using estimator = typename Compressor::estimator_type;
  static constexpr bool cross_layer = CrossLayerEstimator<estimator>;
  using mass_estimator = typename detail::source_or_self<estimator>::type;
  static constexpr std::int32_t mass_queries = mass_estimator::mass_queries;
  static constexpr mass_reduction mass_by = detail::mass_by<mass_estimator>();

 public:
  /// compressor, pattern: one for all layers, or an array with one for each: estimators with views of a layer's own
  /// data, every other layer with a sliding window.
  pipeline(model_shape const& model, schedule const& plan, per_layer<Compressor> const& compressor,
           per_layer<P> const& pattern)
      : model_(model), schedule_(plan), compressor_(compressor), pattern_(pattern) {}

  void listen(phase_listener const& listener) { listener_ = listener; }

  status check() const {
    if (model_.layers <= 0 || model_.heads <= 0 || model_.kv_heads <= 0 || model_.dim <= 0 || model_.value_dim < 0)
      return {errc::bad_shape, "pipeline: layers, heads, kv_heads and dim must be positive, value_dim not negative"};
    if (model_.heads % model_.kv_heads != 0) return {errc::bad_shape, "pipeline: heads is not a multiple of kv_heads"};
    if (schedule_.layer_count != model_.layers)
      return {errc::mismatch, "pipeline: the schedule and the model differ in their number of layers"};
    if (status const s = validate(schedule_); !s.ok()) return s;
    if (pattern_.missing()) return {errc::null_data, "pipeline: patterns is null"};
    if (compressor_.missing()) return {errc::null_data, "pipeline: compressors is null"};
    if (!cross_layer && schedule_.band_count > 0)
      return {errc::bad_policy, "pipeline: the schedule names a source but the estimator is not a cross_layer"};
    for (std::int32_t l = 0; l < (compressor_.varies() ? model_.layers : 1); ++l)
      if (status const s = compressor_[l].budget.check(); !s.ok()) return s;
    return {};
  }

  /// False for layers that never evict or drop: what they get goes straight into `kept`.
  bool needs_full(std::int32_t layer) const {
    return schedule_.layers[layer].when != evict_when::never && !drops(layer);
  }
  /// True for deferred layers, and for all that need it where the prompt comes in chunks.
  bool keeps_full(std::int32_t layer) const {
    return schedule_.layers[layer].when == evict_when::deferred || (schedule_.chunked && needs_full(layer));
  }
  /// The layer whose prefill call fills `kept` of this one.
  std::int32_t evicts_at(std::int32_t layer) const { return schedule_.evicts_at(layer); }
  /// Whether this layer gets the rows of kept_rows() only.
  bool drops(std::int32_t layer) const { return schedule_.layers[layer].when == evict_when::dropping; }
  /// The rows of the prompt that enter the layers that drop, one list per sequence: tokens(s) are ascending indices
  /// into the rows of sequence s, count(s) of them. The last row, whose logits an engine wants, is always there; more
  /// such rows are the compressor's to pin. They lie in the lent state; no rows before the source's last layer has had
  /// its prompt.
  selection kept_rows() const { return state_.chosen != nullptr && *state_.chosen != 0 ? state_.kept : selection{}; }
  /// Whether `full` of this layer is not needed any more for this prompt.
  bool released(std::int32_t layer) const { return state_.evicted[layer] != 0; }

  /// Tokens a head of this layer keeps of a prompt (on average over heads, for budgets across heads).
  std::int32_t kept_tokens(std::int32_t layer, std::int32_t prompt_tokens) const {
    layer_plan const& plan = schedule_.layers[layer];
    if (plan.when == evict_when::never || prompt_tokens <= 0) return prompt_tokens;
    auto const most = [&](auto const& c, std::int32_t where) {
      std::int32_t const budget = c.budget.keep(budget_input{prompt_tokens, where, model_.layers});
      std::int32_t pinned = 0, keepable = 0;
      for (std::int32_t p = 0; p < prompt_tokens; ++p) {
        bool const kept = !detail::is_evicted(c.protect, p, prompt_tokens - 1);
        keepable += kept;
        pinned += kept && c.protect.pinned(p, prompt_tokens - 1);
      }
      std::int32_t const keep = budget > pinned ? budget : pinned;
      return keep < keepable ? keep : keepable;
    };
    if (!drops(layer)) return most(compressor_[layer], layer);
    std::int32_t const chosen_at = schedule_.bands[plan.source].last;
    return most(detail::one_set(compressor_[chosen_at]), chosen_at);
  }

  /// Slots that `kept` of this layer needs for one sequence; sum them for a batch.
  std::int64_t kept_slots(std::int32_t layer, std::int32_t prompt_tokens, std::int32_t new_tokens) const {
    return std::int64_t{model_.kv_heads} * (std::int64_t{kept_tokens(layer, prompt_tokens)} + new_tokens);
  }

  /// Memory `begin` wants for prompts of at most `prompt_tokens` tokens.
  std::size_t state_bytes(std::int32_t sequences, std::int32_t prompt_tokens) const {
    detail::carve memory;
    take_state(memory, sequences, prompt_tokens);
    return memory.bytes();
  }

  /// Memory `prefill` wants for this prompt in one call; only the shape and the positions of `q` are read. T: the
  /// caches' element.
  template <Element T, class TQ> std::size_t prefill_workspace(cpu exec, query_view<TQ> const& q) const {
    std::size_t most = 0;
    for (std::int32_t l = 0; l < (pattern_.varies() || schedule_.chunked ? model_.layers : 1); ++l) {
      prefill_memory<T, TQ> memory;
      std::size_t const bytes = memory.take(*this, exec, l, q, prompt_shape<T>(q), nullptr, detail::carve{});
      most = bytes > most ? bytes : most;
    }
    return most;
  }

  /// The same for the next chunk of a prompt in this layer; of the caches positions and lengths are read too.
  template <class T, class TQ>
  std::size_t prefill_workspace(cpu exec, std::int32_t layer, query_view<TQ> const& q,
                                layer_storage<T> const* storage) const {
    if (!needs_full(layer))
      return fed_any(layer) ? attend_workspace(exec, pattern_[layer], q, appended(storage[layer].kept, q))
                            : attend_workspace(exec, pattern_[layer], q, prompt_shape<T>(q));
    prefill_memory<T, TQ> memory;
    return memory.take(*this, exec, layer, q, appended(so_far(layer, storage[layer].full), q), &state_,
                       detail::carve{});
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
    prompt_state const next = take_state(memory, sequences, longest);
    if (!memory.fits()) return {errc::workspace_too_small, "pipeline::begin: state smaller than state_bytes()"};
    state_ = next;
    state_.sequences = sequences;
    state_.longest = longest;
    state_.new_tokens = new_tokens;
    for (std::int32_t s = 0; s < sequences; ++s) state_.tokens[s] = tokens[s];
    for (std::int32_t l = 0; l < model_.layers; ++l) state_.passed[l] = state_.evicted[l] = 0;
    for (std::int64_t i = 0; i < std::int64_t{model_.layers} * sequences * model_.kv_heads; ++i) state_.fed[i] = 0;
    for (std::int32_t b = 0; b < schedule_.band_count; ++b) state_.scored[b] = 0;
    if (state_.chosen != nullptr) *state_.chosen = 0;
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
    if (!is_through(layer))
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
    if (state_.tokens == nullptr) return {errc::not_ready, "pipeline: begin() has not been called"};
    if (tokens == nullptr || storage == nullptr)
      return {errc::null_data, "pipeline::take_back: tokens or storage is null"};
    for (std::int32_t l = 0; l < model_.layers; ++l) {
      if (!is_through(l)) return {errc::not_ready, "pipeline::take_back: a layer has not been through its prompt yet"};
      ragged_cache<T> const& kept = storage[l].kept;
      if (status const s = check_kept(l, kept); !s.ok()) return s;
      for (std::int32_t s = 0; s < state_.sequences; ++s)
        for (std::int32_t h = 0; h < model_.kv_heads; ++h) {
          std::int32_t const of_prompt = kept.capacity(s, h) - state_.new_tokens;
          if (tokens[s] < 0) return {errc::bad_shape, "pipeline::take_back: a number of tokens is negative"};
          if (tokens[s] > kept.length(s, h) - of_prompt)
            return {errc::capacity_exceeded, "pipeline::take_back: more tokens than have been decoded"};
        }
    }
    for (std::int32_t l = 0; l < model_.layers; ++l)
      detail::shorten(exec, storage[l].kept, [&](std::int32_t s) { return tokens[s]; });
    return {};
  }

  /// For prompts of so many tokens in caches whose elements have `element_bytes` bytes, one sequence.
  pipeline_cost cost(std::int32_t prompt_tokens, std::int32_t new_tokens, std::int32_t element_bytes) const {
    std::int64_t const slot =
        (std::int64_t{model_.dim} + value_dim()) * element_bytes + std::int64_t{sizeof(std::int32_t)};
    std::int64_t const full = std::int64_t{model_.kv_heads} * prompt_tokens * slot;
    double visible = 0;
    pipeline_cost cost;
    for (std::int32_t l = 0; l < model_.layers; ++l) {
      if (l == 0 || pattern_.varies()) visible = visible_pairs(pattern_[l], prompt_tokens) * model_.heads;
      std::int64_t live = 0;
      for (std::int32_t other = 0; other < model_.layers; ++other) {
        bool const from_the_start = schedule_.chunked && !needs_full(other);
        if (evicts_at(other) <= l || from_the_start) live += kept_slots(other, prompt_tokens, new_tokens) * slot;
        if (keeps_full(other) && (other <= l || schedule_.chunked) && l <= evicts_at(other)) live += full;
      }
      if (needs_full(l) && !keeps_full(l)) live += full;
      cost.peak_bytes = live > cost.peak_bytes ? live : cost.peak_bytes;
      cost.steady_bytes += kept_slots(l, prompt_tokens, new_tokens) * slot;
      cost.full_bytes += std::int64_t{model_.kv_heads} * (std::int64_t{prompt_tokens} + new_tokens) * slot;
      bool const pruned = (drops(l) || schedule_.layers[l].when == evict_when::before_attending) && prompt_tokens > 0;
      double const share = pruned ? static_cast<double>(kept_tokens(l, prompt_tokens)) / prompt_tokens : 1.0;
      cost.pairs += visible * share * (drops(l) ? share : 1.0);
      cost.full_pairs += visible;
      cost.rows += drops(l) ? kept_tokens(l, prompt_tokens) : prompt_tokens;
      cost.full_rows += prompt_tokens;
    }
    return cost;
  }

  /// The schedule in words with its cost. Allocates the string; for people, not for engines.
  std::string describe(std::int32_t prompt_tokens, std::int32_t new_tokens, std::int32_t element_bytes) const {
    if (status const s = check(); !s.ok()) return s.message;
    pipeline_cost const c = cost(prompt_tokens, new_tokens, element_bytes);
    std::string text = purekv::describe(schedule_);
    auto percent = [&](double part, double whole) {
      text.append(std::to_string(static_cast<int>(whole > 0 ? 100 * part / whole + 0.5 : 0))).append(" %");
    };
    auto bytes = [&](char const* name, std::int64_t n) {
      text.append(name).append(std::to_string(n)).append(" bytes (");
      percent(static_cast<double>(n), static_cast<double>(c.full_bytes));
      text.append(" of a full cache), ");
    };
    bytes("peak ", c.peak_bytes);
    bytes("steady ", c.steady_bytes);
    text.append("pairs computed ");
    percent(c.pairs, c.full_pairs);
    if (c.rows < c.full_rows) {
      text.append(", rows computed ");
      percent(static_cast<double>(c.rows), static_cast<double>(c.full_rows));
    }
    return text.append("\n");
  }

 private:
  struct prompt_state {
    std::int32_t sequences = 0, longest = 0, new_tokens = 0;
    std::int32_t* tokens = nullptr;     // [sequences]
    std::int32_t* positions = nullptr;  // [sequences, longest]
    std::int32_t* fed = nullptr;        // [layers, sequences, kv_heads] tokens seen, as lengths of a cache
    std::int32_t* passed = nullptr;     // [layers] whether all have been
    std::int32_t* evicted = nullptr;    // [layers]
    std::int32_t* scored = nullptr;     // [bands] layers scored
    float* scores = nullptr;            // [bands, sequences, kv_heads, longest]
    selection kept;                     // the rows that enter the layers that drop
    std::int32_t* chosen = nullptr;     // [1] whether they are known; null where no layer drops
    float* masses = nullptr;            // [layers that collect, sequences, heads, longest], of a prompt in chunks
  };

  /// Everything a prefill call needs beside the operations' own workspaces.
  template <class T, class TQ> struct prefill_memory {
    float* lse;         // [heads, queries]
    float* scores;      // [sequences, kv_heads, longest]
    float* own_source;  // the same, for a cross_layer that is its own source
    float* mass;        // [heads, longest], what a chunk adds to the mass
    selection kept;
    workspace rest;  // lent to one operation after the other
    bool fits;

    /// cache: as it will be when q's tokens are in it. state: null if q is the whole prompt.
    template <Cache C>
    std::size_t take(pipeline const& p, cpu exec, std::int32_t layer, query_view<TQ> const& q, C const& cache,
                     prompt_state const* state, detail::carve memory) {
      std::int32_t const sequences = cache.sequences, kv_heads = cache.kv_heads;
      std::int32_t longest = 0;
      std::int64_t tokens = 0;
      for (std::int32_t s = 0; s < sequences; ++s) {
        longest = cache.length(s, 0) > longest ? cache.length(s, 0) : longest;
        tokens += std::int64_t{kv_heads} * cache.length(s, 0);
      }
      std::int64_t const rows = std::int64_t{sequences} * kv_heads;
      std::int64_t const queries = q.rows.tokens;
      lse = memory.take<float>(p.model_.heads * queries);
      scores = memory.take<float>(rows * longest);
      own_source = memory.take<float>(cross_layer ? rows * longest : 0);
      bool const collects = p.collects(layer);
      mass = memory.take<float>(collects ? std::int64_t{p.model_.heads} * longest : 0);
      kept = {.offset = memory.take<std::int64_t>(rows + 1),
              .token = memory.take<std::int32_t>(tokens),
              .capacity = tokens,
              .rows = static_cast<std::int32_t>(Compressor::scope == selection_scope::layer ? sequences : rows),
              .scope = Compressor::scope};
      attend_taps taps{.lse = lse, .lse_stride = queries};
      std::size_t most = attend_workspace(exec, p.pattern_[layer], q, cache, taps);
      auto cover = [&](std::size_t bytes) { most = bytes > most ? bytes : most; };
      evidence<P, TQ> const seen{p.pattern_[layer], q, lse, queries,
                                 state != nullptr ? p.mass_of(layer) : score_view{}};
      for (std::int32_t s = 0; collects && s < sequences; ++s) {
        std::int32_t const to_come = state != nullptr ? p.left_after(layer, q, s) : 0;
        query_range const range = detail::among_the_last(mass_queries, q.count(s), to_come);
        cover(detail::chunk_mass_workspace(exec, seen, cache, s, range));
      }
      Compressor const& c = p.compressor_[layer];
      cover(score_workspace(exec, c.estimator, seen, cache));
      if constexpr (cross_layer) {
        cover(score_workspace(exec, c.estimator.source, seen, cache));
        cover(accumulate_source_workspace(exec, c.estimator, cache));
      }
      cover(select_workspace(exec, c, cache));
      cover(select_workspace(exec, detail::one_set(c), cache));
      rest = {memory.take<std::byte>(static_cast<std::int64_t>(most)), most};
      fits = memory.fits();
      return memory.bytes();
    }
  };

  prompt_state take_state(detail::carve& memory, std::int32_t sequences, std::int32_t longest) const {
    prompt_state s;
    s.tokens = memory.take<std::int32_t>(sequences);
    s.positions = memory.take<std::int32_t>(std::int64_t{sequences} * longest);
    s.fed = memory.take<std::int32_t>(std::int64_t{model_.layers} * sequences * model_.kv_heads);
    s.passed = memory.take<std::int32_t>(model_.layers);
    s.evicted = memory.take<std::int32_t>(model_.layers);
    s.scored = memory.take<std::int32_t>(schedule_.band_count);
    s.scores = memory.take<float>(schedule_.band_count * (std::int64_t{sequences} * model_.kv_heads * longest));
    if (schedule_.first_dropping() < model_.layers) {
      std::int64_t const rows = std::int64_t{sequences} * longest;
      s.kept = {.offset = memory.take<std::int64_t>(std::int64_t{sequences} + 1),
                .token = memory.take<std::int32_t>(rows),
                .capacity = rows,
                .rows = sequences,
                .scope = selection_scope::layer};
      s.chosen = memory.take<std::int32_t>(1);
    }
    s.masses = memory.take<float>(collecting_below(model_.layers) * (std::int64_t{sequences} * model_.heads * longest));
    return s;
  }

  source_view source_of(float* scores) const {
    return {dense_scores(scores, state_.sequences, model_.kv_heads, state_.longest), state_.positions, state_.longest,
            state_.tokens};
  }
  source_view band_source(std::int32_t band) const {
    return source_of(state_.scores + std::int64_t{band} * state_.sequences * model_.kv_heads * state_.longest);
  }
  bool band_scored(std::int32_t band) const {
    return state_.scored[band] == schedule_.bands[band].last - schedule_.bands[band].first + 1;
  }

  template <class TQ, class TI, class T>
  status check_call(std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> const& k,
                    rows_view<TI const> const& v, layer_storage<T> const* storage) const {
    if (state_.tokens == nullptr) return {errc::not_ready, "pipeline: begin() has not been called"};
    if (layer < 0 || layer >= model_.layers) return {errc::bad_shape, "pipeline: no such layer"};
    if (storage == nullptr) return {errc::null_data, "pipeline: storage is null"};
    if (q.rows.heads != model_.heads || q.rows.dim != model_.dim || q.batch.sequences != state_.sequences)
      return {errc::mismatch,
              "pipeline: queries differ from the model in heads or dim, or from the prompt in sequences"};
    if (k.heads != model_.kv_heads || k.dim != model_.dim || k.tokens != q.rows.tokens || v.heads != model_.kv_heads ||
        v.dim != value_dim() || v.tokens != q.rows.tokens)
      return {errc::mismatch, "pipeline: keys or values differ from the model or the queries"};
    if (q.rows.tokens > 0 &&
        (q.rows.data == nullptr || k.data == nullptr || v.data == nullptr || q.batch.positions == nullptr))
      return {errc::null_data, "pipeline: queries, keys, values or positions are null"};
    return {};
  }

  template <class TQ, class TO> status check_out(query_view<TQ> const& q, rows_view<TO> const& out) const {
    if (out.heads != q.rows.heads || out.dim != value_dim() || out.tokens != q.rows.tokens)
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
      if (status const s = check_kept_rows(q); !s.ok()) return s;
    bool whole = true, evicts = false;
    for (std::int32_t s = 0; s < state_.sequences; ++s) {
      if (left_after(layer, q, s) < 0)
        return {errc::mismatch, "pipeline::prefill: a sequence gets more tokens than begin() was told"};
      whole = whole && left_after(layer, q, s) == 0;
    }
    for (std::int32_t l = 0; l < model_.layers; ++l) evicts = evicts || schedule_.layers[l].when != evict_when::never;
    if (evicts && !whole && !schedule_.chunked)
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
    if (!needs_full(layer)) return check_kept(layer, storage[layer].kept);
    if (status const s = check_full(layer, storage[layer].full); !s.ok() || !whole) return s;
    if (plan.source >= 0) {
      bool const scores_last = schedule_.bands[plan.source].last >= layer;
      if (!scores_last && !band_scored(plan.source))
        return {errc::not_ready, "pipeline::prefill: the source of this layer has not been scored yet"};
    }
    for (std::int32_t b = 0; b < schedule_.band_count; ++b)
      if (schedule_.in_band(b, layer) && state_.scored[b] != layer - schedule_.bands[b].first)
        return {errc::not_ready, "pipeline::prefill: a layer of this source was left out; layers come in order"};
    for (std::int32_t l = 0; l <= layer; ++l)
      if (needs_full(l) && evicts_at(l) == layer) {
        if (l < layer && state_.passed[l] == 0)
          return {errc::not_ready, "pipeline::prefill: a layer that evicts now has not had its whole prompt"};
        if (status const s = check_kept(l, storage[l].kept); !s.ok()) return s;
      }
    return {};
  }

  template <class T> status check_full(std::int32_t layer, contiguous_cache<T> const& full) const {
    if (status const s = full.check(); !s.ok()) return s;
    if (full.sequences != state_.sequences || full.kv_heads != model_.kv_heads || full.dim != model_.dim ||
        value_dim_of(full) != value_dim())
      return {errc::mismatch, "pipeline::prefill: the full cache differs from the model or the prompt"};
    if (full.tokens < state_.longest)
      return {errc::capacity_exceeded, "pipeline::prefill: the full cache is shorter than the prompt"};
    for (std::int32_t i = 0; i < state_.sequences * model_.kv_heads; ++i)
      if (full.lengths[i] < fed_of(layer)[i])
        return {errc::mismatch, "pipeline::prefill: the full cache does not hold the chunks that came before"};
    return {};
  }

  template <class T> status check_kept(std::int32_t layer, ragged_cache<T> const& kept) const {
    if (kept.sequences != state_.sequences || kept.kv_heads != model_.kv_heads || kept.dim != model_.dim ||
        value_dim_of(kept) != value_dim())
      return {errc::mismatch, "pipeline::prefill: the kept cache differs from the model or the prompt"};
    if (kept.extents == nullptr || (kept.slots > 0 && (kept.keys == nullptr || kept.values == nullptr)))
      return {errc::null_data, "pipeline::prefill: keys, values or extents of the kept cache is null"};
    std::int64_t slots = 0;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      slots += needs_full(layer) ? kept_slots(layer, state_.tokens[s], state_.new_tokens)
                                 : std::int64_t{model_.kv_heads} * (rows_of(layer, s) + state_.new_tokens);
    if (kept.slots < slots)
      return {errc::capacity_exceeded, "pipeline::prefill: the kept cache has fewer slots than kept_slots()"};
    return {};
  }

  /// Whether these queries are those of kept_rows().
  template <class TQ> status check_kept_rows(query_view<TQ> const& q) const {
    if (*state_.chosen == 0)
      return {errc::not_ready, "pipeline::prefill: the source of this layer has not been scored yet"};
    if (status const s = detail::check_batch(q.batch, q.rows.tokens); !s.ok()) return s;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      if (q.count(s) != state_.kept.count(s))
        return {errc::mismatch,
                "pipeline::prefill: a layer that drops gets the rows of kept_rows(), no more and no less"};
    for (std::int32_t s = 0; s < state_.sequences; ++s) {
      std::int32_t const* const positions = state_.positions + std::int64_t{s} * state_.longest;
      for (std::int32_t i = 0; i < q.count(s); ++i)
        if (q.batch.positions[q.begin(s) + i] != positions[state_.kept.tokens(s)[i]])
          return {errc::bad_positions,
                  "pipeline::prefill: a layer that drops gets other positions than kept_rows() have"};
    }
    return {};
  }

  /// Whether `attend` beats `decode`: from 64 rows (query, head of the group) of a sequence on it takes 0.6 to 1 times
  /// as long, and memory that does not grow with queries times tokens.
  template <class TQ> bool are_many(query_view<TQ> const& q) const {
    std::int32_t most = 0;
    for (std::int32_t s = 0; s < q.batch.sequences; ++s) most = q.count(s) > most ? q.count(s) : most;
    return std::int64_t{most} * (model_.heads / model_.kv_heads) >= 64;
  }
  bool is_through(std::int32_t layer) const {
    return needs_full(layer) ? released(layer) : state_.passed[layer] != 0 || state_.longest == 0;
  }

  /// Rows of sequence s that enter the layer: in all, so far, and still to come after these queries.
  std::int32_t rows_of(std::int32_t layer, std::int32_t s) const {
    return drops(layer) ? state_.kept.count(s) : state_.tokens[s];
  }
  std::int32_t fed(std::int32_t layer, std::int32_t s) const { return fed_of(layer)[s * model_.kv_heads]; }
  template <class TQ> std::int32_t left_after(std::int32_t layer, query_view<TQ> const& q, std::int32_t s) const {
    return rows_of(layer, s) - fed(layer, s) - q.count(s);
  }

  /// [sequences, kv_heads]
  std::int32_t* fed_of(std::int32_t layer) const {
    return state_.fed + std::int64_t{layer} * state_.sequences * model_.kv_heads;
  }
  bool fed_any(std::int32_t layer) const {
    bool any = false;
    for (std::int32_t s = 0; s < state_.sequences; ++s) any = any || fed(layer, s) > 0;
    return any;
  }
  template <class TQ> void advance(cpu exec, std::int32_t layer, query_view<TQ> const& q) const {
    exec.sync();
    if (exec.rank() == 0) {
      bool all = true;
      for (std::int32_t s = 0; s < state_.sequences; ++s) {
        all = all && left_after(layer, q, s) == 0;
        for (std::int32_t h = 0; h < model_.kv_heads; ++h) fed_of(layer)[s * model_.kv_heads + h] += q.count(s);
      }
      state_.passed[layer] = all;
    }
    exec.sync();
  }

  /// The full cache with what the pipeline knows to be in it.
  template <class T> contiguous_cache<T> so_far(std::int32_t layer, contiguous_cache<T> full) const {
    full.lengths = fed_of(layer);
    return full;
  }
  template <Cache C, class TQ> static detail::appended_cache<C> appended(C const& cache, query_view<TQ> const& q) {
    return {cache, q.batch, q.rows.tokens};
  }

  /// Whether the attention mass of this layer is put together chunk by chunk: it is scored, by an estimator that reads
  /// attention mass.
  bool collects(std::int32_t layer) const {
    if (!schedule_.chunked || mass_queries == 0) return false;
    bool const own_score = needs_full(layer) && schedule_.layers[layer].source < 0;
    return cross_layer ? own_score || schedule_.in_any_band(layer) : needs_full(layer);
  }
  std::int32_t collecting_below(std::int32_t layer) const {
    std::int32_t count = 0;
    for (std::int32_t l = 0; l < layer; ++l) count += collects(l);
    return count;
  }
  score_view mass_of(std::int32_t layer) const {
    if (!collects(layer)) return {};
    std::int64_t const floats = std::int64_t{state_.sequences} * model_.heads * state_.longest;
    return dense_scores(state_.masses + collecting_below(layer) * floats, state_.sequences, model_.heads,
                        state_.longest);
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

    if (plan.when == evict_when::never) return keep_whole(exec, layer, q, k, v, own.kept, attention, work);

    prefill_memory<T, TQ> memory;
    detail::carve carved{work};
    if (schedule_.chunked)
      memory.take(*this, exec, layer, q, appended(so_far(layer, own.full), q), &state_, carved);
    else
      memory.take(*this, exec, layer, q, prompt_shape<T>(q), nullptr, carved);
    if (!memory.fits)
      return {errc::workspace_too_small, "pipeline::prefill: workspace smaller than prefill_workspace()"};
    if (drops(layer)) return keep_whole(exec, layer, q, k, v, own.kept, attention, memory.rest);

    if (exec.rank() == 0)
      for (std::int32_t i = 0; i < state_.sequences * model_.kv_heads; ++i) own.full.lengths[i] = fed_of(layer)[i];
    exec.sync();
    if (status const s = append(exec, k, v, q.batch, own.full); !s.ok()) return s;
    status const result = plan.when == evict_when::before_attending
                              ? prune_then_attend(exec, layer, q, own, attention, memory)
                              : attend_then_evict(exec, layer, q, storage, attention, memory);
    if (result.ok()) advance(exec, layer, q);
    return result;
  }

  template <class T> void lay_out_whole(std::int32_t layer, ragged_cache<T> const& kept) const {
    std::int64_t begin = 0;
    for (std::int32_t s = 0; s < state_.sequences; ++s)
      for (std::int32_t h = 0; h < model_.kv_heads; ++h) {
        std::int32_t const capacity = rows_of(layer, s) + state_.new_tokens;
        kept.at(s, h) = {begin, 0, capacity};
        begin += capacity;
      }
  }

  template <class TQ, class TI, class T, class Attention>
  status keep_whole(cpu exec, std::int32_t layer, query_view<TQ> const& q, rows_view<TI const> k, rows_view<TI const> v,
                    ragged_cache<T> const& kept, Attention const& attention, workspace work) const {
    if (exec.rank() == 0 && !fed_any(layer)) lay_out_whole(layer, kept);
    exec.sync();
    if (status const s = append(exec, k, v, q.batch, kept); !s.ok()) return s;
    status result;
    if constexpr (Attention::here) result = attend(exec, pattern_[layer], q, kept, attention.out, attention.taps, work);
    if (!result.ok()) detail::shorten(exec, kept, [&](std::int32_t s) { return q.count(s); });
    if (result.ok()) advance(exec, layer, q);
    return result;
  }

  template <class TQ, class T, class Attention>
  status prune_then_attend(cpu exec, std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const& own,
                           Attention const& attention, prefill_memory<T, TQ> const& memory) const {
    enter(exec, pipeline_phase::compressing);
    P const& pattern = pattern_[layer];
    evidence<P, TQ> const none{pattern, q, nullptr, 0};
    if (status const s = evict(exec, layer, none, band_source(schedule_.layers[layer].source), own, memory); !s.ok())
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
          {full.values, model_.kv_heads, q.count(s), value_dim(), alike ? full.head_stride : full.value_head_stride,
           alike ? full.token_stride : full.value_token_stride}};
      if (status const r = attend(exec, pattern, one, one_sequence(own.kept, s), self, one_out, taps, work); !r.ok())
        return r;
    }
    return {};
  }

  template <class TQ, class T, class Attention>
  status attend_then_evict(cpu exec, std::int32_t layer, query_view<TQ> const& q, layer_storage<T> const* storage,
                           Attention const& attention, prefill_memory<T, TQ> const& memory) const {
    layer_storage<T> const& own = storage[layer];
    evidence<P, TQ> seen{pattern_[layer], q, memory.lse, q.rows.tokens, mass_of(layer)};
    if constexpr (Attention::here) {
      attend_taps taps = attention.taps;
      if (taps.lse == nullptr) taps = {.lse = memory.lse, .lse_stride = q.rows.tokens};
      seen.lse = taps.lse;
      seen.lse_stride = taps.lse_stride;
      if (status const s = attend(exec, seen.pattern, q, own.full, attention.out, taps, memory.rest); !s.ok()) return s;
    } else {
      seen.lse = attention.lse;
      seen.lse_stride = attention.lse_stride;
    }
    enter(exec, pipeline_phase::compressing);
    bool last_chunk = true;
    for (std::int32_t s = 0; s < state_.sequences; ++s) {
      std::int32_t const to_come = left_after(layer, q, s);
      last_chunk = last_chunk && to_come == 0;
      if (!collects(layer)) continue;
      query_range const range = detail::among_the_last(mass_queries, q.count(s), to_come);
      if (status const r = detail::add_chunk_mass(exec, seen, own.full, s, range, mass_by, memory.mass, memory.rest);
          !r.ok())
        return r;
    }
    if constexpr (cross_layer) {
      if (exec.rank() == 0)
        for (std::int32_t s = 0; s < state_.sequences; ++s) {
          std::int32_t* const next = state_.positions + std::int64_t{s} * state_.longest + fed(layer, s);
          for (std::int32_t i = 0; i < q.count(s); ++i) next[i] = q.batch.positions[q.begin(s) + i];
        }
      exec.sync();
    }
    if (!last_chunk) return {};

    if constexpr (cross_layer) {
      layer_plan const& plan = schedule_.layers[layer];
      bool const own_score = plan.source < 0;
      if (own_score || schedule_.in_any_band(layer)) {
        score_view const scores = dense_scores(memory.scores, state_.sequences, model_.kv_heads, state_.longest);
        auto const& source = compressor_[layer].estimator.source;
        if (status const s = score(exec, source, seen, own.full, source_view{}, scores, memory.rest); !s.ok()) return s;
        for (std::int32_t b = 0; b < schedule_.band_count; ++b)
          if (schedule_.in_band(b, layer))
            if (status const s =
                    fold(exec, layer, scores, own.full, state_.scored[b] == 0, band_source(b), memory.rest);
                !s.ok())
              return s;
        if (own_score)
          if (status const s = fold(exec, layer, scores, own.full, true, source_of(memory.own_source), memory.rest);
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
        if constexpr (cross_layer) source = band < 0 ? source_of(memory.own_source) : band_source(band);
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
  template <class TQ, class T>
  status choose_rows(cpu exec, std::int32_t layer, contiguous_cache<T> const& full,
                     prefill_memory<T, TQ> const& memory) const {
    source_view const source = band_source(schedule_.layers[schedule_.first_dropping()].source);
    auto const c = detail::one_set(compressor_[layer]);
    layer_position const where{layer, model_.layers};
    if (status const s = select(exec, c, source.scores, full, state_.kept, memory.rest, where); !s.ok()) return s;
    if (exec.rank() == 0) *state_.chosen = 1;
    exec.sync();
    return {};
  }

  template <class TQ, class T>
  status evict(cpu exec, std::int32_t layer, evidence<P, TQ> const& seen, source_view const& source,
               layer_storage<T> const& own, prefill_memory<T, TQ> const& memory) const {
    score_view const scores = dense_scores(memory.scores, state_.sequences, model_.kv_heads, state_.longest);
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
    return {q.batch, model_.kv_heads, model_.dim, value_dim(), q.rows.tokens};
  }
  std::int32_t value_dim() const { return model_.value_dim != 0 ? model_.value_dim : model_.dim; }

  /// (query, key) pairs of one head that the pattern shows, causality included.
  static double visible_pairs(P const& pattern, std::int32_t tokens) {
    double pairs = 0;
    for (std::int32_t q = 0; q < tokens; ++q) {
      std::int32_t const furthest = detail::last_visible(pattern, q), end = furthest < tokens ? furthest : tokens - 1;
      auto count = [&](std::int32_t first, std::int32_t last, bool full) {
        last = last < end ? last : end;
        if (full && first <= last) pairs += last - first + 1;
        if (!full)
          for (std::int32_t k = first; k <= last; ++k) pairs += pattern.visible(0, q, k);
      };
      if constexpr (requires { pattern.runs(q, q, count); })
        pattern.runs(q, q, count);
      else
        count(0, end, false);
    }
    return pairs;
  }

  model_shape model_;
  schedule schedule_;
  per_layer<Compressor> compressor_;
  per_layer<P> pattern_;
  phase_listener listener_;
  prompt_state state_;
};

template <class C, class P>
pipeline(model_shape const&, schedule const&, C, P)
    -> pipeline<std::remove_cv_t<std::remove_pointer_t<C>>, std::remove_cv_t<std::remove_pointer_t<P>>>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
