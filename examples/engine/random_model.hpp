// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "language_model.hpp"

#include <purekv/thread_team.hpp>

namespace engine {

/// A small Llama-shaped transformer with random weights and plain matrix products, for machines that have neither a
/// model file nor ggml. What it says means nothing; what its cache costs is real.
class random_model final : public language_model {
 public:
  explicit random_model(int threads);

  model_shape const& shape() const override { return shape_; }
  int threads() const override { return team_.ranks(); }
  purekv::rotary rotary(int layer) const override;
  std::vector<float> output_projection(int layer) const override;
  std::vector<float> prefill(std::span<int const> tokens, attention& attention) override;
  std::vector<float> extend(std::span<int const> tokens, int position, attention& attention) override;
  std::vector<float> extend_all(std::span<int const> tokens, int position, attention& attention) override;

 private:
  struct block {
    std::vector<float> q, k, v, output, gate, up, down;  // [in, out]
  };

  /// Returns the logits after the last `count` of the tokens.
  std::vector<float> pass(std::span<int const> tokens, int first_position, attention& attention, int count = 1);

  model_shape shape_{.layers = 12,
                     .heads = 9,
                     .kv_heads = 3,
                     .dim = 64,
                     .hidden = 576,
                     .feed_forward = 1536,
                     .vocabulary = 4096,
                     .context = 8192};
  purekv::thread_team team_;
  std::vector<float> frequencies_;  // [dim / 2]
  std::vector<float> embedding_;    // [vocabulary, hidden]
  std::vector<block> blocks_;
};

}  // namespace engine
