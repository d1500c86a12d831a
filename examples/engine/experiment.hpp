// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "language_model.hpp"
#include "measured_attention.hpp"
#include "options.hpp"

#include <functional>
#include <optional>
#include <string>

namespace engine {

/// What one prompt and its answer cost under one preset.
struct measurement {
  std::string preset;
  int compression = 1;
  std::vector<int> tokens;  // generated greedily
  std::string answer;
  std::optional<bool> right;
  int prompt_tokens = 0;
  std::int64_t cache_bytes = 0, peak_cache_bytes = 0;
  seconds prefill{}, attention{}, compressing{};  // attention and compressing are parts of prefill
  std::vector<seconds> layers;                    // prefill layer by layer
  double decoded_per_second = 0;
};

/// How tokens become an answer.
struct answer_reader {
  std::function<std::string(int)> text;
  std::function<bool(int)> ends;                                 // this token ends the answer
  std::function<std::optional<bool>(std::string const&)> right;  // nothing if nobody knows
};

/// Index of the largest logit, the lower one of equals.
int most_likely(std::span<float const> logits);

/// Feeds the prompt by `prefill`, which returns the logits after it, then generates greedily from what the cache keeps.
measurement answer_prompt(language_model& model, measured_attention& attention, int prompt_tokens, int new_tokens,
                          answer_reader const& reader, std::function<std::vector<float>()> const& prefill);

/// One prompt under every preset and compression of the options, with a progress bar.
std::vector<measurement> measure_rows(language_model& model, options const& o, std::span<int const> prompt,
                                      answer_reader const& reader);

}  // namespace engine
