// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../engine.hpp"
#include "task.hpp"

namespace engine {

/// One document of a set under "full" and every row of the set: what is written to the results, a line of JSON each.
///
/// answers: "right", whether greedy decoding gives the expected answer and then stops it; "found", whatever follows;
///          "nll", nats per expected token
/// perplexity: "nll" of the tokens that follow the document, nats per token
/// bytes: of all caches, room for question and answer included
///
/// The expected tokens are fed at once and compared with the most likely ones, which is what greedy decoding would
/// give. Where the question is part of the prompt, the prompt's own pass gives the first of them: from full attention,
/// under presets that evict after it. The layers that a row leaves as they are get what a pass with the full cache
/// computed, so times are measured by sets of their own.
nlohmann::json measure_document(engine& model, tokenizer const& words, evaluation_set const& set, int index,
                                unsigned seed, std::span<int const> text, cache_element element);

}  // namespace engine
