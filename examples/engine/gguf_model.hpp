// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "language_model.hpp"

#include <ggml-cpp.h>

#include <filesystem>
#include <vector>

namespace engine {

/// Weights of one transformer block, named as in GGUF files. Biases and rope_factors may be null.
struct block_weights {
  ggml_tensor *attn_norm, *attn_q, *attn_k, *attn_v, *attn_output;
  ggml_tensor *attn_q_bias, *attn_k_bias, *attn_v_bias, *attn_output_bias;
  ggml_tensor *ffn_norm, *ffn_gate, *ffn_up, *ffn_down;
};

/// The weights and the shape of a Llama-architecture model in a GGUF file; ggml reads the format.
/// Throws bad_input for anything else: not a GGUF, a truncated one, another architecture.
class gguf_model {
 public:
  /// float_weights: unpack quantised weights. ggml then multiplies in float instead of rounding activations to 8 bits.
  explicit gguf_model(std::filesystem::path const& file, bool float_weights = false);

  std::filesystem::path const& file() const { return file_; }
  model_shape const& shape() const { return shape_; }
  float norm_epsilon() const { return norm_epsilon_; }
  float rope_base() const { return rope_base_; }
  float rope_scale() const { return rope_scale_; }

  ggml_tensor* token_embedding() const { return token_embedding_; }
  ggml_tensor* output_norm() const { return output_norm_; }
  ggml_tensor* output() const { return output_; }
  ggml_tensor* rope_factors() const { return rope_factors_; }
  block_weights const& block(int layer) const { return blocks_[static_cast<std::size_t>(layer)]; }

 private:
  void read_shape();
  void unpack_weights();
  void find_weights();
  double number(char const* key) const;
  double number(char const* key, double otherwise) const;
  std::string text(char const* key) const;
  ggml_tensor* weight(std::string const& name, std::int64_t columns, std::int64_t rows) const;
  ggml_tensor* optional_weight(std::string const& name, std::int64_t columns, std::int64_t rows) const;

  std::filesystem::path file_;
  gguf_context_ptr metadata_;
  ggml_context_ptr tensors_;
  model_shape shape_;
  float norm_epsilon_ = 0, rope_base_ = 0, rope_scale_ = 0;
  ggml_tensor *token_embedding_ = nullptr, *output_norm_ = nullptr, *output_ = nullptr, *rope_factors_ = nullptr;
  std::vector<block_weights> blocks_;
};

}  // namespace engine
