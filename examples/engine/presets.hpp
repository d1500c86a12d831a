// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "measured_attention.hpp"

#include <memory>
#include <string>
#include <vector>

namespace engine {

struct model_shape;

enum class cache_element { float32, float16, bfloat16 };

/// "full" and the presets of purekv/presets.hpp that the demo knows.
std::vector<std::string> const& preset_names();

/// Throws bad_input, naming the known presets, if `preset` is none of them.
void check_preset(std::string const& preset);

/// An attention over an empty cache. compression: how many times fewer tokens of the prompt each KV head keeps, pinned
/// ones included ("kvzip": on average over layers and heads); "full" keeps all whatever it says.
std::unique_ptr<measured_attention> make_attention(std::string const& preset, int compression, cache_element element,
                                                   model_shape const& model, int threads);

}  // namespace engine
