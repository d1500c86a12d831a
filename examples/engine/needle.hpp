// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine.hpp"
#include "options.hpp"
#include "tokenizer.hpp"

#include <nlohmann/json.hpp>

#include <functional>

namespace engine {

/// Hides a fact in o.needles windows of the document per length, at depths spread evenly over 0.1 .. 0.9, and counts
/// for each preset and compression how often the answer is right. Prints a table per length. Hands everything as data
/// to `save` after every document, so that a run that is cut short leaves what it has.
void find_needles(engine& model, tokenizer const& words, std::span<int const> document, options const& o,
                  std::function<void(nlohmann::json const&)> const& save);

}  // namespace engine
