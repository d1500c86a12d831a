// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "language_model.hpp"
#include "measured_attention.hpp"
#include "options.hpp"
#include "prompt_tokens.hpp"
#include "speculation.hpp"

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
  seconds repeating{}, asking{};  // the document's repetition; the question's pass, where it has its own
  std::vector<seconds> layers;    // prefill layer by layer
  double decoded_per_second = 0;
  int decoding_passes = 0;                                   // fewer than tokens where guesses were right
  std::vector<std::vector<std::vector<std::int32_t>>> kept;  // [layers, kv_heads] positions, if asked for
};

/// How tokens become an answer.
struct answer_reader {
  std::function<std::string(int)> text;
  std::function<bool(int)> ends;                                 // this token ends the answer
  std::function<std::optional<bool>(std::string const&)> right;  // nothing if nobody knows
};

/// Index of the largest logit, the lower one of equals.
int most_likely(std::span<float const> logits);

/// The prompt in chunks of so many tokens, 0: at once. Returns the logits after its last token.
std::vector<float> prefill(language_model& model, std::span<int const> tokens, int chunk, attention& attention);

/// Feeds the prompt by `prefill`, which returns the logits after it, then generates greedily from what the cache keeps.
measurement answer_prompt(language_model& model, measured_attention& attention, int prompt_tokens, int new_tokens,
                          answer_reader const& reader, std::function<std::vector<float>()> const& prefill,
                          speculation const& guesses = {});

/// Feeds the document by `prefill`, has it repeated if the attention wants that, and compresses: everything that can be
/// done before a question is known. new_tokens: room for questions and answers.
measurement compress_document(language_model& model, measured_attention& attention, prompt const& p, int new_tokens,
                              std::function<void()> const& prefill);

/// Feeds the question to what the cache keeps of the document, and generates greedily. Returns how many tokens that
/// added to the cache: take them back, and the next question finds it as this one did.
int answer_question(language_model& model, measured_attention& attention, int document_tokens,
                    std::span<int const> question, int new_tokens, answer_reader const& reader, measurement& result,
                    speculation const& guesses = {});

/// Both, one after the other.
measurement answer_document(language_model& model, measured_attention& attention, prompt const& p, int new_tokens,
                            answer_reader const& reader, std::function<void()> const& prefill, int guessed = 0);

/// Throws bad_input where a prompt and its answer are more than the model's context.
void check_context(language_model const& model, options const& o, prompt const& p);

/// Throws bad_input where a row's pinned tokens alone are more than it may keep.
void check_budget(language_model const& model, options const& o, options::row const& row, prompt const& p);

/// One prompt under every preset and compression of the options, with a progress bar. The document is compressed
/// without the question where the options say so, or the preset knows no other way.
std::vector<measurement> measure_rows(language_model& model, options const& o, prompt const& p,
                                      answer_reader const& reader);

}  // namespace engine
