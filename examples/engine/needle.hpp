// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine.hpp"
#include "options.hpp"
#include "tokenizer.hpp"

#include <nlohmann/json.hpp>

namespace engine {

/// Hides a fact in o.needles windows of the document per length, at depths spread evenly over 0.1 .. 0.9, and counts
/// for each preset and compression how often the answer is right. Prints a table per length; returns everything as
/// data.
nlohmann::json find_needles(engine& model, tokenizer const& words, std::span<int const> document, options const& o);

}  // namespace engine
