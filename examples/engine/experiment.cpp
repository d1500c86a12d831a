// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"

#include "error.hpp"
#include "report.hpp"

#include <algorithm>
#include <iostream>

namespace engine {

int most_likely(std::span<float const> logits) {
  return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

namespace {

using clock = std::chrono::steady_clock;

/// Returns how many of the generated tokens were fed back.
int generate(language_model& model, measured_attention& attention, std::vector<float> logits, int position,
             int new_tokens, answer_reader const& reader, measurement& result) {
  auto const decoding = clock::now();
  int fed = 0;
  for (;; ++fed) {
    int const token = most_likely(logits);
    if (reader.ends(token)) break;
    result.tokens.push_back(token);
    result.answer += reader.text(token);
    if (fed + 1 == new_tokens) break;
    logits = model.decode(token, position + fed, attention);
  }
  if (result.tokens.size() > 1)
    result.decoded_per_second =
        static_cast<double>(result.tokens.size() - 1) / seconds(clock::now() - decoding).count();
  result.right = reader.right(result.answer);
  return fed;
}

void note_cost(measured_attention const& attention, measurement& result) {
  result.attention = attention.attention_time();
  result.compressing = attention.compression_time();
  result.layers = attention.layer_times();
  result.cache_bytes = attention.cache_bytes();
  result.peak_cache_bytes = attention.peak_cache_bytes();
}

}  // namespace

measurement answer_prompt(language_model& model, measured_attention& attention, int prompt_tokens, int new_tokens,
                          answer_reader const& reader, std::function<std::vector<float>()> const& prefill) {
  measurement result;
  result.prompt_tokens = prompt_tokens;
  auto const start = clock::now();
  attention.begin(prompt_tokens, new_tokens);
  std::vector<float> logits = prefill();
  result.prefill = clock::now() - start;
  note_cost(attention, result);
  generate(model, attention, std::move(logits), prompt_tokens, new_tokens, reader, result);
  return result;
}

measurement compress_document(language_model& model, measured_attention& attention, prompt const& p, int new_tokens,
                              std::function<void()> const& prefill) {
  measurement result;
  auto const document = static_cast<int>(p.document.size());
  result.prompt_tokens = document;
  std::vector<std::vector<int>> const passes = attention.repeats() ? p.repetition() : std::vector<std::vector<int>>{};
  std::size_t longest = 0;
  for (auto const& pass : passes) longest = std::max(longest, pass.size());

  attention.expect_repetition(static_cast<int>(longest));
  auto const start = clock::now();
  attention.begin(document, new_tokens);
  prefill();
  auto const repeating = clock::now();
  for (auto const& pass : passes) model.extend(pass, document, attention);
  if (!passes.empty()) result.repeating = clock::now() - repeating;
  attention.compress();
  result.prefill = clock::now() - start - result.repeating;
  note_cost(attention, result);
  return result;
}

int answer_question(language_model& model, measured_attention& attention, int document_tokens,
                    std::span<int const> question, int new_tokens, answer_reader const& reader, measurement& result) {
  auto const start = clock::now();
  std::vector<float> logits = model.extend(question, document_tokens, attention);
  result.asking = clock::now() - start;
  auto const asked = static_cast<int>(question.size());
  return asked + generate(model, attention, std::move(logits), document_tokens + asked, new_tokens, reader, result);
}

measurement answer_document(language_model& model, measured_attention& attention, prompt const& p, int new_tokens,
                            answer_reader const& reader, std::function<void()> const& prefill) {
  int const room = static_cast<int>(p.question.size()) + new_tokens;
  measurement result = compress_document(model, attention, p, room, prefill);
  result.prompt_tokens = p.tokens();
  answer_question(model, attention, static_cast<int>(p.document.size()), p.question, new_tokens, reader, result);
  return result;
}

void check_context(language_model const& model, options const& o, prompt const& p) {
  if (p.tokens() + o.new_tokens <= model.shape().context) return;
  throw bad_input("the prompt has " + std::to_string(p.tokens()) + " tokens, " + std::to_string(p.question.size()) +
                  " of them the question, and the answer up to " + std::to_string(o.new_tokens) +
                  "; the model's context holds " + std::to_string(model.shape().context) + "; see --tokens");
}

void check_budget(language_model const& model, options const& o, options::row const& row, prompt const& p) {
  auto const attention = make_attention(row.preset, row.compression, o.element, model);
  bool const before_question = o.agnostic || o.chat || attention->repeats();
  int const tokens = before_question ? static_cast<int>(p.document.size()) : p.tokens();
  int const keep = std::max(tokens / row.compression, 1), pinned = attention->pinned(tokens);
  if (pinned <= keep) return;
  throw bad_input(row.preset + " at " + std::to_string(row.compression) + "x may keep " + std::to_string(keep) +
                  " of " + std::to_string(tokens) + " tokens, but " + std::to_string(pinned) +
                  " are kept in any case; this needs a longer document or at most " + std::to_string(tokens / pinned) +
                  "x");
}

std::vector<measurement> measure_rows(language_model& model, options const& o, prompt const& p,
                                      answer_reader const& reader) {
  check_context(model, o, p);
  auto const rows = o.rows();
  std::vector<int> const whole = p.whole();
  std::vector<measurement> results;
  progress_bar bar(static_cast<int>(rows.size()));
  auto const attention_of = [&](options::row const& row) {
    return make_attention(row.preset, row.compression, o.element, model);
  };
  auto const run = [&](measured_attention& attention, std::span<int const> part) {
    return answer_prompt(model, attention, static_cast<int>(part.size()), o.new_tokens, reader,
                         [&] { return model.prefill(part, attention); });
  };
  run(*attention_of({"full", 1}),
      std::span(whole).first(std::min<std::size_t>(whole.size(), 256)));  // wakes threads, touches weights
  for (options::row const& row : rows) {
    bar.step(row.preset + ' ' + std::to_string(row.compression) + 'x');
    auto const attention = attention_of(row);
    bool const before_question = o.agnostic || attention->repeats();
    measurement m = before_question ? answer_document(model, *attention, p, o.new_tokens, reader,
                                                      [&] { model.prefill(p.document, *attention); })
                                    : run(*attention, whole);
    for (int l = 0; o.kept && l < model.shape().layers; ++l) m.kept.push_back(attention->kept(l));
    m.preset = row.preset;
    m.compression = row.compression;
    results.push_back(m);
  }
  return results;
}

}  // namespace engine
