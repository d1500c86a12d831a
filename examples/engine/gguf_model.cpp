// SPDX-License-Identifier: Apache-2.0
#include "gguf_model.hpp"

#include "error.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>

namespace engine {

struct conventions {
  std::string_view architecture;
  int rope_type = GGML_ROPE_TYPE_NEOX;
  bool scales_embedding = false;  // by the square root of its width
  bool gelu = false;              // gates the feed-forward, else SiLU does
  bool head_norms = false;        // of queries and keys
  bool post_norms = false;        // after attention and after the feed-forward
  // Where the file does not say:
  float soft_cap = 0, final_soft_cap = 0;
  int window = 0;
  int window_period = 0;  // of so many layers the last sees everything and the others have the window; 0: none has

  float window_rope_base = 0;      // layers with a window turn by this base and without scaling; 0: like the others
  int layers_scaled_by_width = 0;  // the model of so many layers divides q . k by sqrt(hidden / heads), not sqrt(dim)
};

namespace {

// Llama files hold query and key weights permuted for rotation of neighbouring elements.
constexpr conventions known[] = {
    {.architecture = "llama", .rope_type = GGML_ROPE_TYPE_NORMAL},
    {.architecture = "qwen2"},
    {.architecture = "qwen2vl", .rope_type = GGML_ROPE_TYPE_MROPE},
    {.architecture = "qwen3", .head_norms = true},
    {.architecture = "gemma", .scales_embedding = true, .gelu = true},
    {.architecture = "gemma2",
     .scales_embedding = true,
     .gelu = true,
     .post_norms = true,
     .soft_cap = 50,
     .final_soft_cap = 30,
     .window = 4096,
     .window_period = 2,
     .layers_scaled_by_width = 46},
    {.architecture = "gemma3",
     .scales_embedding = true,
     .gelu = true,
     .head_norms = true,
     .post_norms = true,
     .window_period = 6,
     .window_rope_base = 10000,
     .layers_scaled_by_width = 62},
};

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

conventions const& find_conventions(std::filesystem::path const& file, std::string const& architecture) {
  std::string names;
  for (conventions const& c : known) {
    if (c.architecture == architecture) return c;
    names.append(names.empty() ? "" : ", ").append(c.architecture);
  }
  reject(file, "is a model of architecture '" + architecture + "'; this engine runs " + names);
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
  architecture_ = text("general.architecture");
  conventions const& c = find_conventions(file, architecture_);
  read_shape(c);
  read_windows(c);
  read_rope(c);
  if (float_weights) unpack_weights();
  find_weights(c);
  refuse_unused_weights();
  frequencies_ = frequencies(rope_);
  window_frequencies_ = frequencies(window_rope_);
}

std::vector<float> gguf_model::frequencies(rope_parameters const& rope) const {
  std::vector<float> result;
  for (int i = 0; i < shape_.dim / 2; ++i) {
    float const factor = rope_factors_ == nullptr ? 1 : ggml_get_data_f32(rope_factors_)[i];
    result.push_back(rope.scale / factor *
                     std::pow(rope.base, -2 * static_cast<float>(i) / static_cast<float>(shape_.dim)));
  }
  return result;
}

purekv::rotary gguf_model::rotary(int layer) const {
  rope_parameters const parameters = rope(layer);
  if (parameters.type == GGML_ROPE_TYPE_MROPE)
    throw bad_input(file_.string() +
                    ": has rotary embedding in sections; expected_attention knows one position a token");
  return {(has_window(layer) ? window_frequencies_ : frequencies_).data(), shape_.dim / 2,
          parameters.type == GGML_ROPE_TYPE_NORMAL ? purekv::rotary_pairs::adjacent : purekv::rotary_pairs::halves};
}

std::vector<float> gguf_model::output_projection(int layer) const {
  ggml_tensor const* const weight = block(layer).attn_output;
  std::vector<float> result(static_cast<std::size_t>(ggml_nelements(weight)));
  if (weight->type == GGML_TYPE_F32)
    std::memcpy(result.data(), weight->data, ggml_nbytes(weight));
  else if (ggml_to_float_t const unpack = ggml_get_type_traits(weight->type)->to_float; unpack != nullptr)
    unpack(weight->data, result.data(), ggml_nelements(weight));
  else
    reject(file_,
           std::string("has weights of type ") + ggml_type_name(weight->type) + ", which do not unpack to float");
  return result;
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

void gguf_model::read_shape(conventions const& c) {
  shape_.layers = count("block_count");
  shape_.hidden = count("embedding_length");
  shape_.feed_forward = count("feed_forward_length");
  shape_.heads = count("attention.head_count");
  shape_.kv_heads = static_cast<int>(number("attention.head_count_kv", shape_.heads));
  shape_.context = count("context_length");
  shape_.dim = static_cast<int>(number("attention.key_length", shape_.hidden / shape_.heads));
  if (shape_.kv_heads < 1 || shape_.dim < 2 || shape_.heads % shape_.kv_heads != 0)
    reject(file_, "has an impossible number of heads");
  if (number("attention.value_length", shape_.dim) != shape_.dim ||
      number("rope.dimension_count", shape_.dim) != shape_.dim)
    reject(file_, "has values or rotary dimensions of another width than its keys; this engine needs them equal");
  if (number("expert_count", 0) != 0) reject(file_, "is a mixture of experts; this engine runs dense models");

  if (shape_.layers == c.layers_scaled_by_width)
    shape_.attention_scale = 1 / std::sqrt(static_cast<float>(shape_.hidden / shape_.heads));
  shape_.soft_cap = static_cast<float>(number("attn_logit_softcapping", c.soft_cap));
  final_soft_cap_ = static_cast<float>(number("final_logit_softcapping", c.final_soft_cap));
  norm_epsilon_ = static_cast<float>(number("attention.layer_norm_rms_epsilon"));
  if (c.scales_embedding) embedding_scale_ = std::sqrt(static_cast<float>(shape_.hidden));
  gelu_ = c.gelu;
}

void gguf_model::read_windows(conventions const& c) {
  auto const window = static_cast<int>(number("attention.sliding_window", c.window));
  if (c.window_period == 0 || window == 0) return;
  if (window < 0) reject(file_, "has an impossible " + key("attention.sliding_window"));
  std::string const pattern = key("attention.sliding_window_pattern");
  auto const layers = static_cast<std::size_t>(shape_.layers);
  shape_.windows.assign(layers, window);

  std::int64_t const id = gguf_find_key(metadata_.get(), pattern.c_str());
  if (id >= 0 && gguf_get_kv_type(metadata_.get(), id) == GGUF_TYPE_ARRAY) {
    if (gguf_get_arr_type(metadata_.get(), id) != GGUF_TYPE_BOOL || gguf_get_arr_n(metadata_.get(), id) != layers)
      reject(file_, "has a " + pattern + " that does not say yes or no for each layer");
    auto const* const local = static_cast<bool const*>(gguf_get_arr_data(metadata_.get(), id));
    for (std::size_t l = 0; l < layers; ++l)
      if (!local[l]) shape_.windows[l] = 0;
    return;
  }
  auto const period = static_cast<std::size_t>(number("attention.sliding_window_pattern", c.window_period));
  for (std::size_t l = 0; l < layers && period > 0; ++l)
    if (l % period == period - 1) shape_.windows[l] = 0;
}

void gguf_model::read_rope(conventions const& c) {
  std::string const scaling = has("rope.scaling.type") ? text(key("rope.scaling.type")) : "linear";
  if (scaling != "linear" && scaling != "none")
    reject(file_, "scales its rotary embedding by '" + scaling + "'; this engine knows 'linear' and 'none'");
  double const factor = scaling == "linear" ? number("rope.scaling.factor", 1) : 1;
  rope_ = {.type = c.rope_type,
           .base = static_cast<float>(number("rope.freq_base", 10000)),
           .scale = factor == 0 ? 1 : 1 / static_cast<float>(factor)};
  if (c.rope_type == GGML_ROPE_TYPE_MROPE) read_sections();
  window_rope_ = rope_;
  if (c.window_rope_base > 0) window_rope_ = {.type = c.rope_type, .base = c.window_rope_base, .scale = 1};
  window_rope_.base = static_cast<float>(number("rope.freq_base_swa", static_cast<double>(window_rope_.base)));
}

void gguf_model::read_sections() {
  std::string const name = key("rope.dimension_sections");
  std::int64_t const id = gguf_find_key(metadata_.get(), name.c_str());
  if (id < 0 || gguf_get_kv_type(metadata_.get(), id) != GGUF_TYPE_ARRAY ||
      gguf_get_arr_type(metadata_.get(), id) != GGUF_TYPE_INT32 || gguf_get_arr_n(metadata_.get(), id) > 4)
    reject(file_, "has no " + name + " of at most four numbers");
  auto const* const pairs = static_cast<std::int32_t const*>(gguf_get_arr_data(metadata_.get(), id));
  std::copy_n(pairs, gguf_get_arr_n(metadata_.get(), id), rope_.sections.begin());
  if (std::ranges::min(rope_.sections) < 0 ||
      std::accumulate(rope_.sections.begin(), rope_.sections.end(), 0) != shape_.dim / 2)
    reject(file_, "has a " + name + " that does not add up to half of a head");
}

void gguf_model::find_weights(conventions const& c) {
  ggml_tensor const* const embedding = ggml_get_tensor(tensors_.get(), "token_embd.weight");
  if (embedding == nullptr) reject(file_, "has no tensor token_embd.weight");
  shape_.vocabulary = static_cast<int>(embedding->ne[1]);

  std::int64_t const hidden = shape_.hidden, dim = shape_.dim, heads = shape_.heads * dim,
                     kv_heads = shape_.kv_heads * dim, wide = shape_.feed_forward;
  token_embedding_ = weight("token_embd.weight", hidden, shape_.vocabulary);
  output_norm_ = weight("output_norm.weight", hidden, 1);
  output_ = optional_weight("output.weight", hidden, shape_.vocabulary);
  if (output_ == nullptr) output_ = token_embedding_;
  rope_factors_ = optional_weight("rope_freqs.weight", dim / 2, 1);

  find_patch_weights();

  auto norm_if = [&](bool has, std::string const& name, std::int64_t columns) {
    return has ? weight(name, columns, 1) : nullptr;
  };
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
                       .attn_q_norm = norm_if(c.head_norms, block + "attn_q_norm.weight", dim),
                       .attn_k_norm = norm_if(c.head_norms, block + "attn_k_norm.weight", dim),
                       .post_attention_norm = norm_if(c.post_norms, block + "post_attention_norm.weight", hidden),
                       .ffn_norm = weight(block + "ffn_norm.weight", hidden, 1),
                       .ffn_gate = weight(block + "ffn_gate.weight", hidden, wide),
                       .ffn_up = weight(block + "ffn_up.weight", hidden, wide),
                       .ffn_down = weight(block + "ffn_down.weight", wide, hidden),
                       .post_ffw_norm = norm_if(c.post_norms, block + "post_ffw_norm.weight", hidden)});
  }
}

