// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ggml-cpp.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace engine {

/// A small model with random weights, to be written as a GGUF file that libllama loads too.
/// A tensor's weights depend on the seed and its name only, so two models that differ in one thing share the others.
struct random_gguf {
  std::string architecture;
  int layers = 3, hidden = 56, feed_forward = 72, heads = 7, kv_heads = 1, dim = 16, vocabulary = 96;
  bool biases = false, head_norms = false, post_norms = false, rope_factors = false, own_output = false;
  std::map<std::string, float> numbers = {};  // metadata, without the architecture in front
  float post_norm = 1;                        // mean weight of the norms after attention and feed-forward
  float feed_forward_share = 1;               // what the feed-forward adds, times this
  std::uint32_t window = 0;                   // 0: the file names none
  std::uint32_t window_period = 0;            // likewise
  std::vector<std::uint8_t> local = {};     // [layers], whether the layer has the window; empty: the file does not say
  std::vector<std::int32_t> sections = {};  // of the rotary embedding; empty: the file has none
  bool byte_tokens = false;  // a tokenizer of the 256 bytes after <unk>, <s> and </s>: vocabulary 259; else none
  bool begins = true;        // prompts begin with <s>
  unsigned seed = 0;

  void write(std::filesystem::path const& file) const {
    ggml_context_ptr const context(
        ggml_init({.mem_size = std::size_t{16} << 20, .mem_buffer = nullptr, .no_alloc = false}));
    gguf_context_ptr const gguf(gguf_init_empty());
    describe(gguf.get());

    auto tensor = [&](std::string const& name, int columns, int rows, float mean, float deviation) {
      ggml_tensor* const t = rows == 1 ? ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, columns)
                                       : ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, columns, rows);
      std::mt19937 generator(seed + static_cast<unsigned>(std::hash<std::string>{}(name)));
      std::normal_distribution<float> normal(mean, deviation);
      for (std::int64_t i = 0; i < ggml_nelements(t); ++i) ggml_get_data_f32(t)[i] = normal(generator);
      ggml_set_name(t, name.c_str());
      gguf_add_tensor(gguf.get(), t);
    };
    auto matrix = [&](std::string const& name, int columns, int rows, float gain = 1) {
      tensor(name, columns, rows, 0, gain / std::sqrt(static_cast<float>(columns)));
    };
    auto norm = [&](std::string const& name, int columns, float mean = 1) { tensor(name, columns, 1, mean, mean / 5); };

    matrix("token_embd.weight", hidden, vocabulary);
    norm("output_norm.weight", hidden, 3);
    if (own_output) matrix("output.weight", hidden, vocabulary);
    if (rope_factors) tensor("rope_freqs.weight", dim / 2, 1, 2, 0.2f);
    for (int l = 0; l < layers; ++l) {
      std::string const block = "blk." + std::to_string(l) + '.';
      int const queries = heads * dim, keys = kv_heads * dim;
      norm(block + "attn_norm.weight", hidden);
      // Attention that looks at some tokens and not at all alike.
      matrix(block + "attn_q.weight", hidden, queries, 1.5f);
      matrix(block + "attn_k.weight", hidden, keys, 1.5f);
      matrix(block + "attn_v.weight", hidden, keys);
      matrix(block + "attn_output.weight", queries, hidden);
      if (biases) {
        tensor(block + "attn_q.bias", queries, 1, 0, 0.5f);
        tensor(block + "attn_k.bias", keys, 1, 0, 0.5f);
        tensor(block + "attn_v.bias", keys, 1, 0, 0.5f);
      }
      if (head_norms) {
        norm(block + "attn_q_norm.weight", dim, 1.5f);
        norm(block + "attn_k_norm.weight", dim, 1.5f);
      }
      if (post_norms) norm(block + "post_attention_norm.weight", hidden, post_norm);
      norm(block + "ffn_norm.weight", hidden);
      matrix(block + "ffn_gate.weight", hidden, feed_forward);
      matrix(block + "ffn_up.weight", hidden, feed_forward);
      matrix(block + "ffn_down.weight", feed_forward, hidden, feed_forward_share);
      if (post_norms) norm(block + "post_ffw_norm.weight", hidden, post_norm * feed_forward_share);
    }
    if (!gguf_write_to_file(gguf.get(), file.c_str(), false)) throw std::runtime_error("cannot write " + file.string());
  }

 private:
  void describe(gguf_context* gguf) const {
    auto key = [&](std::string const& name) { return architecture + '.' + name; };
    auto whole = [&](std::string const& name, int value) {
      gguf_set_val_u32(gguf, key(name).c_str(), static_cast<std::uint32_t>(value));
    };
    gguf_set_val_str(gguf, "general.architecture", architecture.c_str());
    if (byte_tokens)
      describe_bytes(gguf);
    else
      gguf_set_val_str(gguf, "tokenizer.ggml.model", "no_vocab");
    whole("vocab_size", vocabulary);
    whole("block_count", layers);
    whole("embedding_length", hidden);
    whole("feed_forward_length", feed_forward);
    whole("attention.head_count", heads);
    whole("attention.head_count_kv", kv_heads);
    whole("attention.key_length", dim);
    whole("attention.value_length", dim);
    whole("rope.dimension_count", dim);
    whole("context_length", 1024);
    gguf_set_val_f32(gguf, key("attention.layer_norm_rms_epsilon").c_str(), 1e-6f);
    for (auto const& [name, value] : numbers) gguf_set_val_f32(gguf, key(name).c_str(), value);
    if (window > 0) gguf_set_val_u32(gguf, key("attention.sliding_window").c_str(), window);
    if (window_period > 0) gguf_set_val_u32(gguf, key("attention.sliding_window_pattern").c_str(), window_period);
    if (!sections.empty())
      gguf_set_arr_data(gguf, key("rope.dimension_sections").c_str(), GGUF_TYPE_INT32, sections.data(),
                        sections.size());
    if (!local.empty())
      gguf_set_arr_data(gguf, key("attention.sliding_window_pattern").c_str(), GGUF_TYPE_BOOL, local.data(),
                        local.size());
  }

  void describe_bytes(gguf_context* gguf) const {
    constexpr std::int32_t unknown = 2, control = 3, byte = 6;  // GGUF's token types
    std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
    std::vector<std::int32_t> types{unknown, control, control};
    for (unsigned b = 0; b < 256; ++b) {
      std::string name = "<0x00>";
      name[3] = "0123456789ABCDEF"[b / 16];
      name[4] = "0123456789ABCDEF"[b % 16];
      tokens.push_back(name);
      types.push_back(byte);
    }
    std::vector<char const*> names;
    for (std::string const& token : tokens) names.push_back(token.c_str());
    std::vector<float> const scores(tokens.size());
    gguf_set_val_str(gguf, "tokenizer.ggml.model", "llama");
    gguf_set_arr_str(gguf, "tokenizer.ggml.tokens", names.data(), names.size());
    gguf_set_arr_data(gguf, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());
    gguf_set_arr_data(gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
    gguf_set_val_bool(gguf, "tokenizer.ggml.add_bos_token", begins);
    gguf_set_val_bool(gguf, "tokenizer.ggml.add_space_prefix", false);
  }
};

}  // namespace engine
