// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"

#include "error.hpp"
#include "experiment.hpp"
#include "prompt.hpp"
#include "report.hpp"

#include <algorithm>
#include <istream>
#include <ostream>

namespace engine {

namespace {

constexpr int facts_hidden = 5, longest_question = 128;

/// No two share a word of their names: a small model mixes up a green door and a green gate with any cache.
std::vector<needle> random_facts(unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<needle> facts;
  auto const colour = [](needle const& n) { return n.name.substr(0, n.name.find(' ')); };
  auto const thing = [](needle const& n) { return n.name.substr(n.name.find(' ')); };
  while (facts.size() < facts_hidden) {
    needle const fact = needle::random(generator);
    if (std::ranges::none_of(
            facts, [&](needle const& other) { return colour(other) == colour(fact) || thing(other) == thing(fact); }))
      facts.push_back(fact);
  }
  return facts;
}

/// A compressed document, to be asked as often as one likes.
struct compressed_document {
  std::unique_ptr<measured_attention> attention;
  int tokens;
  measurement cost;

  compressed_document(language_model& model, options const& o, options::row const& row, prompt const& p)
      : attention(make_attention(row.preset, row.compression, o.element, model)),
        tokens(static_cast<int>(p.document.size())),
        cost(compress_document(model, *attention, p, longest_question + o.new_tokens,
                               [&] { model.prefill(p.document, *attention); })) {}

  measurement ask(language_model& model, std::span<int const> question, int new_tokens, answer_reader const& reader) {
    measurement result;
    int const added = answer_question(model, *attention, tokens, question, new_tokens, reader, result);
    attention->take_back(added);
    return result;
  }
};

nlohmann::json ask_lines(language_model& model, tokenizer const& words, prompt const& p, options const& o,
                         std::istream& in, std::ostream& out) {
  compressed_document document(model, o, o.rows().front(), p);
  answer_reader const reader{[&](int token) { return words.text(token); }, [&](int token) { return words.ends(token); },
                             [](std::string const&) { return std::nullopt; }};
  nlohmann::json answers = nlohmann::json::array();
  for (std::string line; out << "\n> " << std::flush && std::getline(in, line);) {
    std::vector<int> const question = words.tokens(question_text(line));
    if (question.size() > longest_question) {
      out << "That question is longer than " << longest_question << " tokens.\n";
      continue;
    }
    measurement const m = document.ask(model, question, o.new_tokens, reader);
    out << printable(m.answer) << '\n';
    answers.push_back({{"question", line}, {"answer", m.answer}});
  }
  return answers;
}

}  // namespace

nlohmann::json chat(engine& model, tokenizer const& words, std::span<int const> document, options const& o,
                    std::istream& in, std::ostream& out) {
  if (o.tokens > 0 && document.size() > static_cast<std::size_t>(o.tokens))
    document = document.first(static_cast<std::size_t>(o.tokens));
  std::vector<needle> const facts = o.from_stdin ? std::vector<needle>{} : random_facts(o.seed);
  prompt const p = hide(facts, document, words);
  if (p.document.size() + longest_question + static_cast<std::size_t>(o.new_tokens) >
      static_cast<std::size_t>(model.shape().context))
    throw bad_input("the document has " + std::to_string(p.document.size()) +
                    " tokens; with a question and its answer that is more than the model's context of " +
                    std::to_string(model.shape().context) + "; see --tokens");
  for (options::row const& row : o.rows()) {
    check_budget(model, o, row, p);
    if (o.from_stdin) break;  // the first one answers
  }
  if (o.from_stdin) return ask_lines(model, words, p, o, in, out);

  std::vector<std::vector<std::string>> cells{
      {"preset", "smaller", "right", "cache MB", "peak MB", "prefill s", "repeat s", "a question s"}};
  nlohmann::json rows = nlohmann::json::array();
  for (options::row const& row : o.rows()) {
    compressed_document compressed(model, o, row, p);
    nlohmann::json answers = nlohmann::json::array();
    int right = 0;
    seconds asking{};
    std::vector<needle> questions = facts;  // each twice: a question leaves no trace, so the answers agree
    questions.insert(questions.end(), facts.rbegin(), facts.rend());
    for (needle const& fact : questions) {
      answer_reader const reader{[&](int token) { return words.text(token); },
                                 [&](int token) { return words.ends(token) || words.text(token) == "\n"; },
                                 [&](std::string const& text) { return fact.answered_by(text); }};
      measurement const m = compressed.ask(model, words.tokens(fact.question()), o.new_tokens, reader);
      right += *m.right;
      asking += m.asking;
      answers.push_back({{"name", fact.name}, {"code", fact.code}, {"answer", m.answer}, {"right", *m.right}});
    }
    measurement const& cost = compressed.cost;
    auto const megabytes = [](std::int64_t bytes) { return with_decimals(static_cast<double>(bytes) / 1e6, 2); };
    cells.push_back({row.preset, row.compression == 1 ? "-" : std::to_string(row.compression) + "x",
                     std::to_string(right) + '/' + std::to_string(questions.size()), megabytes(cost.cache_bytes),
                     megabytes(cost.peak_cache_bytes), with_decimals(cost.prefill.count(), 2),
                     cost.repeating.count() > 0 ? with_decimals(cost.repeating.count(), 2) : "-",
                     with_decimals(asking.count() / static_cast<double>(questions.size()), 3)});
    rows.push_back({{"preset", row.preset},
                    {"compression", row.compression},
                    {"right", right},
                    {"of", questions.size()},
                    {"cache_bytes", cost.cache_bytes},
                    {"peak_cache_bytes", cost.peak_cache_bytes},
                    {"prefill_seconds", cost.prefill.count()},
                    {"repetition_seconds", cost.repeating.count()},
                    {"seconds_per_question", asking.count() / static_cast<double>(questions.size())},
                    {"answers", answers}});
  }
  out << '\n'
      << facts.size() << " facts hidden in " << p.document.size()
      << " tokens; compressed once, then asked one after the other. A question: its pass, without the answer.\n\n"
      << markdown(cells) << std::flush;
  return rows;
}

}  // namespace engine
