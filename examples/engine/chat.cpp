// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"

#include "conversation.hpp"
#include "error.hpp"
#include "prompt.hpp"
#include "report.hpp"

#include <algorithm>
#include <istream>
#include <ostream>

namespace engine {

namespace {

constexpr int facts_hidden = 5, longest_question = 128, remembered_turns = 16;

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

nlohmann::json ask_lines(language_model& model, tokenizer const& words, prompt const& p, options const& o,
                         std::istream& in, std::ostream& out) {
  int const a_turn = longest_question + o.new_tokens;
  int const context = model.shape().context - static_cast<int>(p.document.size());
  conversation talk(model, o, o.rows().front(), p, std::min(context, o.forgetful ? a_turn : remembered_turns * a_turn));
  answer_reader const reader{[&](int token) { return words.text(token); }, [&](int token) { return words.ends(token); },
                             [](std::string const&) { return std::nullopt; }};
  nlohmann::json answers = nlohmann::json::array();
  for (std::string line; out << "\n> " << std::flush && std::getline(in, line);) {
    std::vector<int> const question = words.tokens(question_text(line));
    if (question.size() > longest_question) {
      out << "That question is longer than " << longest_question << " tokens.\n";
      continue;
    }
    if (!talk.has_room_for(question.size())) {
      talk.forget();
      out << "(What was said before this question is forgotten; the document is not.)\n";
    }
    measurement const m = talk.ask(question, reader);
    out << printable(m.answer) << '\n';
    answers.push_back({{"question", line}, {"answer", m.answer}});
    if (o.forgetful) talk.forget();
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
    conversation talk(model, o, row, p, longest_question + o.new_tokens);
    nlohmann::json answers = nlohmann::json::array();
    int right = 0;
    seconds asking{};
    std::vector<needle> questions = facts;  // each twice: a question leaves no trace, so the answers agree
    questions.insert(questions.end(), facts.rbegin(), facts.rend());
    for (needle const& fact : questions) {
      answer_reader const reader{[&](int token) { return words.text(token); },
                                 [&](int token) { return words.ends(token) || words.text(token) == "\n"; },
                                 [&](std::string const& text) { return fact.answered_by(text); }};
      measurement const m = talk.ask(words.tokens(fact.question()), reader);
      talk.forget();
      right += *m.right;
      asking += m.asking;
      answers.push_back({{"name", fact.name}, {"code", fact.code}, {"answer", m.answer}, {"right", *m.right}});
    }
    measurement const& cost = talk.cost();
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
