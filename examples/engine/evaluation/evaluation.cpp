// SPDX-License-Identifier: Apache-2.0
#include "evaluation.hpp"

#include "../error.hpp"
#include "../experiment.hpp"
#include "../report.hpp"
#include "layer_agreement.hpp"

#include <cmath>

namespace engine {

namespace {

using nlohmann::json;

/// Natural-log probability that logits give to `token`.
double log_probability(std::span<float const> logits, int token) {
  float const most = *std::ranges::max_element(logits);
  double sum = 0;
  for (float const x : logits) sum += std::exp(static_cast<double>(x - most));
  return static_cast<double>(logits[static_cast<std::size_t>(token)] - most) - std::log(sum);
}

class document_measurement {
 public:
  document_measurement(engine& model, tokenizer const& words, evaluation_set const& set, task const& t,
                       cache_element element)
      : model_(model), words_(words), set_(set), task_(t), element_(element), whole_(t.text.whole()) {
    if (t.text.tokens() + room() > model.shape().context)
      throw bad_input("set '" + set.name + "': the prompt has " + std::to_string(t.text.tokens()) +
                      " tokens and the answer " + std::to_string(t.expected.size()) + "; the model's context holds " +
                      std::to_string(model.shape().context));
  }

  json full() {
    auto const attention = make_attention("full", 1, model_, {.element = element_});
    auto const& prompt = set_.agnostic ? task_.text.document : whole_;
    return under(*attention, [&] { return model_.record(prompt, *attention, pass_); });
  }

  json row(options::row const& row) {
    auto const attention = make_attention(row.preset, row.compression, model_, {.element = element_});
    if (attention->repeats() && !set_.agnostic)
      throw bad_input("set '" + set_.name + "': " + row.preset +
                      " compresses before the question is known; it belongs into "
                      "a set that is agnostic");
    return under(*attention, [&] { return model_.replay(pass_, attention->first_layer_that_differs(), *attention); });
  }

 private:
  int room() const { return static_cast<int>(task_.text.question.size() + task_.expected.size()) + 1; }

  json under(measured_attention& attention, std::function<std::vector<float>()> const& prefill) {
    if (set_.agnostic)
      return ask(attention, compress_document(model_, attention, task_.text, room(), prefill).cache_bytes);
    attention.begin(task_.text.tokens(), room());
    return continue_from(prefill(), attention);
  }

  /// The prompt is cached; the first logits after it are known.
  json continue_from(std::span<float const> first, measured_attention& attention) {
    std::int64_t const bytes = attention.cache_bytes();
    model_.extend(task_.expected, task_.text.tokens(), attention);
    std::vector<float> logits(first.begin(), first.end());
    std::vector<float> const rest = model_.logits(0, static_cast<int>(task_.expected.size()));
    logits.insert(logits.end(), rest.begin(), rest.end());
    return judge(logits, bytes);
  }

  /// The document is cached; the question, if there is one, passes together with the answer. Where there is none the
  /// first token that follows the document counts as asked.
  json ask(measured_attention& attention, std::int64_t bytes) {
    std::vector<int> tokens = task_.text.question;
    tokens.insert(tokens.end(), task_.expected.begin(), task_.expected.end());
    model_.extend(tokens, static_cast<int>(task_.text.document.size()), attention);
    int const answers = static_cast<int>(task_.expected.size()), asked = static_cast<int>(tokens.size()) - answers;
    return asked > 0 ? judge(model_.logits(asked - 1, answers + 1), bytes)
                     : perplexity(model_.logits(0, answers), bytes);
  }

  /// logits : [expected + 1, vocabulary], each row of what follows the tokens before it.
  json judge(std::vector<float> const& logits, std::int64_t bytes) const {
    auto const width = static_cast<std::size_t>(model_.shape().vocabulary);
    auto const row = [&](std::size_t i) { return std::span(logits).subspan(i * width, width); };
    bool found = true;
    double nll = 0;
    int asked = 0;
    for (std::size_t i = 0; i < task_.expected.size(); ++i) {
      if (!task_.asked[i]) continue;
      found = found && most_likely(row(i)) == task_.expected[i];
      nll -= log_probability(row(i), task_.expected[i]);
      ++asked;
    }
    bool right = found;
    for (std::size_t i = 0; i <= task_.expected.size(); ++i) {  // after each of the answers
      bool const end = i > 0 && task_.asked[i - 1] && (i == task_.expected.size() || !task_.asked[i]);
      if (end) right = right && task::ends_answer(words_.text(most_likely(row(i))), set_.kind);
    }
    return {{"right", right}, {"found", found}, {"nll", nll / asked}, {"bytes", bytes}};
  }

  /// logits : [expected, vocabulary], of what follows each token but the first of which nothing is known.
  json perplexity(std::vector<float> const& logits, std::int64_t bytes) const {
    auto const width = static_cast<std::size_t>(model_.shape().vocabulary);
    double nll = 0;
    for (std::size_t i = 0; i + 1 < task_.expected.size(); ++i)
      nll -= log_probability(std::span(logits).subspan(i * width, width), task_.expected[i + 1]);
    return {{"nll", nll / static_cast<double>(task_.expected.size() - 1)}, {"bytes", bytes}};
  }

  engine& model_;
  tokenizer const& words_;
  evaluation_set const& set_;
  task const& task_;
  cache_element element_;
  std::vector<int> whole_;
  recorded_prompt pass_;
};

/// Every row from the beginning, as the demo does it.
json measure_times(engine& model, tokenizer const& words, evaluation_set const& set, task const& t,
                   cache_element element) {
  options o;
  o.element = element;
  o.new_tokens = 32;
  o.agnostic = set.agnostic;
  answer_reader const reader{[&](int token) { return words.text(token); }, [](int) { return false; },
                             [](std::string const&) { return std::nullopt; }};
  json rows = json::array();
  std::vector<options::row> all = set.rows;
  all.insert(all.begin(), {"full", 1});
  o.listed = std::move(all);
  for (measurement const& m : measure_rows(model, o, t.text, reader)) {
    json row = to_json(m);
    for (char const* key : {"answer", "tokens", "layer_seconds"}) row.erase(key);
    rows.push_back(row);
  }
  return rows;
}

}  // namespace

json measure_document(engine& model, tokenizer const& words, evaluation_set const& set, int index, unsigned seed,
                      std::span<int const> text, cache_element element) {
  auto const start = std::chrono::steady_clock::now();
  task const t = make_task(set, index, seed, text, words);
  json record{{"set", set.name}, {"document", index}, {"about", t.about}};
  if (set.what == measure::time) {
    record["rows"] = measure_times(model, words, set, t, element);
  } else if (set.what == measure::layers) {
    record["agreement"] = layer_agreement(model, t.text.whole(), element);
  } else {
    document_measurement measure(model, words, set, t, element);
    record["full"] = measure.full();
    for (options::row const& row : set.rows) {
      json figures = measure.row(row);
      figures["preset"] = row.preset;
      figures["compression"] = row.compression;
      record["rows"].push_back(std::move(figures));
    }
  }
  record["seconds"] = seconds(std::chrono::steady_clock::now() - start).count();
  return record;
}

}  // namespace engine