void gguf_model::find_patch_weights() {
  auto const size = [&](char const* name, int axis) -> std::int64_t {
    ggml_tensor const* const tensor = ggml_get_tensor(tensors_.get(), name);
    return tensor == nullptr ? 0 : tensor->ne[axis];
  };
  std::int64_t const hidden = shape_.hidden;
  patches_.pixels = optional_weight("v.patch_embd.weight", size("v.patch_embd.weight", 0), hidden);
  if (patches_.pixels == nullptr) return;
  patches_.bias = optional_weight("v.patch_embd.bias", hidden, 1);
  constexpr std::array names{"v.position_embd.frame.weight", "v.position_embd.row.weight",
                             "v.position_embd.column.weight"};
  for (std::size_t axis = 0; axis < names.size(); ++axis)
    patches_.places[axis] = weight(names[axis], hidden, size(names[axis], 1));
}

/// A tensor that nobody asked for is a part of the model that would silently be missing.
void gguf_model::refuse_unused_weights() const {
  for (std::int64_t i = 0; i < gguf_get_n_tensors(metadata_.get()); ++i) {
    char const* const name = gguf_get_tensor_name(metadata_.get(), i);
    if (!used_.contains(ggml_get_tensor(tensors_.get(), name)))
      reject(file_, "has a tensor " + std::string(name) + ", which this engine does not know");
  }
}

