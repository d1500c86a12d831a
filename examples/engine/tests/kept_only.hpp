// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../language_model.hpp"
#include "../presets.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

namespace engine {

/// Passes everything on to another attention and remembers the positions that entered each layer.
struct watched_attention final : attention {
  attention& inner;
  std::vector<std::vector<std::int32_t>> entered;  // [layers]

  explicit watched_attention(attention& a) : inner(a) {}
  void begin(int prompt_tokens, int new_tokens) override { inner.begin(prompt_tokens, new_tokens); }
  bool drops_after(int layer) const override { return inner.drops_after(layer); }
  std::span<std::int32_t const> rows_entering(int layer) const override { return inner.rows_entering(layer); }
  void open(int layer, int tokens, std::int32_t const* positions) override {
    entered.emplace_back(positions, positions + tokens);
    inner.open(layer, tokens, positions);
  }
  purekv::status run(purekv::cpu exec, int layer, layer_rows const& rows) override {
    return inner.run(exec, layer, rows);
  }
  void close(int layer) override { inner.close(layer); }
};

/// Attention written from its formula, in double, for one prompt: from layer `first` on, every row still passes, but is
/// seen by itself and, if its position is in `kept`, by those after it. What the kept rows become is what they become
/// alone.
struct kept_only_attention final : attention {
  model_shape shape;
  int first;
  std::set<std::int32_t> kept;

  kept_only_attention(model_shape const& s, int layer, std::vector<std::int32_t> const& positions)
      : shape(s), first(layer), kept(positions.begin(), positions.end()) {}
  void begin(int, int) override {}
  void open(int, int, std::int32_t const*) override {}
  purekv::status run(purekv::cpu exec, int layer, layer_rows const& rows) override {
    int const group = shape.heads / shape.kv_heads, dim = shape.dim;
    for (int i = exec.rank(); i < rows.tokens; i += exec.size())
      for (int head = 0; head < shape.heads; ++head) {
        auto const at = [&](float const* data, int token, int heads, int h) {
          return data + (std::ptrdiff_t{token} * heads + h) * dim;
        };
        std::vector<double> sum(static_cast<std::size_t>(dim));
        double weights = 0;
        for (int t = 0; t <= i; ++t) {
          if (t < i && layer >= first && kept.count(rows.positions[t]) == 0) continue;
          double dot = 0;
          for (int d = 0; d < dim; ++d)
            dot += double{at(rows.q, i, shape.heads, head)[d]} * at(rows.k, t, shape.kv_heads, head / group)[d];
          double const weight = std::exp(dot / std::sqrt(double(dim)));
          weights += weight;
          for (int d = 0; d < dim; ++d)
            sum[static_cast<std::size_t>(d)] += weight * at(rows.v, t, shape.kv_heads, head / group)[d];
        }
        for (int d = 0; d < dim; ++d)
          rows.out[(std::ptrdiff_t{i} * shape.heads + head) * dim + d] =
              static_cast<float>(sum[static_cast<std::size_t>(d)] / weights);
      }
    exec.sync();
    return {};
  }
  void close(int) override {}
};

/// Logits after a prompt under purekv_drop and what they should be.
struct dropped_logits {
  std::vector<float> seen, expected;
  std::vector<std::vector<std::int32_t>> entered;
  double worst = 0;  // largest difference
};

inline dropped_logits drop(language_model& model, std::span<int const> prompt, int compression) {
  dropped_logits result;
  auto const dropping = make_attention("purekv_drop", compression, model, {.element = cache_element::float32});
  watched_attention watched(*dropping);
  watched.begin(static_cast<int>(prompt.size()), 0);
  result.seen = model.prefill(prompt, watched);
  result.entered = watched.entered;
  kept_only_attention reference(model.shape(), dropping->first_layer_that_differs(), watched.entered.back());
  result.expected = model.prefill(prompt, reference);
  for (std::size_t i = 0; i < result.seen.size(); ++i)
    result.worst = std::max(result.worst, std::abs(double{result.seen[i]} - result.expected[i]));
  return result;
}

}  // namespace engine
