// examples/engine/demo.cpp: a real language model answers questions about a document from a compressed KV cache.
// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "prompt.hpp"
#include "report.hpp"
#include "text_file.hpp"

#include <algorithm>
#include <iostream>

namespace {

nlohmann::json fill_table(engine::engine& model, engine::tokenizer const& words, std::span<int const> document,
                          engine::options const& o) {
  if (o.tokens > 0 && document.size() > static_cast<std::size_t>(o.tokens))
    document = document.first(static_cast<std::size_t>(o.tokens));
  std::mt19937 generator(o.seed);
  engine::needle const fact = engine::needle::random(generator, o.paraphrased);
  bool const hidden = o.question.empty();
  engine::prompt const prompt =
      hidden ? engine::hide(fact, document, o.depth, words) : engine::ask(o.question, document, words);
  engine::answer_reader const reader{
      [&](int token) { return words.text(token); },
      [&](int token) { return words.ends(token) || (!hidden && words.text(token) == "\n"); },
      [&](std::string const& text) { return hidden ? std::optional(fact.answered_by(text)) : std::nullopt; }};

  check_context(model, o, prompt);
  for (engine::options::row const& row : o.rows()) check_budget(model, o, row, prompt);
  std::cout << prompt.tokens() << " tokens. "
            << (hidden ? "Hidden:" + fact.sentence() + "Asked: " + fact.question().substr(2) : "Asked: " + o.question)
            << "\n\n"
            << std::flush;
  if (o.describe)
    for (auto const& [preset, compression] : o.rows())
      std::cout << preset << ' ' << compression << "x\n"
                << make_attention(preset, compression, model, {.element = o.element, .chunked = o.chunk > 0})
                       ->describe(prompt.tokens(), o.new_tokens)
                << '\n';
  std::vector<engine::measurement> rows = measure_rows(model, o, prompt, reader);
  nlohmann::json data = nlohmann::json::array();
  for (engine::measurement& row : rows) {
    data.push_back(to_json(row));
    row.answer = row.answer.substr(0, row.answer.find('\n'));
  }
  std::cout << table(rows);
  nlohmann::json result{{"prompt_tokens", prompt.tokens()}, {"rows", data}};
  if (hidden) {
    std::vector<int> const sentence = words.tokens(fact.sentence());
    auto const& all = prompt.document;
    auto const begin = std::search(all.begin(), all.end(), sentence.begin(), sentence.end()) - all.begin();
    result["fact"] = {begin, begin + static_cast<std::ptrdiff_t>(sentence.size())};
  }
  return result;
}

int run(int argc, char** argv) {
  engine::options const o = engine::parse_options(argc, argv, true);
  std::string const text = engine::read_text(o.document);
  engine::gguf_model const weights(o.model, o.float_weights);
  engine::tokenizer const words(o.model);
  engine::engine model(weights, o.threads);
  std::vector<int> const document = words.tokens(text);
  std::cout << o.model.filename().string() << " on " << o.threads << " threads, " << o.document.filename().string()
            << ": " << document.size() << " tokens\n";

  nlohmann::json data{{"model", to_json(model.shape())},
                      {"threads", o.threads},
                      {"float_weights", o.float_weights},
                      {"paraphrased", o.paraphrased}};
  auto const save = [&](char const* name, nlohmann::json const& value) {
    data[name] = value;
    if (!o.json.empty()) engine::write_json(o.json, data);
  };
  if (o.chat)
    save("chat", engine::chat(model, words, document, o, std::cin, std::cout));
  else
    save("table", fill_table(model, words, document, o));
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return engine::report_errors("demo", run, argc, argv); }
