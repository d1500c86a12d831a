// SPDX-License-Identifier: Apache-2.0
#include "estimator_data.hpp"

#include <purekv/average_rotation.hpp>

#include <algorithm>
#include <cmath>

namespace engine {

output_projections::output_projections(language_model const& model) : shape_(model.shape()) {
  for (int l = 0; l < shape_.layers; ++l) weights_.push_back(model.output_projection(l));
}

purekv::output_projection<float> output_projections::of(int layer) const {
  return {weights_[static_cast<std::size_t>(layer)].data(), shape_.hidden, shape_.heads, shape_.dim,
          std::ptrdiff_t{shape_.heads} * shape_.dim};
}

queries_to_come::queries_to_come(language_model const& model)
    : model_(model),
      mean_(static_cast<std::size_t>(model.shape().heads * model.shape().dim)),
      covariance_(mean_.size() * static_cast<std::size_t>(model.shape().dim)) {
  model_.rotary(0);  // throws where queries do not turn by their position
}

purekv::query_moments queries_to_come::moments() {
  return {mean_.data(), covariance_.data(), 1, model_.shape().heads, model_.shape().dim};
}

void queries_to_come::begin(int prompt_tokens) {
  prompt_ = prompt_tokens;
  queries_.resize(static_cast<std::size_t>(prompt_tokens) * mean_.size());
}

purekv::status queries_to_come::fill(purekv::cpu exec, int layer, layer_rows const& rows) {
  model_shape const& s = model_.shape();
  purekv::rotary const rotary = model_.rotary(layer);
  std::ptrdiff_t const width = std::ptrdiff_t{s.heads} * s.dim;
  for (int t = exec.rank(); t < rows.tokens; t += exec.size()) {
    float const* const from = rows.q + t * width;
    float* const to = queries_.data() + t * width;
    std::copy(from, from + width, to);
    for (int i = 0; i < rotary.pairs; ++i) {
      float const angle = static_cast<float>(rows.positions[t]) * rotary.frequency[i];
      float const cosine = std::cos(angle), sine = std::sin(angle);
      for (int h = 0; h < s.heads; ++h) {
        float &x = to[h * s.dim + rotary.x(i)], &y = to[h * s.dim + rotary.y(i)];
        float const a = x;
        x = a * cosine + y * sine;
        y = y * cosine - a * sine;
      }
    }
  }
  exec.sync();
  constexpr int sinks = 4, positions_ahead = 512;
  purekv::query_view<float> const q{
      .rows = purekv::token_major<float const>(queries_.data(), s.heads, rows.tokens, s.dim),
      .batch = {.positions = rows.positions}};
  if (purekv::status const r = purekv::moments(exec, q, sinks, moments()); !r.ok()) return r;
  return purekv::average_rotation(exec, rotary, &prompt_, positions_ahead, moments());
}

}  // namespace engine
