// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache_memory.hpp"
#include "language_model.hpp"
#include "measured_attention.hpp"
#include "pattern.hpp"

#include <purekv/decode.hpp>
#include <purekv/reconstruct.hpp>
#include <purekv/take_back.hpp>
#include <purekv/thread_team.hpp>

#include <optional>
#include <vector>

namespace engine {

/// Attention by PureKV over a cache that is compressed before anybody has asked: the document passes, is repeated or
/// asked the probes, and `compress` chooses what all layers keep at once. Owns the caches; every layer's is whole until
/// then.
template <purekv::Element T, class Compressor> class reconstructed_attention final : public measured_attention {
 public:
  /// probes: whether the passes before `compress` are probe questions.
  reconstructed_attention(model_shape const& model, Compressor const& compressor,
                          purekv::per_layer<pattern> const& seen, bool probes, int threads)
      : model_(model),
        threads_(threads),
        compressor_(compressor),
        seen_(seen),
        probes_(probes),
        driver_({model.layers, model.heads, model.kv_heads, model.dim}, compressor, seen) {
    driver_.check().or_throw();
  }

  bool repeats() const override { return true; }
  bool asks_probes() const override { return probes_; }
  void expect_repetition(int longest_pass) override { repeated_ = longest_pass; }

  void begin(int prompt_tokens, int new_tokens) override {
    prompt_ = prompt_tokens;
    new_tokens_ = new_tokens;
    phase_ = phase::document;
    fed_ = 0;
    layers_ = std::vector<layer_memory>(static_cast<std::size_t>(model_.layers));
    storage_.assign(layers_.size(), {});
    state_ = aligned_memory(driver_.state_bytes(1, prompt_));
    driver_.begin(1, &prompt_, {state_.data(), state_.bytes()}).or_throw();
    meter_.add(static_cast<std::int64_t>(state_.bytes()));
  }

  void open(int layer, int tokens, std::int32_t const* positions) override {
    if (phase_ == phase::document) {
      auto& full = layers_[index(layer)].full;
      if (!full) {
        full.emplace(meter_, std::int64_t{model_.kv_heads} * (prompt_ + repeated_), model_.kv_heads, model_.dim);
        storage_[index(layer)].full = full->contiguous();
      }
      passing_ = tokens;
    }
    auto const q = queries({.tokens = tokens, .positions = positions});
    purekv::cpu const exec{0, threads_};
    std::size_t bytes = 0;
    if (phase_ == phase::document) bytes = driver_.prefill_workspace(exec, layer, q, storage_.data());
    if (phase_ == phase::repetition) bytes = driver_.repeat_workspace(exec, layer, q, storage_.data());
    if (phase_ == phase::answer)
      bytes = purekv::decode_workspace(
          exec, seen_[layer], q,
          purekv::detail::appended_cache<purekv::ragged_cache<T>>{storage_[index(layer)].kept, q.batch, tokens});
    if (workspace_.bytes() < bytes) workspace_ = aligned_memory(bytes);
  }

  void close(int layer) override {
    if (phase_ != phase::document || layer + 1 < model_.layers) return;
    fed_ += passing_;
    if (fed_ == prompt_) phase_ = phase::repetition;
  }

  purekv::status run(purekv::cpu exec, int layer, layer_rows const& rows) override {
    auto const heads = [&](auto* data, int count) { return purekv::token_major(data, count, rows.tokens, model_.dim); };
    auto const q = queries(rows);
    auto const k = heads(rows.k, model_.kv_heads), v = heads(rows.v, model_.kv_heads);
    auto const out = heads(rows.out, model_.heads);
    purekv::workspace const work{workspace_.data(), workspace_.bytes()};
    if (phase_ == phase::repetition) return driver_.repeat(exec, layer, q, k, v, storage_.data(), out, work);
    if (phase_ == phase::answer) {
      auto const& kept = storage_[index(layer)].kept;
      if (purekv::status const s = purekv::append(exec, k, v, q.batch, kept); !s.ok()) return s;
      return purekv::decode(exec, seen_[layer], q, kept, out, purekv::attend_taps{}, work);
    }
    if (exec.rank() == 0) watch_.start();
    purekv::status const result = rows.out == nullptr
                                      ? purekv::append(exec, k, v, q.batch, storage_[index(layer)].full)
                                      : driver_.prefill(exec, layer, q, k, v, storage_.data(), out, work);
    if (exec.rank() == 0) watch_.charge_to(attention_time_);
    return result;
  }

  void compress() override {
    watch_.start();
    purekv::thread_team team(threads_);
    workspace_ = aligned_memory(driver_.template select_workspace<T>());
    together(team, [&](purekv::cpu exec) {
      return driver_.select(exec, storage_.data(), {workspace_.data(), workspace_.bytes()});
    });
    for (int layer = 0; layer < model_.layers; ++layer) {
      auto& [full, kept] = layers_[index(layer)];
      kept.emplace(meter_, driver_.kept_slots(layer, new_tokens_), model_.kv_heads, model_.dim);
      storage_[index(layer)].kept = kept->ragged();
      together(team, [&](purekv::cpu exec) { return driver_.compact(exec, layer, new_tokens_, storage_.data()); });
      full.reset();
    }
    meter_.add(-static_cast<std::int64_t>(state_.bytes()));
    state_ = {};
    workspace_ = {};
    phase_ = phase::answer;
    watch_.charge_to(compression_time_);
  }

  int pinned(int tokens) const override { return count_pinned(compressor_.protect, tokens); }

  void take_back(int tokens) override {
    for (auto const& layer : storage_) purekv::take_back(purekv::cpu{}, &tokens, layer.kept).or_throw();
  }

  seconds attention_time() const override { return attention_time_; }
  seconds compression_time() const override { return compression_time_; }
  int first_layer_that_differs() const override { return model_.layers; }
  std::vector<std::vector<std::int32_t>> kept(int layer) const override {
    return positions_in(storage_[index(layer)].kept);
  }
  std::int64_t cache_bytes() const override { return meter_.now(); }
  std::int64_t peak_cache_bytes() const override { return meter_.peak(); }
  std::string describe(int, int) const override {
    std::string text = "every layer caches the document whole, ";
    text += probes_ ? "typical questions are asked of it" : "the document is repeated";
    return text + ", then all layers are compressed at once\n";
  }

 private:
  enum class phase { document, repetition, answer };
  struct layer_memory {
    std::optional<cache_memory<T>> full, kept;
  };

  static std::size_t index(int layer) { return static_cast<std::size_t>(layer); }

  purekv::query_view<float> queries(layer_rows const& rows) const { return queries_of(model_, rows); }

  template <class F> static void together(purekv::thread_team& team, F const& f) {
    purekv::status status;
    team.run([&](purekv::cpu exec) {
      purekv::status const s = f(exec);
      if (exec.rank() == 0) status = s;
    });
    status.or_throw();
  }

  model_shape model_;
  int threads_;
  Compressor compressor_;
  purekv::per_layer<pattern> seen_;
  bool probes_;
  purekv::reconstructor<Compressor, pattern> driver_;
  cache_meter meter_;
  std::vector<layer_memory> layers_;
  std::vector<purekv::layer_storage<T>> storage_;
  aligned_memory state_, workspace_;
  std::int32_t prompt_ = 0, new_tokens_ = 0, repeated_ = 0;
  int fed_ = 0, passing_ = 0;  // tokens of the document that have passed, and that pass now
  phase phase_ = phase::document;
  stopwatch watch_;
  seconds attention_time_{}, compression_time_{};
};

}  // namespace engine
