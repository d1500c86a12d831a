// SPDX-License-Identifier: Apache-2.0
#include "presets.hpp"

#include "compressed_attention.hpp"
#include "error.hpp"
#include "reconstructed_attention.hpp"

#include <purekv/budget/ratio.hpp>
#include <purekv/presets.hpp>

#include <algorithm>

namespace engine {

namespace {

layer_schedule own_scores(int layers, purekv::evict_when when) {
  layer_schedule result{std::vector<purekv::layer_plan>(static_cast<std::size_t>(layers)), {}};
  purekv::own_source(result.layers.data(), layers, when);
  return result;
}

/// The layers up to the band's last wait for its score, those above prune first, or drop.
layer_schedule scored_by(purekv::source_band band, int layers,
                         purekv::evict_when above = purekv::evict_when::before_attending) {
  layer_schedule result{std::vector<purekv::layer_plan>(static_cast<std::size_t>(layers)), {band}};
  purekv::one_source(result.layers.data(), layers, band, above);
  return result;
}

template <class T>
std::unique_ptr<measured_attention> make(std::string const& preset, int compression, model_shape const& model,
                                         int threads) {
  auto attention = [&](auto compressor, layer_schedule schedule) -> std::unique_ptr<measured_attention> {
    compressor.budget = purekv::ratio::compression(compression);
    return std::make_unique<compressed_attention<T, decltype(compressor)>>(model, std::move(schedule), compressor,
                                                                           threads);
  };
  if (preset == "kvzip") {
    purekv::kvzip<purekv::ratio> compressor;
    compressor.budget.budget = purekv::ratio::compression(compression);
    return std::make_unique<reconstructed_attention<T, decltype(compressor)>>(model, compressor, threads);
  }
  int const layers = model.layers;
  auto const evict = own_scores(layers, purekv::evict_when::after_attending);
  if (preset == "full")
    return attention(purekv::streaming<purekv::ratio>{}, own_scores(layers, purekv::evict_when::never));
  if (preset == "streaming") return attention(purekv::streaming<purekv::ratio>{}, evict);
  if (preset == "h2o") return attention(purekv::h2o<purekv::ratio>{}, evict);
  if (preset == "snapkv") return attention(purekv::snapkv<purekv::ratio>{}, evict);
  if (preset == "purekv_paper")
    return attention(purekv::purekv_paper<purekv::ratio>{}, scored_by({layers / 4, layers / 4}, layers));
  if (preset == "purekv") return attention(purekv::purekv_early<purekv::ratio>{}, scored_by({0, layers / 3}, layers));
  if (preset == "purekv_drop")
    return attention(purekv::purekv_early<purekv::ratio>{},
                     scored_by({0, layers / 3}, layers, purekv::evict_when::dropping));
  if (preset == "purekv_deep")
    return attention(purekv::purekv_deep<purekv::ratio>{}, scored_by({layers * 8 / 15, layers * 3 / 4}, layers));
  check_preset(preset);
  return nullptr;
}

}  // namespace

std::vector<std::string> const& preset_names() {
  static std::vector<std::string> const names{"full",   "streaming",   "h2o",         "snapkv", "purekv_paper",
                                              "purekv", "purekv_drop", "purekv_deep", "kvzip"};
  return names;
}

void check_preset(std::string const& preset) {
  if (std::ranges::count(preset_names(), preset) > 0) return;
  std::string known;
  for (std::string const& name : preset_names()) known += (known.empty() ? "" : ", ") + name;
  throw bad_input("unknown preset '" + preset + "'; known are " + known);
}

std::unique_ptr<measured_attention> make_attention(std::string const& preset, int compression, cache_element element,
                                                   model_shape const& model, int threads) {
  switch (element) {
    case cache_element::float32:
      return make<float>(preset, compression, model, threads);
    case cache_element::bfloat16:
      return make<purekv::bfloat16>(preset, compression, model, threads);
    case cache_element::float16:
      break;
  }
  return make<purekv::half>(preset, compression, model, threads);
}

}  // namespace engine
