// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/compressor.hpp>
#include <purekv/detail/estimator.hpp>
#include <purekv/detail/one_set.hpp>
#include <purekv/per_layer.hpp>
#include <purekv/pipeline_cost.hpp>
#include <purekv/select.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What a pipeline is told once, whatever runs it, and what follows from that before any prompt comes.
template <class Compressor, Pattern P> class pipeline_base {
 public:
  pipeline_base(model_shape const& model, schedule const& plan, per_layer<Compressor> const& compressor,
                per_layer<P> const& pattern)
      : model_(model), schedule_(plan), compressor_(compressor), pattern_(pattern) {}

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
  bool needs_full(std::int32_t layer) const { return schedule_.needs_full(layer); }
  /// True for deferred layers, and for all that need it where the prompt comes in chunks.
  bool keeps_full(std::int32_t layer) const { return schedule_.keeps_full(layer); }
  /// The layer whose prefill call fills `kept` of this one.
  std::int32_t evicts_at(std::int32_t layer) const { return schedule_.evicts_at(layer); }
  /// Whether this layer gets the rows of kept_rows() only.
  bool drops(std::int32_t layer) const { return schedule_.drops(layer); }
  /// Tokens a head of this layer keeps of a prompt (on average over heads, for budgets across heads).
  std::int32_t kept_tokens(std::int32_t layer, std::int32_t prompt_tokens) const {
    layer_plan const& plan = schedule_.layers[layer];
    if (plan.when == evict_when::never || prompt_tokens <= 0) return prompt_tokens;
    auto const most = [&](auto const& c, std::int32_t where) {
      std::int32_t const budget = c.budget.keep(budget_input{prompt_tokens, where, model_.layers});
      std::int32_t pinned = 0, keepable = 0;
      for (std::int32_t p = 0; p < prompt_tokens; ++p) {
        bool const kept = !is_evicted(c.protect, p, prompt_tokens - 1);
        keepable += kept;
        pinned += kept && c.protect.pinned(p, prompt_tokens - 1);
      }
      std::int32_t const keep = budget > pinned ? budget : pinned;
      return keep < keepable ? keep : keepable;
    };
    if (!drops(layer)) return most(compressor_[layer], layer);
    std::int32_t const chosen_at = schedule_.bands[plan.source].last;
    return most(one_set(compressor_[chosen_at]), chosen_at);
  }

  /// Slots that `kept` of this layer needs for one sequence; sum them for a batch.
  std::int64_t kept_slots(std::int32_t layer, std::int32_t prompt_tokens, std::int32_t new_tokens) const {
    return std::int64_t{model_.kv_heads} * (std::int64_t{kept_tokens(layer, prompt_tokens)} + new_tokens);
  }

  /// For prompts of so many tokens in caches whose elements have `element_bytes` bytes, one sequence.
  pipeline_cost cost(std::int32_t prompt_tokens, std::int32_t new_tokens, std::int32_t element_bytes) const {
    auto const kept = [&](std::int32_t layer) { return kept_tokens(layer, prompt_tokens); };
    return cost_of(model_, schedule_, pattern_, kept, prompt_tokens, new_tokens, element_bytes);
  }

  /// The schedule in words with its cost. Allocates the string; for people, not for engines.
  std::string describe(std::int32_t prompt_tokens, std::int32_t new_tokens, std::int32_t element_bytes) const {
    if (status const s = check(); !s.ok()) return s.message;
    return purekv::describe(schedule_).append(purekv::describe(cost(prompt_tokens, new_tokens, element_bytes)));
  }

 protected:
  using estimator = typename Compressor::estimator_type;
  static constexpr bool cross_layer = CrossLayerEstimator<estimator>;
  using mass_estimator = typename source_or_self<estimator>::type;
  static constexpr std::int32_t mass_queries = mass_estimator::mass_queries;
  static constexpr mass_reduction mass_by = detail::mass_by<mass_estimator>();

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

  model_shape model_;
  schedule schedule_;
  per_layer<Compressor> compressor_;
  per_layer<P> pattern_;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
