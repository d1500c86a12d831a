// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../options.hpp"

#include <nlohmann/json.hpp>

namespace engine {

/// What a set of documents is for.
enum class measure { answers, perplexity, time, layers };

enum class fact_kind { digits, words, two };

/// Documents of one length with a fact hidden in each, and the presets that are to answer from them.
struct evaluation_set {
  std::string name;
  measure what = measure::answers;
  int tokens = 0, documents = 0;
  fact_kind kind = fact_kind::digits;
  std::optional<int> wording{};  // of the sentence that is hidden; nothing: the documents take turns
  bool paraphrased = false;      // the question uses other words than the sentence
  bool agnostic = false;         // compressed before the question is known
  bool calibration = false;      // from the part of the text that nothing is reported of
  std::vector<options::row> rows{};
  std::string text{};  // what the plan says of it
};

/// A plan is a JSON file:
///   {"seed": 1, "sets": [{"name": "...", "measure": "answers" | "perplexity" | "time" | "layers", "tokens": 1000,
///     "documents": 50, "fact": "digits" | "words" | "two", "wording": 0 .. 2, "paraphrased": false, "agnostic": false,
///     "calibration": false, "rows": [{"presets": ["snapkv", ...], "compressions": [5, 10]}, ...]}, ...]}
/// name, tokens and documents are needed. "full" is measured in every set.
struct evaluation_plan {
  unsigned seed = 1;
  std::vector<evaluation_set> sets;
};

/// Throws bad_input for what is no plan, and says where.
evaluation_plan read_plan(std::filesystem::path const& file);

}  // namespace engine
