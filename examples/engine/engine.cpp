// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include "error.hpp"

#include <numeric>
#include <stdexcept>

namespace engine {

namespace {

constexpr std::size_t graph_nodes = 64;

/// What the custom operation of one layer works on. Each of ggml's threads enters with its rank.
struct attention_call {
  attention& target;
  purekv::spin_barrier& barrier;
  std::int32_t const* positions;
  int layer;
  int tokens;
  float* recorded_lse = nullptr;  // of attention that was computed before: nothing comes out then
  purekv::status status{};

  /// The result has the shape of the queries: [tokens, heads * dim]; one unused number where nothing comes out.
  ggml_tensor* operation(ggml_context* context, engine::projections qkv) {
    std::int64_t const rows = recorded_lse == nullptr ? tokens : 1;
    std::int64_t const columns = recorded_lse == nullptr ? ggml_nelements(qkv[0]) / tokens : 1;
    return ggml_custom_4d(context, GGML_TYPE_F32, columns, rows, 1, 1, qkv.data(), 3, &attention_call::enter,
                          GGML_N_TASKS_MAX, this);
  }

  static void enter(ggml_tensor* out, int rank, int ranks, void* self) {
    auto& call = *static_cast<attention_call*>(self);
    purekv::cpu const exec{rank, ranks, &purekv::spin_barrier::wait, &call.barrier};
    layer_rows const rows{.tokens = call.tokens,
                          .positions = call.positions,
                          .q = ggml_get_data_f32(out->src[0]),
                          .k = ggml_get_data_f32(out->src[1]),
                          .v = ggml_get_data_f32(out->src[2]),
                          .out = call.recorded_lse == nullptr ? ggml_get_data_f32(out) : nullptr,
                          .lse = call.recorded_lse};
    purekv::status const status = call.target.run(exec, call.layer, rows);
    if (rank == 0) call.status = status;
  }
};

ggml_tensor* linear(ggml_context* context, ggml_tensor* weight, ggml_tensor* bias, ggml_tensor* x) {
  ggml_tensor* const y = ggml_mul_mat(context, weight, x);
  return bias == nullptr ? y : ggml_add(context, y, bias);
}

ggml_tensor* rows_of(ggml_context* context, ggml_tensor* all, std::span<std::int32_t const> rows) {
  ggml_tensor* const ids = ggml_new_tensor_1d(context, GGML_TYPE_I32, static_cast<std::int64_t>(rows.size()));
  ids->data = const_cast<std::int32_t*>(rows.data());
  return ggml_get_rows(context, all, ids);
}

}  // namespace

engine::engine(gguf_model const& model, int threads)
    : model_(model),
      threads_(threads),
      barrier_(threads),
      backend_(ggml_backend_cpu_init()),
      allocator_(ggml_gallocr_new(ggml_backend_cpu_buffer_type())),
      graph_memory_(graph_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(graph_nodes, false)) {
  ggml_threadpool_params params = ggml_threadpool_params_default(threads);
  pool_.reset(ggml_threadpool_new(&params));
  ggml_backend_cpu_set_threadpool(backend_.get(), pool_.get());
  ggml_backend_cpu_set_n_threads(backend_.get(), threads);
}

std::vector<float> engine::prefill(std::span<int const> tokens, attention& attention) {
  return extend(tokens, 0, attention);
}

std::vector<float> engine::record(std::span<int const> tokens, attention& full, recorded_prompt& pass) {
  struct recorder final : attention {
    attention& inner;
    engine& model;
    recorded_prompt& pass;
    recorder(attention& a, engine& m, recorded_prompt& p) : inner(a), model(m), pass(p) {}

    void begin(int prompt_tokens, int new_tokens) override { inner.begin(prompt_tokens, new_tokens); }
    void open(int layer, int count, std::int32_t const* positions) override {
      pass.hidden.push_back(model.hidden_);
      inner.open(layer, count, positions);
    }
    purekv::status run(purekv::cpu exec, int layer, layer_rows const& rows) override {
      if (exec.rank() == 0) {
        auto keep = [&](std::vector<std::vector<float>>& all, float const* data, int heads) {
          all.emplace_back(data, data + std::ptrdiff_t{rows.tokens} * heads * model.shape().dim);
        };
        keep(pass.q, rows.q, model.shape().heads);
        keep(pass.k, rows.k, model.shape().kv_heads);
        keep(pass.v, rows.v, model.shape().kv_heads);
        pass.lse.emplace_back(std::size_t(model.shape().heads) * std::size_t(rows.tokens));
      }
      exec.sync();
      layer_rows tapped = rows;
      tapped.lse = pass.lse.back().data();
      return inner.run(exec, layer, tapped);
    }
    void close(int layer) override { inner.close(layer); }
  } recording(full, *this, pass);

  pass = {};
  std::vector<float> result = prefill(tokens, recording);
  pass.hidden.push_back(hidden_);
  return result;
}

std::vector<float> engine::replay(recorded_prompt const& pass, int first, attention& attention) {
  std::size_t const tokens = pass.hidden[0].size() / static_cast<std::size_t>(shape().hidden);
  place(tokens, 0);
  for (int layer = 0; layer < first; ++layer) {
    auto const l = static_cast<std::size_t>(layer);
    attention.open(layer, static_cast<int>(tokens), positions_.data());
    attention_call call{attention,
                        barrier_,
                        positions_.data(),
                        layer,
                        static_cast<int>(tokens),
                        const_cast<float*>(pass.lse[l].data())};
    compute([&](ggml_context* c) {
      auto rows = [&](std::vector<float> const& data) {
        std::int64_t const columns = static_cast<std::int64_t>(data.size() / tokens);
        ggml_tensor* const tensor = ggml_new_tensor_2d(c, GGML_TYPE_F32, columns, static_cast<std::int64_t>(tokens));
        tensor->data = const_cast<float*>(data.data());
        return tensor;
      };
      return call.operation(c, {rows(pass.q[l]), rows(pass.k[l]), rows(pass.v[l])});
    });
    call.status.or_throw();
    attention.close(layer);
  }
  hidden_ = pass.hidden[static_cast<std::size_t>(first)];
  if (first > 0 && attention.drops_after(first - 1)) go_on_with(attention.rows_entering(first));
  for (int layer = first; layer < shape().layers; ++layer) this->pass(layer, attention);
  return logits(static_cast<int>(positions_.size()) - 1, 1);
}

std::vector<float> engine::extend(std::span<int const> tokens, int position, attention& attention) {
  embed(tokens, position);
  for (int layer = 0; layer < shape().layers; ++layer) pass(layer, attention);
  return logits(static_cast<int>(positions_.size()) - 1, 1);
}

std::vector<float> engine::extend_all(std::span<int const> tokens, int position, attention& attention) {
  embed(tokens, position);
  for (int layer = 0; layer < shape().layers; ++layer) pass(layer, attention);
  return logits(0, static_cast<int>(tokens.size()));
}

void engine::place(std::size_t tokens, int first_position) {
  hidden_.resize(tokens * static_cast<std::size_t>(shape().hidden));
  positions_.resize(tokens);
  std::iota(positions_.begin(), positions_.end(), first_position);
}

void engine::show(visual_input const& input) {
  if (purekv::status const s = validate(input.layout); !s.ok()) throw bad_input(s.message);
  auto const segments = std::span(input.layout.segments, static_cast<std::size_t>(input.layout.count));
  patch_weights const& w = model_.patches();
  for (purekv::segment const& s : segments) {
    if (!s.has_frames()) continue;
    if (w.pixels == nullptr) throw bad_input(model_.file().string() + ": is a model that reads and does not see");
    int const sizes[] = {s.frames, s.height, s.width};
    constexpr char const* things[] = {"frames", "rows of patches", "columns of patches"};
    for (std::size_t axis = 0; axis < 3; ++axis)
      if (sizes[axis] > w.places[axis]->ne[1])
        throw bad_input("the video has " + std::to_string(sizes[axis]) + ' ' + things[axis] +
                        "; the model was trained on at most " + std::to_string(w.places[axis]->ne[1]));
  }
  auto const patches = static_cast<std::size_t>(patches_before(input.layout, input.layout.tokens()));
  if (patches > 0 && input.patches.size() != patches * static_cast<std::size_t>(w.pixels->ne[0]))
    throw bad_input("the video has " + std::to_string(input.patches.size()) + " values, not " +
                    std::to_string(w.pixels->ne[0]) + " for each of " + std::to_string(patches) + " patches");
  shown_ = input;
}

void engine::embed(std::span<int const> tokens, int first_position) {
  place(tokens.size(), first_position);
  int const end = first_position + static_cast<int>(tokens.size());
  for (int from = first_position, to; from < end; from = to) {
    purekv::token_layout const& layout = shown_.layout;
    bool const covered = layout.covers(from);
    purekv::segment const* const s = covered ? layout.segments + layout.segment_of(from) : nullptr;
    to = covered ? std::min(end, s->end()) : end;
    auto const first = static_cast<std::size_t>(from - first_position), count = static_cast<std::size_t>(to - from);
    float* const rows = hidden_.data() + first * static_cast<std::size_t>(shape().hidden);
    if (covered && s->has_frames())
      embed_patches(from, to - from, rows);
    else
      embed_words(tokens.subspan(first, count), rows);
  }
}

void engine::embed_words(std::span<int const> tokens, float* rows) {
  compute([&](ggml_context* context) {
    ggml_tensor* const ids = ggml_new_tensor_1d(context, GGML_TYPE_I32, static_cast<std::int64_t>(tokens.size()));
    ids->data = const_cast<int*>(tokens.data());
    ggml_tensor* const x =
        ggml_scale(context, ggml_get_rows(context, model_.token_embedding(), ids), model_.embedding_scale());
    x->data = rows;
    return x;
  });
}

void engine::embed_patches(int first_position, int count, float* rows) {
  patch_weights const& w = model_.patches();
  std::array<std::vector<std::int32_t>, 3> places;
  for (int i = 0; i < count; ++i) {
    purekv::coordinates const at = shown_.layout.at(first_position + i);
    places[0].push_back(at.t);
    places[1].push_back(at.y);
    places[2].push_back(at.x);
  }
  std::ptrdiff_t const first = patches_before(shown_.layout, first_position);
  compute([&](ggml_context* context) {
    ggml_tensor* const pixels = ggml_new_tensor_2d(context, GGML_TYPE_F32, w.pixels->ne[0], count);
    pixels->data = const_cast<float*>(shown_.patches.data()) + first * w.pixels->ne[0];
    ggml_tensor* x = linear(context, w.pixels, w.bias, pixels);
    for (std::size_t axis = 0; axis < places.size(); ++axis) {
      ggml_tensor* const ids = ggml_new_tensor_1d(context, GGML_TYPE_I32, count);
      ids->data = places[axis].data();
      x = ggml_add(context, x, ggml_get_rows(context, w.places[axis], ids));
    }
    x->data = rows;
    return x;
  });
}

/// For an embedding of sections, [4, tokens]: all t, all y, all x, and a fourth that no model here uses.
std::vector<std::int32_t> engine::rotary_positions() const {
  if (model_.rope(0).type != GGML_ROPE_TYPE_MROPE) return positions_;
  std::size_t const tokens = positions_.size();
  std::vector<std::int32_t> result(4 * tokens);
  for (std::size_t i = 0; i < tokens; ++i) {
    auto const at = rotary_coordinates(shown_.layout, positions_[i]);
    for (std::size_t axis = 0; axis < at.size(); ++axis) result[axis * tokens + i] = at[axis];
  }
  return result;
}

/// The other rows of the residual stream are forgotten.
void engine::go_on_with(std::span<std::int32_t const> rows) {
  std::vector<float> kept(rows.size() * static_cast<std::size_t>(shape().hidden));
  compute([&](ggml_context* context) {
    ggml_tensor* const x = rows_of(context, hidden_states(context, 0, static_cast<int>(positions_.size())), rows);
    x->data = kept.data();
    return x;
  });
  replace_rows(std::move(kept), rows);
}

void engine::replace_rows(std::vector<float> hidden, std::span<std::int32_t const> rows) {
  hidden_ = std::move(hidden);
  for (std::size_t i = 0; i < rows.size(); ++i) positions_[i] = positions_[static_cast<std::size_t>(rows[i])];
  positions_.resize(rows.size());
}

void engine::pass(int layer, attention& attention) {
  model_shape const& s = shape();
  int const tokens = static_cast<int>(positions_.size());
  attention_call call{attention, barrier_, positions_.data(), layer, tokens};

  attention.open(layer, tokens, positions_.data());
  if (!attention.drops_after(layer)) {
    compute([&](ggml_context* c) {
      ggml_tensor* const x = hidden_states(c, 0, tokens);
      return ggml_cpy(c, feed(c, layer, call.operation(c, project(c, layer, x)), x), x);
    });
    call.status.or_throw();
  } else {
    // Which rows go on is known when the layer has attended, so what comes after that is a graph of its own.
    std::vector<float> attended(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(s.heads * s.dim));
    compute([&](ggml_context* c) {
      ggml_tensor* const result = call.operation(c, project(c, layer, hidden_states(c, 0, tokens)));
      result->data = attended.data();
      return result;
    });
    call.status.or_throw();
    auto const rows = attention.rows_entering(layer + 1);
    std::vector<float> kept(rows.size() * static_cast<std::size_t>(s.hidden));
    compute([&](ggml_context* c) {
      ggml_tensor* const all = ggml_new_tensor_2d(c, GGML_TYPE_F32, s.heads * s.dim, tokens);
      all->data = attended.data();
      ggml_tensor* const x = rows_of(c, hidden_states(c, 0, tokens), rows);
      ggml_tensor* const out = feed(c, layer, rows_of(c, all, rows), x);
      out->data = kept.data();
      return out;
    });
    replace_rows(std::move(kept), rows);
  }
  attention.close(layer);
}

/// Queries, keys and values of a layer from what enters it, rotated.
engine::projections engine::project(ggml_context* c, int layer, ggml_tensor* x) {
  block_weights const& w = model_.block(layer);
  model_shape const& s = shape();
  std::int64_t const tokens = x->ne[1];
  turns_ = rotary_positions();
  ggml_tensor* const positions = ggml_new_tensor_1d(c, GGML_TYPE_I32, static_cast<std::int64_t>(turns_.size()));
  positions->data = turns_.data();
  auto rotate = [&](ggml_tensor* y, int heads, ggml_tensor* head_norm) {
    rope_parameters rope = model_.rope(layer);
    ggml_tensor* const z = norm(c, ggml_reshape_3d(c, y, s.dim, heads, tokens), head_norm);
    if (rope.type == GGML_ROPE_TYPE_MROPE)
      return ggml_rope_multi(c, z, positions, model_.rope_factors(), s.dim, rope.sections.data(), rope.type, s.context,
                             rope.base, rope.scale, 0, 1, 32, 1);
    return ggml_rope_ext(c, z, positions, model_.rope_factors(), s.dim, rope.type, s.context, rope.base, rope.scale, 0,
                         1, 32, 1);
  };
  ggml_tensor* const h = norm(c, x, w.attn_norm);
  return {rotate(linear(c, w.attn_q, w.attn_q_bias, h), s.heads, w.attn_q_norm),
          rotate(linear(c, w.attn_k, w.attn_k_bias, h), s.kv_heads, w.attn_k_norm),
          linear(c, w.attn_v, w.attn_v_bias, h)};
}

/// What comes out of a layer, row by row, from what attention made of the row and what the row was.
ggml_tensor* engine::feed(ggml_context* c, int layer, ggml_tensor* attended, ggml_tensor* x) {
  block_weights const& w = model_.block(layer);
  ggml_tensor* const o = linear(c, w.attn_output, w.attn_output_bias, attended);
  ggml_tensor* const y = ggml_add(c, norm(c, o, w.post_attention_norm), x);
  ggml_tensor* const g = norm(c, y, w.ffn_norm);
  auto* const gated = model_.gelu() ? &ggml_geglu_split : &ggml_swiglu_split;
  ggml_tensor* const wide = gated(c, ggml_mul_mat(c, w.ffn_gate, g), ggml_mul_mat(c, w.ffn_up, g));
  return ggml_add(c, norm(c, ggml_mul_mat(c, w.ffn_down, wide), w.post_ffw_norm), y);
}

ggml_tensor* engine::norm(ggml_context* c, ggml_tensor* x, ggml_tensor* weight) {
  return weight == nullptr ? x : ggml_mul(c, ggml_rms_norm(c, x, model_.norm_epsilon()), weight);
}

std::vector<float> engine::logits(int first, int count) {
  std::vector<float> result(static_cast<std::size_t>(count) * static_cast<std::size_t>(shape().vocabulary));
  compute([&](ggml_context* c) {
    ggml_tensor* const x = ggml_rms_norm(c, hidden_states(c, first, count), model_.norm_epsilon());
    ggml_tensor* rows = ggml_mul_mat(c, model_.output(), ggml_mul(c, x, model_.output_norm()));
    if (float const cap = model_.final_soft_cap(); cap != 0)
      rows = ggml_scale(c, ggml_tanh(c, ggml_scale(c, rows, 1 / cap)), cap);
    rows->data = result.data();
    return rows;
  });
  return result;
}

ggml_tensor* engine::hidden_states(ggml_context* context, int first, int count) {
  ggml_tensor* const x = ggml_new_tensor_2d(context, GGML_TYPE_F32, shape().hidden, count);
  x->data = hidden_.data() + std::size_t(first) * std::size_t(shape().hidden);
  return x;
}

void engine::compute(std::function<ggml_tensor*(ggml_context*)> const& build) {
  ggml_context_ptr const context(
      ggml_init({.mem_size = graph_memory_.size(), .mem_buffer = graph_memory_.data(), .no_alloc = true}));
  ggml_cgraph* const graph = ggml_new_graph_custom(context.get(), graph_nodes, false);
  ggml_build_forward_expand(graph, build(context.get()));
  if (!ggml_gallocr_alloc_graph(allocator_.get(), graph)) throw std::bad_alloc();
  if (ggml_backend_graph_compute(backend_.get(), graph) != GGML_STATUS_SUCCESS)
    throw std::runtime_error("ggml could not compute a layer");
}

}  // namespace engine
