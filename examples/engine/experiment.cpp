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

/// Returns how many tokens that added to the cache.
int generate(language_model& model, measured_attention& attention, std::vector<float> logits, int position,
             int new_tokens, answer_reader const& reader, speculation const& guesses, measurement& result) {
  auto const decoding = clock::now();
  auto const vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
  std::vector<int> text(guesses.text.begin(), guesses.text.end());
  auto const say = [&](int token) {
    result.tokens.push_back(token);
    result.answer += reader.text(token);
    text.push_back(token);
  };
  int fed = 0;
  for (std::size_t row = 0;;) {
    int const token = most_likely(std::span<float const>(logits).subspan(row * vocabulary, vocabulary));
    if (reader.ends(token)) break;
    say(token);
    int const left = new_tokens - static_cast<int>(result.tokens.size());
    if (left == 0) break;
    std::vector<int> next{token};  // and after it what is guessed, except for the last token, which is never fed
    for (int const guessed : guess(text, std::min(guesses.tokens, left - 1))) next.push_back(guessed);
    logits = next.size() == 1 ? model.decode(token, position + fed, attention)
                              : model.extend_all(next, position + fed, attention);
    ++result.decoding_passes;
    for (row = 0; row + 1 < next.size(); ++row) {
      int const said = most_likely(std::span<float const>(logits).subspan(row * vocabulary, vocabulary));
      if (said != next[row + 1] || reader.ends(said)) break;
      say(said);
    }
    fed += static_cast<int>(row) + 1;
    if (auto const wrong = static_cast<int>(next.size() - row) - 1; wrong > 0) attention.take_back(wrong);
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

std::vector<float> prefill(language_model& model, std::span<int const> tokens, int chunk, attention& attention) {
  if (chunk <= 0 || tokens.empty()) return model.prefill(tokens, attention);
  std::vector<float> logits;
  for (std::size_t from = 0; from < tokens.size(); from += static_cast<std::size_t>(chunk))
    logits = model.extend(tokens.subspan(from, std::min(tokens.size() - from, static_cast<std::size_t>(chunk))),
                          static_cast<int>(from), attention);
  return logits;
}

measurement answer_prompt(language_model& model, measured_attention& attention, int prompt_tokens, int new_tokens,
                          answer_reader const& reader, std::function<std::vector<float>()> const& prefill,
                          speculation const& guesses) {
  measurement result;
  result.prompt_tokens = prompt_tokens;
  auto const start = clock::now();
  attention.begin(prompt_tokens, new_tokens);
  std::vector<float> logits = prefill();
  result.prefill = clock::now() - start;
  note_cost(attention, result);
  generate(model, attention, std::move(logits), prompt_tokens, new_tokens, reader, guesses, result);
  return result;
}

measurement compress_document(language_model& model, measured_attention& attention, prompt const& p, int new_tokens,
                              std::function<void()> const& prefill) {
  measurement result;
  auto const document = static_cast<int>(p.document.size());
  result.prompt_tokens = document;
  std::vector<std::vector<int>> passes;
  if (attention.repeats()) passes = attention.asks_probes() ? p.probes : p.repetition();
  if (attention.asks_probes() && passes.empty())
    throw bad_input("probes are questions that are typical of the documents, and this prompt has none");
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
                    std::span<int const> question, int new_tokens, answer_reader const& reader, measurement& result,
                    speculation const& guesses) {
  auto const start = clock::now();
  std::vector<float> logits = model.extend(question, document_tokens, attention);
  result.asking = clock::now() - start;
  auto const asked = static_cast<int>(question.size());
  return asked +
         generate(model, attention, std::move(logits), document_tokens + asked, new_tokens, reader, guesses, result);
}

measurement answer_document(language_model& model, measured_attention& attention, prompt const& p, int new_tokens,
                            answer_reader const& reader, std::function<void()> const& prefill, int guessed) {
  int const room = static_cast<int>(p.question.size()) + new_tokens;
  measurement result = compress_document(model, attention, p, room, prefill);
  result.prompt_tokens = p.tokens();
  answer_question(model, attention, static_cast<int>(p.document.size()), p.question, new_tokens, reader, result,
                  {guessed, p.whole()});
  return result;
}

void check_context(language_model const& model, options const& o, prompt const& p) {
  if (p.tokens() + o.new_tokens <= model.shape().context) return;
  throw bad_input("the prompt has " + std::to_string(p.tokens()) + " tokens, " + std::to_string(p.question.size()) +
                  " of them the question, and the answer up to " + std::to_string(o.new_tokens) +
                  "; the model's context holds " + std::to_string(model.shape().context) + "; see --tokens");
}

void check_budget(language_model const& model, options const& o, options::row const& row, prompt const& p) {
  auto const attention = make_attention(row.preset, row.compression, model, {.element = o.element});
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
    return make_attention(row.preset, row.compression, model, {.element = o.element, .chunked = o.chunk > 0});
  };
  auto const run = [&](measured_attention& attention, std::span<int const> part) {
    return answer_prompt(model, attention, static_cast<int>(part.size()), o.new_tokens, reader,
                         [&] { return prefill(model, part, o.chunk, attention); }, {o.guessed, part});
  };
  run(*attention_of({"full", 1}),
      std::span(whole).first(std::min<std::size_t>(whole.size(), 256)));  // wakes threads, touches weights
  for (options::row const& row : rows) {
    bar.step(row.preset + ' ' + std::to_string(row.compression) + 'x');
    auto const attention = attention_of(row);
    bool const before_question = o.agnostic || attention->repeats();
    measurement m = before_question ? answer_document(
                                          model, *attention, p, o.new_tokens, reader,
                                          [&] { prefill(model, p.document, o.chunk, *attention); }, o.guessed)
                                    : run(*attention, whole);
    for (int l = 0; o.kept && l < model.shape().layers; ++l) m.kept.push_back(attention->kept(l));
    m.preset = row.preset;
    m.compression = row.compression;
    results.push_back(m);
  }
  return results;
}

}  // namespace engine
