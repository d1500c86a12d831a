// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache_memory.hpp"
#include "estimator_data.hpp"
#include "measured_attention.hpp"
#include "pattern.hpp"

#include <purekv/pipeline.hpp>
#include <purekv/protect/within_window.hpp>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

namespace engine {

/// When each layer evicts, and by which layers' score.
struct layer_schedule {
  std::vector<purekv::layer_plan> layers;
  std::vector<purekv::source_band> bands;
  bool chunked = false;

  purekv::schedule view() const {
    return {layers.data(), static_cast<std::int32_t>(layers.size()), bands.data(),
            static_cast<std::int32_t>(bands.size()), chunked};
  }
  void take_chunks() {
    purekv::attend_first(layers.data(), static_cast<std::int32_t>(layers.size()));
    chunked = true;
  }
};

/// Attention by PureKV over a cache that its pipeline compresses while the prompt passes. Owns the caches: a layer's
/// memory is taken when the schedule first needs it and given back as soon as it does not.
///
/// A layer with a window attends to what that shows, which is cheap, and then forgets what is older: where the schedule
/// would have it prune first, it evicts after attending.
template <purekv::Element T, class Compressor> class compressed_attention final : public measured_attention {
 public:
  /// compressors: one, or one for each layer. data: what they carry views of, if they do. seen: by the layers that have
  /// no window.
  compressed_attention(model_shape const& model, layer_schedule schedule, std::vector<Compressor> compressors,
                       std::unique_ptr<estimator_data> data, purekv::per_layer<pattern> const& seen, int threads)
      : model_(model),
        threads_(threads),
        schedule_(with_windows(std::move(schedule), model)),
        compressors_(with_windows(compressors, model)),
        data_(std::move(data)),
        patterns_(with_windows(seen, model)),
        pipeline_({model.layers, model.heads, model.kv_heads, model.dim}, schedule_.view(), each_or_one(compressors_),
                  each_or_one(patterns_)) {
    pipeline_.check().or_throw();
    pipeline_.listen(
        {[](void* self, purekv::pipeline_phase phase) { static_cast<compressed_attention*>(self)->enter(phase); },
         this});
  }
  compressed_attention(compressed_attention const&) = delete;
  compressed_attention& operator=(compressed_attention const&) = delete;

  void begin(int prompt_tokens, int new_tokens) override {
    prompt_ = prompt_tokens;
    new_tokens_ = new_tokens;
    prefilled_ = false;
    fed_ = 0;
    layers_ = std::vector<layer_memory>(schedule_.layers.size());
    storage_.assign(layers_.size(), {});
    state_ = aligned_memory(pipeline_.state_bytes(1, prompt_));
    pipeline_.begin(1, &prompt_, new_tokens_, {state_.data(), state_.bytes()}).or_throw();
    layer_times_.assign(layers_.size(), {});
    if (data_) data_->begin(prompt_tokens);
    lap_.start();
  }

  bool drops_after(int layer) const override {
    return !prefilled_ && layer + 1 < model_.layers && layer + 1 == schedule_.view().first_dropping();
  }
  std::span<std::int32_t const> rows_entering(int layer) const override {
    if (!drops_after(layer - 1)) return {};
    purekv::selection const rows = pipeline_.kept_rows();
    return {rows.tokens(0), static_cast<std::size_t>(rows.count(0))};
  }

  void open(int layer, int tokens, std::int32_t const* positions) override {
    passing_ = tokens;
    if (!prefilled_) take_memory(layer);
    // Workspaces depend on shapes and positions only, so the rows need no data yet.
    auto const q = queries({.tokens = tokens, .positions = positions});
    purekv::cpu const exec{0, threads_};
    if (!prefilled_ && layer == 0) {
      if (std::size_t const wanted = pipeline_.plan_bytes(q, storage_.data()); plan_.bytes() < wanted)
        plan_ = aligned_memory(wanted);
      pipeline_.keep_plan({plan_.data(), plan_.bytes()}).or_throw();
    }
    std::size_t const bytes = prefilled_ ? pipeline_.template decode_workspace<T>(exec, layer, q, storage_.data())
                                         : pipeline_.prefill_workspace(exec, layer, q, storage_.data());
    if (workspace_.bytes() < bytes) workspace_ = aligned_memory(bytes);
  }

  void close(int layer) override {
    if (prefilled_) return;
    lap_.charge_to(layer_times_[index(layer)]);
    for (int l = 0; l <= layer; ++l)
      if (pipeline_.released(l)) layers_[index(l)].full.reset();
    if (layer + 1 < model_.layers) return;
    fed_ = schedule_.chunked ? fed_ + passing_ : prompt_;  // fewer than these pass the layers that drop
    if (fed_ < prompt_) return;
    shared_full_.reset();
    workspace_ = {};
    pipeline_.keep_plan({}).or_throw();
    plan_ = {};
    prefilled_ = true;
  }

  purekv::status run(purekv::cpu exec, int layer, layer_rows const& rows) override {
    auto const heads = [&](auto* data, int count) { return purekv::token_major(data, count, rows.tokens, model_.dim); };
    auto const k = heads(rows.k, model_.kv_heads), v = heads(rows.v, model_.kv_heads);
    auto const out = heads(rows.out, model_.heads);
    purekv::workspace const work{workspace_.data(), workspace_.bytes()};
    auto const q = queries(rows);
    if (prefilled_) return pipeline_.decode(exec, layer, q, k, v, storage_.data(), out, work);

    if (exec.rank() == 0) watch_.start();
    if (data_)
      if (purekv::status const s = data_->fill(exec, layer, rows); !s.ok()) return s;
    purekv::status const result =
        rows.out == nullptr
            ? pipeline_.cache_prompt(exec, layer, q, k, v, storage_.data(), rows.lse, rows.tokens, work)
            : pipeline_.prefill(exec, layer, q, k, v, storage_.data(), out, work, rows.lse, rows.tokens);
    if (exec.rank() == 0) watch_.charge_to(*charged_);
    return result;
  }

  int pinned(int tokens) const override {
    int most = 0;
    for (std::size_t l = 0; l < schedule_.layers.size(); ++l)
      if (schedule_.layers[l].when != purekv::evict_when::never)
        most = std::max(most, count_pinned(compressors_[std::min(l, compressors_.size() - 1)].protect, tokens));
    return most;
  }

  void take_back(int tokens) override { pipeline_.take_back(purekv::cpu{}, &tokens, storage_.data()).or_throw(); }

  seconds attention_time() const override { return attention_time_; }
  seconds compression_time() const override { return compression_time_; }
  std::vector<seconds> layer_times() const override { return layer_times_; }
  int first_layer_that_differs() const override {
    auto const first = std::ranges::find_if(schedule_.layers, [](purekv::layer_plan const& plan) {
      return plan.when == purekv::evict_when::before_attending || plan.when == purekv::evict_when::dropping;
    });
    return static_cast<int>(first - schedule_.layers.begin());
  }
  std::vector<std::vector<std::int32_t>> kept(int layer) const override {
    return positions_in(storage_[index(layer)].kept);
  }
  std::int64_t cache_bytes() const override { return meter_.now(); }
  std::int64_t peak_cache_bytes() const override { return meter_.peak(); }
  std::string describe(int prompt_tokens, int new_tokens) const override {
    return pipeline_.describe(prompt_tokens, new_tokens, sizeof(T));
  }

 private:
  struct layer_memory {
    std::optional<cache_memory<T>> full, kept;
  };

  using windowed_compressor = decltype(purekv::windowed(std::declval<Compressor const&>(), 0));
  using pipeline = purekv::pipeline<windowed_compressor, pattern>;

  static std::vector<pattern> with_windows(purekv::per_layer<pattern> const& seen, model_shape const& model) {
    std::vector<pattern> result;
    int const different = seen.varies() || !model.windows.empty() ? model.layers : 1;
    for (int l = 0; l < different; ++l) {
      int const window = model.windows.empty() ? 0 : model.windows[index(l)];
      result.push_back(window > 0 ? pattern{purekv::sliding_window{window}} : seen[l]);
    }
    return result;
  }

  static layer_schedule with_windows(layer_schedule schedule, model_shape const& model) {
    for (std::size_t l = 0; l < model.windows.size(); ++l)
      if (auto& when = schedule.layers[l].when; model.windows[l] > 0 && when == purekv::evict_when::before_attending)
        when = purekv::evict_when::after_attending;
    return schedule;
  }

  static std::vector<windowed_compressor> with_windows(std::vector<Compressor> const& compressors,
                                                       model_shape const& model) {
    std::vector<windowed_compressor> result;
    for (std::size_t l = 0; l < std::max(compressors.size(), model.windows.size()); ++l) {
      int const window = model.windows.empty() ? 0 : model.windows[l];
      result.push_back(purekv::windowed(compressors[std::min(l, compressors.size() - 1)],
                                        window > 0 ? window : std::numeric_limits<std::int32_t>::max()));
    }
    return result;
  }

  template <class X> static purekv::per_layer<X> each_or_one(std::vector<X> const& list) {
    if (list.size() == 1) return list[0];
    return list.data();
  }

  void enter(purekv::pipeline_phase phase) {
    watch_.charge_to(*charged_);
    charged_ = phase == purekv::pipeline_phase::attending ? &attention_time_ : &compression_time_;
  }

  static std::size_t index(int layer) { return static_cast<std::size_t>(layer); }

  purekv::query_view<float> queries(layer_rows const& rows) const { return queries_of(model_, rows); }

  void take_memory(int layer) {
    std::int64_t const prompt_slots = std::int64_t{model_.kv_heads} * prompt_;
    if (pipeline_.needs_full(layer)) {
      auto& full = pipeline_.keeps_full(layer) ? layers_[index(layer)].full : shared_full_;
      if (!full) full.emplace(meter_, prompt_slots, model_.kv_heads, model_.dim);
      if (fed_ == 0) storage_[index(layer)].full = full->contiguous();
    }
    bool const evicts = !schedule_.chunked || fed_ + passing_ == prompt_;
    for (int l = 0; l <= layer; ++l)
      if (auto& kept = layers_[index(l)].kept;
          pipeline_.evicts_at(l) == layer && !kept && (evicts || !pipeline_.needs_full(l))) {
        kept.emplace(meter_, pipeline_.kept_slots(l, prompt_, new_tokens_), model_.kv_heads, model_.dim);
        storage_[index(l)].kept = kept->ragged();
      }
  }

  model_shape model_;
  int threads_;
  layer_schedule schedule_;
  std::vector<windowed_compressor> compressors_;  // [layers], or one for all
  std::unique_ptr<estimator_data> data_;          // may be null
  std::vector<pattern> patterns_;                 // [layers], or one for all
  pipeline pipeline_;
  cache_meter meter_;
  std::vector<layer_memory> layers_;
  std::optional<cache_memory<T>> shared_full_;  // of the layers that evict at once, one after the other
  std::vector<purekv::layer_storage<T>> storage_;
  aligned_memory state_, workspace_, plan_;
  std::int32_t prompt_ = 0, new_tokens_ = 0;
  int fed_ = 0, passing_ = 0;  // tokens of the prompt that have passed, and that pass now
  bool prefilled_ = false;
  stopwatch watch_, lap_;
  std::vector<seconds> layer_times_;
  seconds attention_time_{}, compression_time_{};
  seconds* charged_ = &attention_time_;
};

}  // namespace engine
