// SPDX-License-Identifier: Apache-2.0
#include "gguf_model.hpp"

#include "error.hpp"

#include <array>
#include <cstring>
#include <fstream>

namespace engine {

namespace {

/// gguf_init_from_file tells what is wrong only by logging; this keeps the last complaint for our own message.
class log_capture {
 public:
  log_capture() {
    ggml_log_get(&before_, &before_data_);
    ggml_log_set(
        [](ggml_log_level level, char const* text, void* self) {
          if (level == GGML_LOG_LEVEL_ERROR) static_cast<log_capture*>(self)->last_ = text;
        },
        this);
  }
  ~log_capture() { ggml_log_set(before_, before_data_); }
  log_capture(log_capture const&) = delete;
  log_capture& operator=(log_capture const&) = delete;

  std::string last() const {
    std::string text = last_.substr(0, last_.find_last_not_of('\n') + 1);
    return text.empty() ? "no details" : text;
  }

 private:
  ggml_log_callback before_ = nullptr;
  void* before_data_ = nullptr;
  std::string last_;
};

[[noreturn]] void reject(std::filesystem::path const& file, std::string const& why) {
  throw bad_input(file.string() + ": " + why);
}

}  // namespace

gguf_model::gguf_model(std::filesystem::path const& file, bool float_weights) : file_(file) {
  std::ifstream in(file, std::ios::binary);
  if (!in || std::filesystem::is_directory(file)) reject(file, "cannot be read");
  std::array<char, 4> magic{};
  in.read(magic.data(), magic.size());
  if (!in || std::string_view(magic.data(), magic.size()) != "GGUF") reject(file, "is not a GGUF file");

  ggml_context* tensors = nullptr;
  log_capture log;
  metadata_.reset(gguf_init_from_file(file.c_str(), {.no_alloc = false, .ctx = &tensors}));
  tensors_.reset(tensors);
  if (!metadata_) reject(file, "is a truncated or damaged GGUF file (" + log.last() + ")");
  if (std::string const architecture = text("general.architecture"); architecture != "llama")
    reject(file, "is a model of architecture '" + architecture + "'; this engine runs 'llama'");
  read_shape();
  if (float_weights) unpack_weights();
  find_weights();
}

void gguf_model::unpack_weights() {
  std::vector<ggml_tensor*> packed;
  for (std::int64_t i = 0; i < gguf_get_n_tensors(metadata_.get()); ++i)
    packed.push_back(ggml_get_tensor(tensors_.get(), gguf_get_tensor_name(metadata_.get(), i)));
  std::size_t bytes = 0;
  for (ggml_tensor const* from : packed)
    bytes += ggml_tensor_overhead() + static_cast<std::size_t>(ggml_nelements(from)) * sizeof(float) + GGML_MEM_ALIGN;
  ggml_context_ptr unpacked(ggml_init({.mem_size = bytes, .mem_buffer = nullptr, .no_alloc = false}));
  for (ggml_tensor const* from : packed) {
    ggml_tensor* const to = ggml_new_tensor(unpacked.get(), GGML_TYPE_F32, ggml_n_dims(from), from->ne);
    ggml_set_name(to, ggml_get_name(from));
    if (from->type == GGML_TYPE_F32)
      std::memcpy(to->data, from->data, ggml_nbytes(from));
    else if (ggml_to_float_t const unpack = ggml_get_type_traits(from->type)->to_float; unpack != nullptr)
      unpack(from->data, ggml_get_data_f32(to), ggml_nelements(from));
    else
      reject(file_,
             std::string("has weights of type ") + ggml_type_name(from->type) + ", which do not unpack to float");
  }
  tensors_ = std::move(unpacked);
}

void gguf_model::read_shape() {
  auto whole = [&](char const* key) {
    double const value = number(key);
    if (!(value >= 1 && value <= 1 << 28)) reject(file_, std::string("has an impossible ") + key);
    return static_cast<int>(value);
  };
  shape_.layers = whole("llama.block_count");
  shape_.hidden = whole("llama.embedding_length");
  shape_.feed_forward = whole("llama.feed_forward_length");
  shape_.heads = whole("llama.attention.head_count");
  shape_.kv_heads = static_cast<int>(number("llama.attention.head_count_kv", shape_.heads));
  shape_.context = whole("llama.context_length");
  shape_.dim = static_cast<int>(number("llama.attention.key_length", shape_.hidden / shape_.heads));
  if (shape_.kv_heads < 1 || shape_.dim < 2 || shape_.heads % shape_.kv_heads != 0)
    reject(file_, "has an impossible number of heads");
  if (number("llama.attention.value_length", shape_.dim) != shape_.dim ||
      number("llama.rope.dimension_count", shape_.dim) != shape_.dim)
    reject(file_, "has values or rotary dimensions of another width than its keys; this engine needs them equal");
  if (number("llama.expert_count", 0) != 0) reject(file_, "is a mixture of experts; this engine runs dense models");

  norm_epsilon_ = static_cast<float>(number("llama.attention.layer_norm_rms_epsilon"));
  rope_base_ = static_cast<float>(number("llama.rope.freq_base", 10000));
  rope_scale_ = 1;
  if (gguf_find_key(metadata_.get(), "llama.rope.scaling.type") >= 0) {
    std::string const scaling = text("llama.rope.scaling.type");
    if (scaling == "linear")
      rope_scale_ = 1 / static_cast<float>(number("llama.rope.scaling.factor", 1));
    else if (scaling != "none")
      reject(file_, "scales its rotary embedding by '" + scaling + "'; this engine knows 'linear' and 'none'");
  }
}

void gguf_model::find_weights() {
  token_embedding_ = ggml_get_tensor(tensors_.get(), "token_embd.weight");
  if (token_embedding_ == nullptr) reject(file_, "has no tensor token_embd.weight");
  shape_.vocabulary = static_cast<int>(token_embedding_->ne[1]);

  std::int64_t const hidden = shape_.hidden, heads = std::int64_t{shape_.heads} * shape_.dim,
                     kv_heads = std::int64_t{shape_.kv_heads} * shape_.dim, wide = shape_.feed_forward;
  token_embedding_ = weight("token_embd.weight", hidden, shape_.vocabulary);
  output_norm_ = weight("output_norm.weight", hidden, 1);
  output_ = optional_weight("output.weight", hidden, shape_.vocabulary);
  if (output_ == nullptr) output_ = token_embedding_;
  rope_factors_ = optional_weight("rope_freqs.weight", shape_.dim / 2, 1);

  for (int l = 0; l < shape_.layers; ++l) {
    std::string const block = "blk." + std::to_string(l) + '.';
    blocks_.push_back({.attn_norm = weight(block + "attn_norm.weight", hidden, 1),
                       .attn_q = weight(block + "attn_q.weight", hidden, heads),
                       .attn_k = weight(block + "attn_k.weight", hidden, kv_heads),
                       .attn_v = weight(block + "attn_v.weight", hidden, kv_heads),
                       .attn_output = weight(block + "attn_output.weight", heads, hidden),
                       .attn_q_bias = optional_weight(block + "attn_q.bias", heads, 1),
                       .attn_k_bias = optional_weight(block + "attn_k.bias", kv_heads, 1),
                       .attn_v_bias = optional_weight(block + "attn_v.bias", kv_heads, 1),
                       .attn_output_bias = optional_weight(block + "attn_output.bias", hidden, 1),
                       .ffn_norm = weight(block + "ffn_norm.weight", hidden, 1),
                       .ffn_gate = weight(block + "ffn_gate.weight", hidden, wide),
                       .ffn_up = weight(block + "ffn_up.weight", hidden, wide),
                       .ffn_down = weight(block + "ffn_down.weight", wide, hidden)});
  }
}

double gguf_model::number(char const* key) const {
  std::int64_t const id = gguf_find_key(metadata_.get(), key);
  if (id < 0) reject(file_, std::string("has no ") + key);
  switch (gguf_get_kv_type(metadata_.get(), id)) {
    case GGUF_TYPE_UINT32:
      return gguf_get_val_u32(metadata_.get(), id);
    case GGUF_TYPE_INT32:
      return gguf_get_val_i32(metadata_.get(), id);
    case GGUF_TYPE_UINT64:
      return static_cast<double>(gguf_get_val_u64(metadata_.get(), id));
    case GGUF_TYPE_FLOAT32:
      return static_cast<double>(gguf_get_val_f32(metadata_.get(), id));
    default:
      reject(file_, std::string("has a ") + key + " that differs from layer to layer or is no number");
  }
}

double gguf_model::number(char const* key, double otherwise) const {
  return gguf_find_key(metadata_.get(), key) < 0 ? otherwise : number(key);
}

std::string gguf_model::text(char const* key) const {
  std::int64_t const id = gguf_find_key(metadata_.get(), key);
  if (id < 0 || gguf_get_kv_type(metadata_.get(), id) != GGUF_TYPE_STRING) reject(file_, std::string("has no ") + key);
  return gguf_get_val_str(metadata_.get(), id);
}

ggml_tensor* gguf_model::optional_weight(std::string const& name, std::int64_t columns, std::int64_t rows) const {
  ggml_tensor* const tensor = ggml_get_tensor(tensors_.get(), name.c_str());
  if (tensor != nullptr && (tensor->ne[0] != columns || tensor->ne[1] != rows || ggml_nrows(tensor) != rows))
    reject(file_, "has a tensor " + name + " of another shape than its metadata says");
  return tensor;
}

ggml_tensor* gguf_model::weight(std::string const& name, std::int64_t columns, std::int64_t rows) const {
  ggml_tensor* const tensor = optional_weight(name, columns, rows);
  if (tensor == nullptr) reject(file_, "has no tensor " + name);
  return tensor;
}

}  // namespace engine