std::string gguf_model::key(char const* name) const { return architecture_ + '.' + name; }

bool gguf_model::has(char const* name) const { return gguf_find_key(metadata_.get(), key(name).c_str()) >= 0; }

double gguf_model::number(char const* name) const {
  std::int64_t const id = gguf_find_key(metadata_.get(), key(name).c_str());
  if (id < 0) reject(file_, "has no " + key(name));
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
      reject(file_, "has a " + key(name) + " that differs from layer to layer or is no number");
  }
}

double gguf_model::number(char const* name, double otherwise) const { return has(name) ? number(name) : otherwise; }

int gguf_model::count(char const* name) const {
  double const value = number(name);
  if (!(value >= 1 && value <= 1 << 28)) reject(file_, "has an impossible " + key(name));
  return static_cast<int>(value);
}

std::string gguf_model::text(std::string const& whole_key) const {
  std::int64_t const id = gguf_find_key(metadata_.get(), whole_key.c_str());
  if (id < 0 || gguf_get_kv_type(metadata_.get(), id) != GGUF_TYPE_STRING) reject(file_, "has no " + whole_key);
  return gguf_get_val_str(metadata_.get(), id);
}

std::vector<std::string> gguf_model::words() const {
  std::int64_t const id = gguf_find_key(metadata_.get(), "tokenizer.ggml.tokens");
  if (id < 0 || gguf_get_kv_type(metadata_.get(), id) != GGUF_TYPE_ARRAY ||
      gguf_get_arr_type(metadata_.get(), id) != GGUF_TYPE_STRING)
    return {};
  std::vector<std::string> result(gguf_get_arr_n(metadata_.get(), id));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = gguf_get_arr_str(metadata_.get(), id, i);
  return result;
}

ggml_tensor* gguf_model::optional_weight(std::string const& name, std::int64_t columns, std::int64_t rows) {
  ggml_tensor* const tensor = ggml_get_tensor(tensors_.get(), name.c_str());
  if (tensor != nullptr && (tensor->ne[0] != columns || tensor->ne[1] != rows || ggml_nrows(tensor) != rows))
    reject(file_, "has a tensor " + name + " of another shape than its metadata says");
  used_.insert(tensor);
  return tensor;
}

ggml_tensor* gguf_model::weight(std::string const& name, std::int64_t columns, std::int64_t rows) {
  ggml_tensor* const tensor = optional_weight(name, columns, rows);
  if (tensor == nullptr) reject(file_, "has no tensor " + name);
  return tensor;
}

}  // namespace engine
