// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../engine.hpp"
#include "../presets.hpp"

#include <nlohmann/json.hpp>

namespace engine {

/// How well layer s ranks the tokens for layer l: Spearman's correlation, over the tokens that nothing pins, of
///   "mass":     m_s and m_l, the attention that the last 16 queries pay, mean over all heads
///   "weighted": m_s n_l and m_l n_l, with n the norm of a token's value, mean over the KV heads
/// Both [layers s, layers l].
nlohmann::json layer_agreement(engine& model, std::vector<int> const& prompt, cache_element element);

/// Spearman's rank correlation; equal values share their mean rank. 0 if either side is constant.
double spearman(std::span<float const> a, std::span<float const> b);

}  // namespace engine
