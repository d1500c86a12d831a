// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "prompt_tokens.hpp"
#include "tokenizer.hpp"

#include <random>
#include <span>

namespace engine {

/// A fact to hide in a document and to ask for.
struct needle {
  std::string name, code;
  bool paraphrased = false;  // the question uses other words than the sentence

  static needle random(std::mt19937& generator, bool paraphrased = false);
  std::string sentence() const;
  std::string question() const;
  /// The answer begins with the code, and no further digit follows.
  bool answered_by(std::string_view text) const;
  /// The answer begins with the code, whatever follows.
  bool found_in(std::string_view text) const;
};

/// What the model's prompts begin with, document[0, depth), the needle, the rest of the document; the question.
prompt hide(needle const& fact, std::span<int const> document, double depth, tokenizer const& words);

/// The same with all facts, spread evenly; no question.
prompt hide(std::span<needle const> facts, std::span<int const> document, tokenizer const& words);

/// The document and a question of the user's own.
std::string question_text(std::string const& question);
prompt ask(std::string const& question, std::span<int const> document, tokenizer const& words);

}  // namespace engine
