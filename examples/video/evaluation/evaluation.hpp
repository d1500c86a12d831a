// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../../engine/engine.hpp"
#include "plan.hpp"

#include <nlohmann/json.hpp>

namespace video {

/// Video `index` of a set under every row: what is written to the results, a line of JSON each.
///
/// answers: "asked", questions of each kind; in each row "right" of them; "bytes" of all caches, room for a question
///          and its answer included; "kept", the share of the tokens of each sprite, and of the rest, that the KV heads
///          of all layers keep, on average; "density", what the pattern executes of dense attention's work
/// layers: engine::layer_agreement of a prompt that ends with a question
/// time: seconds of the video's pass in each row, from the beginning
///
/// An answer counts as right if greedy decoding gives exactly that. Where the question is part of the prompt, its own
/// pass gives the first word of the answer, under presets that evict after attending from full attention. Layers that
/// a row leaves as they are get what a pass with the full cache computed.
nlohmann::json measure_video(engine::engine& model, evaluation_set const& set, int index, unsigned seed);

}  // namespace video
