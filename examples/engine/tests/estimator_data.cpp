// SPDX-License-Identifier: Apache-2.0
#include "../estimator_data.hpp"

#include "../engine.hpp"
#include "random_gguf.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

#include <ggml-cpu.h>

#include <cmath>
#include <numeric>
#include <random>

namespace engine {

namespace {

/// What ggml's rotary embedding of a layer makes of x : [tokens, heads, dim].
std::vector<float> rotated(gguf_model const& model, int layer, std::vector<float> const& x, int tokens) {
  ggml_context_ptr const context(
      ggml_init({.mem_size = std::size_t{16} << 20, .mem_buffer = nullptr, .no_alloc = false}));
  model_shape const& s = model.shape();
  ggml_tensor* const in = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, s.dim, s.heads, tokens);
  std::copy(x.begin(), x.end(), ggml_get_data_f32(in));
  ggml_tensor* const positions = ggml_new_tensor_1d(context.get(), GGML_TYPE_I32, tokens);
  std::iota(static_cast<std::int32_t*>(positions->data), static_cast<std::int32_t*>(positions->data) + tokens, 0);
  rope_parameters const rope = model.rope(layer);
  ggml_tensor* const out = ggml_rope_ext(context.get(), in, positions, model.rope_factors(), s.dim, rope.type,
                                         s.context, rope.base, rope.scale, 0, 1, 32, 1);
  ggml_cgraph* const graph = ggml_new_graph(context.get());
  ggml_build_forward_expand(graph, out);
  REQUIRE(ggml_graph_compute_with_ctx(context.get(), graph, 1) == GGML_STATUS_SUCCESS);
  return {ggml_get_data_f32(out), ggml_get_data_f32(out) + x.size()};
}

}  // namespace

TEST_CASE(
    "the moments of queries to come: of the queries before the rotary embedding, turned 512 positions on average") {
  scratch_directory const directory;
  for (random_gguf const& shape : {random_gguf{.architecture = "llama", .rope_factors = true},
                                   random_gguf{.architecture = "qwen2", .biases = true},
                                   random_gguf{.architecture = "gemma3",
                                   .head_norms = true,
                                   .post_norms = true,
                                   .numbers = {{"rope.freq_base", 1e6f}},
                                   .window = 8,
                                   .window_period = 2}}) {
    CAPTURE(shape.architecture);
    shape.write(directory / "model.gguf");
    gguf_model const weights(directory / "model.gguf");
    engine const model(weights, 1);
    model_shape const& s = model.shape();
    constexpr int tokens = 37, sinks = 4, ahead = 512;
    int const width = s.heads * s.dim;
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    std::vector<float> q(static_cast<std::size_t>(tokens * width));
    for (float& x : q) x = normal(generator);

    for (int layer : {0, 1}) {
      CAPTURE(layer);
      std::vector<float> const seen = rotated(weights, layer, q, tokens);
      std::vector<std::int32_t> positions(tokens);
      std::iota(positions.begin(), positions.end(), 0);
      queries_to_come data(model);
      data.begin(tokens);
      REQUIRE(data.fill({}, layer, {.tokens = tokens, .positions = positions.data(), .q = seen.data()}).ok());

      // The mean by ggml: the average of the mean query at each of the next positions.
      std::vector<float> mean(static_cast<std::size_t>(width));
      for (int t = sinks; t < tokens; ++t)
        for (int i = 0; i < width; ++i)
          mean[std::size_t(i)] += q[static_cast<std::size_t>(t * width + i)] / (tokens - sinks);
      std::vector<float> copies;
      for (int t = 0; t < tokens + ahead; ++t) copies.insert(copies.end(), mean.begin(), mean.end());
      std::vector<float> const turned = rotated(weights, layer, copies, tokens + ahead);
      for (int i = 0; i < width; ++i) {
        double expected = 0;
        for (int t = tokens; t < tokens + ahead; ++t)
          expected += double{turned[static_cast<std::size_t>(t * width + i)]} / ahead;
        CHECK(data.moments().mean[i] == doctest::Approx(expected).scale(1).epsilon(2e-4));
      }
    }
  }
}

TEST_CASE("the output projection is the file's") {
  scratch_directory const directory;
  random_gguf{.architecture = "llama"}.write(directory / "model.gguf");
  gguf_model const weights(directory / "model.gguf");
  engine const model(weights, 1);
  output_projections const data(model);
  for (int l = 0; l < model.shape().layers; ++l) {
    float const* const expected = ggml_get_data_f32(weights.block(l).attn_output);
    auto const projection = data.of(l);
    CHECK(projection.hidden == model.shape().hidden);
    for (int row : {0, 5, 55})
      for (int head : {0, 3, 6})
        for (int i = 0; i < 16; ++i) CHECK(projection.row(head, row)[i] == expected[row * 7 * 16 + head * 16 + i]);
  }
}

}  // namespace engine
