// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "measured_attention.hpp"
#include "pattern.hpp"

#include <purekv/per_layer.hpp>
#include <purekv/schedule.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace engine {

enum class cache_element { float32, float16, bfloat16 };

/// "full", the presets of purekv/presets.hpp, and variants of them that show what their parts are worth:
/// novel_place (novel against the same place in other frames), purekv_video_no_norm (without the value norm),
/// snapkv_head_mean, snapkv_value_norm, snapkv_spans (purekv's vote, every layer by its own), purekv_no_norm (without
/// the value norm), purekv_after (layers above the source attend to everything before they evict), probes_heads and
/// probes_model (the heads of a layer, or all, share the budget).
std::vector<std::string> const& preset_names();

/// A preset as users write it. band: the source, where they name one, as in purekv@8 or purekv@0-10.
struct preset_name {
  std::string name;
  std::optional<purekv::source_band> band;
};

/// Throws bad_input, naming the known presets, if it is none of them.
preset_name read_preset(std::string const& text);

struct attention_options {
  cache_element element = cache_element::float16;
  bool chunked = false;  // its prompt may come in chunks; layers that would prune first, or drop, attend to all instead
  /// What each layer's queries see; those of a model's layers with a window see that.
  purekv::per_layer<::engine::pattern> pattern = ::engine::pattern{};
  /// Of the prompt, if it shows something, up to the last answer: then presets that pin the first and the newest tokens
  /// pin its text instead. The segments are the caller's.
  purekv::token_layout layout{};
};

/// An attention over an empty cache. compression: how many times fewer tokens of the prompt each KV head keeps, pinned
/// ones included (kvzip, probes_model: on average over layers and heads; probes_heads: over the heads of a layer);
/// "full" keeps all whatever it says.
std::unique_ptr<measured_attention> make_attention(std::string const& preset, int compression,
                                                   language_model const& model, attention_options const& options = {});

}  // namespace engine
