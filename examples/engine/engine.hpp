// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gguf_model.hpp"
#include "visual_input.hpp"

#include <ggml-cpp.h>
#include <ggml-cpu.h>
#include <purekv/thread_team.hpp>

#include <array>
#include <functional>

namespace engine {

/// A prompt's pass with full attention: what enters each layer, [tokens, hidden], and the vectors attention gets.
struct recorded_prompt {
  std::vector<std::vector<float>> hidden, q, k, v, lse;  // [layers], hidden also after the last
};

/// The forward pass of a model from a GGUF file: matrix products, norms and rotary embedding by ggml on ggml's
/// threads; attention, on the same threads, by an `attention` inside a ggml custom operation. One ggml graph per layer,
/// so that a layer's cache can be evicted, and its memory given back, before the next one starts.
class engine final : public language_model {
 public:
  using projections = std::array<ggml_tensor*, 3>;  // q, k, v

  engine(gguf_model const& model, int threads);

  /// What the passes to come see at the positions of the layout; the tokens they name there do not matter. Throws
  /// bad_input for what the model has no eyes for.
  void show(visual_input const& input);

  model_shape const& shape() const override { return model_.shape(); }
  int threads() const override { return threads_; }
  purekv::rotary rotary(int layer) const override { return model_.rotary(layer); }
  std::vector<float> output_projection(int layer) const override { return model_.output_projection(layer); }
  std::vector<float> prefill(std::span<int const> tokens, attention& attention) override;
  std::vector<float> extend(std::span<int const> tokens, int position, attention& attention) override;
  std::vector<float> extend_all(std::span<int const> tokens, int position, attention& attention) override;

  /// As prefill with an attention that attends to everything, and remembers the pass.
  std::vector<float> record(std::span<int const> tokens, attention& full, recorded_prompt& pass);

  /// As prefill of the recorded prompt, for an attention that attends to everything in the layers before `first`: these
  /// get the recorded vectors and attend to nothing again, the others are computed. The result is the same, bit for
  /// bit.
  std::vector<float> replay(recorded_prompt const& pass, int first, attention& attention);

  /// Logits after `count` of the tokens of the latest pass: [count, vocabulary].
  std::vector<float> logits(int first, int count);

 private:
  struct threadpool_deleter {
    void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
  };

  void place(std::size_t tokens, int first_position);
  void embed(std::span<int const> tokens, int first_position);
  void embed_words(std::span<int const> tokens, float* rows);
  void embed_patches(int first_position, int count, float* rows);
  std::vector<std::int32_t> rotary_positions() const;
  void go_on_with(std::span<std::int32_t const> rows);
  void replace_rows(std::vector<float> hidden, std::span<std::int32_t const> rows);
  void pass(int layer, attention& attention);
  void compute(std::function<ggml_tensor*(ggml_context*)> const& build);
  projections project(ggml_context* context, int layer, ggml_tensor* x);
  ggml_tensor* feed(ggml_context* context, int layer, ggml_tensor* attended, ggml_tensor* x);
  ggml_tensor* norm(ggml_context* context, ggml_tensor* x, ggml_tensor* weight);
  ggml_tensor* hidden_states(ggml_context* context, int first, int count);

  gguf_model const& model_;
  int threads_;
  purekv::spin_barrier barrier_;
  std::unique_ptr<ggml_threadpool, threadpool_deleter> pool_;
  ggml_backend_ptr backend_;
  ggml_gallocr_ptr allocator_;
  std::vector<std::byte> graph_memory_;
  std::vector<float> hidden_;  // [tokens, hidden] between layers, tokens at positions_
  std::vector<std::int32_t> positions_;
  std::vector<std::int32_t> turns_;  // what the rotary embedding reads
  visual_input shown_;
};

}  // namespace engine
