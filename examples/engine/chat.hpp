// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine.hpp"
#include "options.hpp"
#include "tokenizer.hpp"

#include <nlohmann/json.hpp>

#include <iosfwd>

namespace engine {

/// Compresses the document once, before any question, and then asks one question after the other, each over the cache
/// as compression left it. Under every preset and compression of the options ten questions about five hidden facts,
/// with a table at the end; or, o.from_stdin, the lines of `in` under the first of them, where what was said stays in
/// the cache unless o.forgetful. Returns everything as data.
nlohmann::json chat(engine& model, tokenizer const& words, std::span<int const> document, options const& o,
                    std::istream& in, std::ostream& out);

}  // namespace engine
