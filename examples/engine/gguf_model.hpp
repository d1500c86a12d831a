// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "language_model.hpp"

#include <ggml-cpp.h>

#include <array>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace engine {

/// Weights of one transformer block, named as in GGUF files. Biases, norms of heads and norms after attention and
/// feed-forward are null in models that have none.
struct block_weights {
  ggml_tensor *attn_norm, *attn_q, *attn_k, *attn_v, *attn_output;
  ggml_tensor *attn_q_bias, *attn_k_bias, *attn_v_bias, *attn_output_bias;
  ggml_tensor *attn_q_norm, *attn_k_norm, *post_attention_norm;
  ggml_tensor *ffn_norm, *ffn_gate, *ffn_up, *ffn_down, *post_ffw_norm;
};

/// What makes a patch of an image or a video a row like a word's: a map of its pixels, plus a learned vector for each
/// of the frame, the row and the column it lies in. All null in models that only read.
struct patch_weights {
  ggml_tensor *pixels = nullptr, *bias = nullptr;
  std::array<ggml_tensor*, 3> places{};  // of frames, rows, columns
};

/// Rotary embedding of a layer, as ggml has it. type: which two elements of a head turn together.
struct rope_parameters {
  int type = 0;
  float base = 0, scale = 1;
  std::array<int, 4> sections{};  // how many pairs turn by t, y, x and a fourth; all 0: all turn by the position
};

/// What architectures do differently where their weights do not show it; see gguf_model.cpp.
struct conventions;

/// The weights and the shape of a dense decoder in a GGUF file; ggml reads the format. Norms, biases, caps, scales and
/// windows are what the file has and its architecture does: the engine needs no other difference between architectures.
/// Throws bad_input for what cannot be run: not a GGUF, a truncated one, an unknown architecture, a tensor too many.
class gguf_model {
 public:
  /// float_weights: unpack quantised weights. ggml then multiplies in float instead of rounding activations to 8 bits.
  explicit gguf_model(std::filesystem::path const& file, bool float_weights = false);

  std::filesystem::path const& file() const { return file_; }
  model_shape const& shape() const { return shape_; }
  float norm_epsilon() const { return norm_epsilon_; }
  float embedding_scale() const { return embedding_scale_; }
  float final_soft_cap() const { return final_soft_cap_; }  // of the logits; 0 for none
  bool gelu() const { return gelu_; }                       // gates the feed-forward, else SiLU does
  rope_parameters rope(int layer) const { return has_window(layer) ? window_rope_ : rope_; }
  purekv::rotary rotary(int layer) const;
  std::vector<float> output_projection(int layer) const;  // [hidden, heads * dim]

  std::vector<std::string> words() const;  // of the tokens, as the file spells them; empty if it does not

  ggml_tensor* token_embedding() const { return token_embedding_; }
  ggml_tensor* output_norm() const { return output_norm_; }
  ggml_tensor* output() const { return output_; }
  ggml_tensor* rope_factors() const { return rope_factors_; }  // may be null
  patch_weights const& patches() const { return patches_; }
  block_weights const& block(int layer) const { return blocks_[static_cast<std::size_t>(layer)]; }

 private:
  void read_shape(conventions const& c);
  void read_windows(conventions const& c);
  void read_rope(conventions const& c);
  void read_sections();
  std::vector<float> frequencies(rope_parameters const& rope) const;
  bool has_window(int layer) const {
    return !shape_.windows.empty() && shape_.windows[static_cast<std::size_t>(layer)] > 0;
  }
  void unpack_weights();
  void find_weights(conventions const& c);
  void find_patch_weights();
  void refuse_unused_weights() const;

  // Metadata, named without the architecture in front.
  std::string key(char const* name) const;
  bool has(char const* name) const;
  double number(char const* name) const;
  double number(char const* name, double otherwise) const;
  int count(char const* name) const;
  std::string text(std::string const& whole_key) const;

  ggml_tensor* weight(std::string const& name, std::int64_t columns, std::int64_t rows);
  ggml_tensor* optional_weight(std::string const& name, std::int64_t columns, std::int64_t rows);

  std::filesystem::path file_;
  gguf_context_ptr metadata_;
  ggml_context_ptr tensors_;
  std::string architecture_;
  model_shape shape_;
  float norm_epsilon_ = 0, embedding_scale_ = 1, final_soft_cap_ = 0;
  bool gelu_ = false;
  rope_parameters rope_, window_rope_;
  std::vector<float> frequencies_, window_frequencies_;  // [dim / 2]
  ggml_tensor *token_embedding_ = nullptr, *output_norm_ = nullptr, *output_ = nullptr, *rope_factors_ = nullptr;
  patch_weights patches_;
  std::vector<block_weights> blocks_;
  std::set<ggml_tensor const*> used_;
};

}  // namespace engine
