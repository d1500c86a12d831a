// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../prompt.hpp"
#include "plan.hpp"

namespace engine {

/// A document, a question, and what the model must say. Tokens of `expected` that are not asked for are given to it:
/// the words between two answers.
struct task {
  prompt text;
  std::vector<int> expected;
  std::vector<bool> asked;  // [expected]
  nlohmann::json about;     // depth and facts, for the record

  /// Whether the answer is over where this token follows it.
  static bool ends_answer(std::string const& piece, fact_kind kind);
};

/// Document `index` of a set: the same for the same seed, text and length, whatever the set hides in it.
/// Throws bad_input if the text is too short.
task make_task(evaluation_set const& set, int index, unsigned seed, std::span<int const> text, tokenizer const& words);

}  // namespace engine
