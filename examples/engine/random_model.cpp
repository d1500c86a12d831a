// SPDX-License-Identifier: Apache-2.0
#include "random_model.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace engine {

namespace {

std::vector<float> random_matrix(std::mt19937& generator, int in, int out) {
  std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(in)));
  std::vector<float> weights(static_cast<std::size_t>(in) * static_cast<std::size_t>(out));
  for (float& w : weights) w = normal(generator);
  return weights;
}

/// y[t] (+)= x[t] . w for the tokens of this rank. x : [tokens, in], w : [in, out], y : [tokens, out]
void multiply(purekv::cpu exec, float const* x, std::vector<float> const& w, float* y, int tokens, int in, int out,
              bool add = false) {
  constexpr int rows = 4, columns = 64;  // sums of a tile stay in registers
  int const tiles = (tokens + rows - 1) / rows;
  for (int tile = exec.rank(); tile < tiles; tile += exec.size()) {
    int const first = tile * rows, count = std::min(rows, tokens - first);
    for (int c = 0; c < out; c += columns) {
      float sums[rows][columns] = {};
      for (int i = 0; i < in; ++i) {
        float const* const row = w.data() + std::ptrdiff_t{i} * out + c;
        for (int t = 0; t < rows; ++t) {
          float const value = x[std::ptrdiff_t{first + std::min(t, count - 1)} * in + i];
          for (int j = 0; j < columns; ++j) sums[t][j] += value * row[j];
        }
      }
      for (int t = 0; t < count; ++t) {
        float* const to = y + std::ptrdiff_t{first + t} * out + c;
        for (int j = 0; j < columns; ++j) to[j] = sums[t][j] + (add ? to[j] : 0);
      }
    }
  }
  exec.sync();
}

void normalise(purekv::cpu exec, std::vector<float> const& x, std::vector<float>& y, int tokens, int width) {
  for (int t = exec.rank(); t < tokens; t += exec.size()) {
    float const* const from = x.data() + std::ptrdiff_t{t} * width;
    float const scale =
        1 / std::sqrt(std::inner_product(from, from + width, from, 0.0f) / static_cast<float>(width) + 1e-5f);
    for (int i = 0; i < width; ++i) y[static_cast<std::size_t>(t * width + i)] = from[i] * scale;
  }
  exec.sync();
}

void rotate(purekv::cpu exec, std::vector<float>& x, std::vector<std::int32_t> const& positions,
            std::vector<float> const& frequencies, int heads, int dim) {
  for (int t = exec.rank(), tokens = static_cast<int>(positions.size()); t < tokens; t += exec.size())
    for (int i = 0; i < dim; i += 2) {
      float const position = static_cast<float>(positions[static_cast<std::size_t>(t)]);
      float const angle = position * frequencies[static_cast<std::size_t>(i / 2)];
      float const cosine = std::cos(angle), sine = std::sin(angle);
      for (int h = 0; h < heads; ++h) {
        float* const pair = x.data() + (std::ptrdiff_t{t} * heads + h) * dim + i;
        float const a = pair[0], b = pair[1];
        pair[0] = a * cosine - b * sine;
        pair[1] = a * sine + b * cosine;
      }
    }
  exec.sync();
}

}  // namespace

random_model::random_model(int threads) : team_(threads) {
  std::mt19937 generator(1);
  int const q = shape_.heads * shape_.dim, kv = shape_.kv_heads * shape_.dim, hidden = shape_.hidden;
  for (int i = 0; i < shape_.dim; i += 2)
    frequencies_.push_back(std::pow(1e5f, -static_cast<float>(i) / static_cast<float>(shape_.dim)));
  embedding_ = random_matrix(generator, shape_.vocabulary, hidden);
  for (int l = 0; l < shape_.layers; ++l)
    blocks_.push_back({.q = random_matrix(generator, hidden, q),
                       .k = random_matrix(generator, hidden, kv),
                       .v = random_matrix(generator, hidden, kv),
                       .output = random_matrix(generator, q, hidden),
                       .gate = random_matrix(generator, hidden, shape_.feed_forward),
                       .up = random_matrix(generator, hidden, shape_.feed_forward),
                       .down = random_matrix(generator, shape_.feed_forward, hidden)});
}

purekv::rotary random_model::rotary(int) const {
  return {frequencies_.data(), shape_.dim / 2, purekv::rotary_pairs::adjacent};
}

