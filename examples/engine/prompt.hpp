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
  bool paraphrased = false;    // the question uses other words than the sentence
  int wording = 0;             // of the sentence, 0 to 2, if it is not paraphrased
  std::string thing = "code";  // or another word for what is secret

  static needle random(std::mt19937& generator, bool paraphrased = false);
  std::string sentence() const;
  std::string question() const;
  /// The answer begins with the code, and no further digit follows.
  bool answered_by(std::string_view text) const;
};

/// A sentence and where in the document it stands, 0 to 1.
struct hidden_sentence {
  double depth;
  std::string text;
};

/// What the model's prompts begin with, the document with the sentences at their depths; the question.
prompt hide(std::vector<hidden_sentence> sentences, std::span<int const> document, std::string const& question,
            tokenizer const& words);
prompt hide(needle const& fact, std::span<int const> document, double depth, tokenizer const& words);

/// The same with all facts, spread evenly; no question.
prompt hide(std::span<needle const> facts, std::span<int const> document, tokenizer const& words);

/// The document and a question of the user's own.
std::string question_text(std::string const& question);
prompt ask(std::string const& question, std::span<int const> document, tokenizer const& words);
prompt ask_nothing(std::span<int const> document, tokenizer const& words);

}  // namespace engine
