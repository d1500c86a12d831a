// SPDX-License-Identifier: Apache-2.0
#include "layer_agreement.hpp"

#include "../cache_memory.hpp"

#include <purekv/mass.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/primitive.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace engine {

namespace {

std::vector<double> ranks(std::span<float const> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return values[i]; });
  std::vector<double> rank(values.size());
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    for (std::size_t i = first; i < last; ++i) rank[order[i]] = static_cast<double>(first + last - 1) / 2;
  }
  return rank;
}

double correlation(std::vector<double> const& a, std::vector<double> const& b) {
  double const middle = static_cast<double>(a.size() - 1) / 2;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - middle) * (b[i] - middle);
    aa += (a[i] - middle) * (a[i] - middle);
    bb += (b[i] - middle) * (b[i] - middle);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

struct layer_view {
  std::vector<float> mass, norm;  // [tokens]
};

layer_view look_at(model_shape const& s, recorded_prompt const& pass, std::size_t layer, int tokens) {
  constexpr int queries = 16;
  std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens * s.kv_heads));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(i) % tokens;
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(s.kv_heads), tokens);
  purekv::contiguous_cache<float> const cache{.keys = const_cast<float*>(pass.k[layer].data()),
                                              .values = const_cast<float*>(pass.v[layer].data()),
                                              .positions = positions.data(),
                                              .lengths = lengths.data(),
                                              .sequences = 1,
                                              .kv_heads = s.kv_heads,
                                              .tokens = tokens,
                                              .dim = s.dim,
                                              .sequence_stride = std::ptrdiff_t{tokens} * s.kv_heads * s.dim,
                                              .head_stride = s.dim,
                                              .token_stride = std::ptrdiff_t{s.kv_heads} * s.dim};
  purekv::query_view<float> const q =
      queries_of(s, {.tokens = tokens, .positions = positions.data(), .q = pass.q[layer].data()});
  std::vector<float> mass(static_cast<std::size_t>(s.heads * tokens));
  auto const out = purekv::dense_scores(mass.data(), 1, s.heads, tokens);
  auto const rows = purekv::score_rows::heads;
  std::size_t const bytes =
      purekv::mass_workspace(purekv::cpu{}, purekv::dense{}, q, cache, purekv::last(queries), rows);
  aligned_memory const memory(bytes);
  purekv::mass(purekv::cpu{}, purekv::dense{}, q, cache, pass.lse[layer].data(), tokens, purekv::last(queries), rows,
               out, {memory.data(), memory.bytes()}, purekv::mass_reduction::sum)
      .or_throw();

  layer_view view;
  for (int t = 0; t < tokens; ++t) {
    float m = 0, n = 0;
    for (int h = 0; h < s.heads; ++h) m += out.row(0, h)[t];
    for (int h = 0; h < s.kv_heads; ++h)
      n += purekv::norm(pass.v[layer].data() + (std::ptrdiff_t{t} * s.kv_heads + h) * s.dim, s.dim);
    view.mass.push_back(m);
    view.norm.push_back(n);
  }
  return view;
}

}  // namespace

double spearman(std::span<float const> a, std::span<float const> b) { return correlation(ranks(a), ranks(b)); }

nlohmann::json layer_agreement(engine& model, std::vector<int> const& prompt, cache_element element) {
  recorded_prompt pass;
  auto const tokens = static_cast<int>(prompt.size());
  auto const full = make_attention("full", 1, model, {.element = element});
  full->begin(tokens, 1);
  model.record(prompt, *full, pass);

  model_shape const& s = model.shape();
  std::vector<layer_view> views;
  for (int l = 0; l < s.layers; ++l) views.push_back(look_at(s, pass, static_cast<std::size_t>(l), tokens));

  constexpr std::size_t sinks = 4, recent = 16;
  std::size_t const count = prompt.size() > sinks + recent ? prompt.size() - sinks - recent : 0;
  auto const free = [&](std::vector<float> const& v) { return std::span(v).subspan(sinks, count); };
  auto const times = [](std::vector<float> a, std::vector<float> const& b) {
    std::ranges::transform(a, b, a.begin(), std::multiplies{});
    return a;
  };
  nlohmann::json mass = nlohmann::json::array(), weighted = nlohmann::json::array();
  std::vector<std::vector<double>> own, own_weighted;
  for (layer_view const& l : views) {
    own.push_back(ranks(free(l.mass)));
    own_weighted.push_back(ranks(free(times(l.mass, l.norm))));
  }
  auto const rounded = [](double x) { return std::round(x * 1e4) / 1e4; };
  for (std::size_t source = 0; source < views.size(); ++source) {
    nlohmann::json by_mass = nlohmann::json::array(), by_weight = nlohmann::json::array();
    for (std::size_t l = 0; l < views.size(); ++l) {
      by_mass.push_back(rounded(correlation(own[source], own[l])));
      by_weight.push_back(rounded(correlation(ranks(free(times(views[source].mass, views[l].norm))), own_weighted[l])));
    }
    mass.push_back(std::move(by_mass));
    weighted.push_back(std::move(by_weight));
  }
  return {{"mass", mass}, {"weighted", weighted}};
}

}  // namespace engine
