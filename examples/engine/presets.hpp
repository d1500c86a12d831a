// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "measured_attention.hpp"

#include <purekv/schedule.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace engine {

enum class cache_element { float32, float16, bfloat16 };

/// "full", the presets of purekv/presets.hpp, and variants of them that show what their parts are worth:
/// snapkv_head_mean, snapkv_value_norm, snapkv_spans (purekv's vote, every layer by its own), purekv_no_norm (without
/// the value norm), purekv_after (layers above the source attend to everything before they evict).
std::vector<std::string> const& preset_names();

/// A preset as users write it. band: the source, where they name one, as in purekv@8 or purekv@0-10.
struct preset_name {
  std::string name;
  std::optional<purekv::source_band> band;
};

/// Throws bad_input, naming the known presets, if it is none of them.
preset_name read_preset(std::string const& text);

/// An attention over an empty cache. chunked: its prompt may come in chunks, and layers that would prune first or drop
/// attend to everything instead. compression: how many times fewer tokens of the prompt each KV head keeps, pinned
/// ones included ("kvzip": on average over layers and heads); "full" keeps all whatever it says.
std::unique_ptr<measured_attention> make_attention(std::string const& preset, int compression, cache_element element,
                                                   language_model const& model, bool chunked = false);

}  // namespace engine