std::vector<float> random_model::output_projection(int layer) const {
  std::vector<float> const& w = blocks_[static_cast<std::size_t>(layer)].output;
  std::vector<float> result(w.size());
  auto const hidden = static_cast<std::size_t>(shape_.hidden), width = w.size() / hidden;
  for (std::size_t i = 0; i < width; ++i)
    for (std::size_t j = 0; j < hidden; ++j) result[j * width + i] = w[i * hidden + j];
  return result;
}

std::vector<float> random_model::prefill(std::span<int const> tokens, attention& attention) {
  return pass(tokens, 0, attention);
}

std::vector<float> random_model::extend(std::span<int const> tokens, int position, attention& attention) {
  return pass(tokens, position, attention);
}

std::vector<float> random_model::extend_all(std::span<int const> tokens, int position, attention& attention) {
  return pass(tokens, position, attention, static_cast<int>(tokens.size()));
}

std::vector<float> random_model::pass(std::span<int const> ids, int first_position, attention& attention, int count) {
  int tokens = static_cast<int>(ids.size());
  int const hidden = shape_.hidden, wide = shape_.feed_forward;
  int const q_width = shape_.heads * shape_.dim, kv_width = shape_.kv_heads * shape_.dim;
  auto rows = [&](int width) { return std::vector<float>(ids.size() * static_cast<std::size_t>(width)); };
  std::vector<float> x = rows(hidden), normed = rows(hidden), q = rows(q_width), k = rows(kv_width), v = rows(kv_width),
                     attended = rows(q_width), gate = rows(wide), up = rows(wide);
  std::vector<std::int32_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), first_position);
  for (int t = 0; t < tokens; ++t)
    std::copy_n(embedding_.begin() + std::ptrdiff_t{ids[static_cast<std::size_t>(t)]} * hidden, hidden,
                x.begin() + std::ptrdiff_t{t} * hidden);

  for (int l = 0; l < shape_.layers; ++l) {
    block const& w = blocks_[static_cast<std::size_t>(l)];
    purekv::status status;
    if (auto const kept = attention.rows_entering(l); !kept.empty()) {
      for (std::size_t i = 0; i < kept.size(); ++i) {
        auto const from = x.begin() + std::ptrdiff_t{kept[i]} * hidden;
        std::copy_n(from, hidden, x.begin() + static_cast<std::ptrdiff_t>(i) * hidden);
        positions[i] = positions[static_cast<std::size_t>(kept[i])];
      }
      tokens = static_cast<int>(kept.size());
      positions.resize(kept.size());
    }
    attention.open(l, tokens, positions.data());
    team_.run([&](purekv::cpu exec) {
      normalise(exec, x, normed, tokens, hidden);
      multiply(exec, normed.data(), w.q, q.data(), tokens, hidden, q_width);
      multiply(exec, normed.data(), w.k, k.data(), tokens, hidden, kv_width);
      multiply(exec, normed.data(), w.v, v.data(), tokens, hidden, kv_width);
      rotate(exec, q, positions, frequencies_, shape_.heads, shape_.dim);
      rotate(exec, k, positions, frequencies_, shape_.kv_heads, shape_.dim);
      purekv::status const s =
          attention.run(exec, l, {tokens, positions.data(), q.data(), k.data(), v.data(), attended.data()});
      if (exec.rank() == 0) status = s;
      multiply(exec, attended.data(), w.output, x.data(), tokens, q_width, hidden, true);
      normalise(exec, x, normed, tokens, hidden);
      multiply(exec, normed.data(), w.gate, gate.data(), tokens, hidden, wide);
      multiply(exec, normed.data(), w.up, up.data(), tokens, hidden, wide);
      for (std::ptrdiff_t i = exec.rank(), n = std::ptrdiff_t{tokens} * wide; i < n; i += exec.size()) {
        auto const at = static_cast<std::size_t>(i);
        gate[at] *= up[at] / (1 + std::exp(-gate[at]));
      }
      exec.sync();
      multiply(exec, gate.data(), w.down, x.data(), tokens, wide, hidden, true);
    });
    status.or_throw();
    attention.close(l);
  }

  auto const vocabulary = static_cast<std::size_t>(shape_.vocabulary);
  std::vector<float> logits(static_cast<std::size_t>(count) * vocabulary);
  for (int t = 0; t < count; ++t) {
    float const* const row = x.data() + std::ptrdiff_t{tokens - count + t} * hidden;
    for (std::size_t i = 0; i < vocabulary; ++i)
      logits[static_cast<std::size_t>(t) * vocabulary + i] =
          std::inner_product(row, row + hidden, embedding_.data() + i * static_cast<std::size_t>(hidden), 0.0f);
  }
  return logits;
}

}  // namespace engine
