// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention.hpp"

#include <purekv/average_rotation.hpp>

#include <span>
#include <vector>

namespace engine {

struct model_shape {
  int layers = 0, heads = 0, kv_heads = 0, dim = 0;
  int hidden = 0, feed_forward = 0, vocabulary = 0, context = 0;
  float attention_scale = 0;  // of q . k; 0 stands for 1 / sqrt(dim)
  float soft_cap = 0;         // of the scaled product; 0 for none
  std::vector<int>
      windows{};  // [layers]: positions a query sees, its own the last; 0 for all. Empty: all layers see all
};

/// A transformer whose attention and cache belong to somebody else: layer by layer it hands queries, keys and values to
/// an `attention` and goes on with what comes back.
class language_model {
 public:
  virtual ~language_model() = default;
  virtual model_shape const& shape() const = 0;
  virtual int threads() const = 0;

  /// The rotary embedding of a layer's queries and keys, the model's memory. Throws bad_input if it has sections.
  virtual purekv::rotary rotary(int layer) const = 0;
  /// Of a layer's attention: [hidden, heads * dim].
  virtual std::vector<float> output_projection(int layer) const = 0;

  /// Passes the prompt through all layers, each with all tokens at once. Returns the logits after its last token.
  virtual std::vector<float> prefill(std::span<int const> tokens, attention& attention) = 0;

  /// Passes more tokens, the first of them at `position`. Returns the logits after the last.
  virtual std::vector<float> extend(std::span<int const> tokens, int position, attention& attention) = 0;

  /// The same with the logits after every token: [tokens, vocabulary].
  virtual std::vector<float> extend_all(std::span<int const> tokens, int position, attention& attention) = 0;

  std::vector<float> decode(int token, int position, attention& attention) {
    return extend({&token, 1}, position, attention);
  }
};

}  // namespace engine
