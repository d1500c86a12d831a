// SPDX-License-Identifier: Apache-2.0
#include "task.hpp"

#include "../error.hpp"

#include <array>

namespace engine {

namespace {

constexpr int continuation = 128;  // tokens whose perplexity is measured

constexpr std::array secret_words{"elephant", "harbor",  "lantern", "copper", "meadow",  "violin", "pepper", "glacier",
                                  "saddle",   "compass", "thunder", "velvet", "orchard", "anchor", "falcon", "marble"};

/// Names that share no word: a small model mixes up a green door and a green gate with any cache.
needle other_than(needle const& first, std::mt19937& generator) {
  auto const space = first.name.find(' ');
  for (;;) {
    needle const n = needle::random(generator);
    if (!n.name.starts_with(first.name.substr(0, space)) && !n.name.ends_with(first.name.substr(space))) return n;
  }
}

/// Three words, because the pass of the prompt itself gives the first token of an answer.
std::string random_phrase(std::mt19937& generator) {
  auto words = secret_words;
  std::string phrase;
  for (std::size_t i = 0; i < 3; ++i) {
    std::swap(words[i], words[std::uniform_int_distribution<std::size_t>(i, words.size() - 1)(generator)]);
    phrase.append(i > 0 ? " " : "").append(words[i]);
  }
  return phrase;
}

void expect(task& t, tokenizer const& words, std::string const& text, bool asked) {
  for (int const token : words.tokens(text)) {
    t.expected.push_back(token);
    t.asked.push_back(asked);
  }
}

}  // namespace

bool task::ends_answer(std::string const& piece, fact_kind kind) {
  if (piece.empty()) return true;
  auto const c = static_cast<unsigned char>(piece[0]);
  return kind == fact_kind::words ? std::isalpha(c) == 0 : std::isdigit(c) == 0;
}

task make_task(evaluation_set const& set, int index, unsigned seed, std::span<int const> text, tokenizer const& words) {
  std::size_t const held_out = text.size() / 4;
  text = set.calibration ? text.first(held_out) : text.subspan(held_out);
  auto const length = static_cast<std::size_t>(set.tokens);
  bool const continues = set.what == measure::perplexity;
  std::size_t const needed = length + (continues ? continuation : 0);
  if (text.size() < needed)
    throw bad_input("set '" + set.name + "' wants documents of " + std::to_string(needed) +
                    " tokens; the text it takes them from has " + std::to_string(text.size()));
  std::seed_seq mixed{seed, unsigned{set.calibration}, static_cast<unsigned>(set.tokens), static_cast<unsigned>(index)};
  std::mt19937 generator(mixed);
  std::size_t const first = std::uniform_int_distribution<std::size_t>(0, text.size() - needed)(generator);
  auto const document = text.subspan(first, length);

  task t;
  if (continues) {
    t.text = ask_nothing(document, words);
    for (int const token : text.subspan(first + length, continuation)) t.expected.push_back(token);
    t.asked.assign(t.expected.size(), true);
    t.about = {{"first", first}};
    return t;
  }
  needle fact = needle::random(generator, set.paraphrased);
  double const depth = 0.1 + 0.8 * (index + 0.5) / set.documents;
  t.about = {{"first", first}, {"depth", depth}, {"name", fact.name}};
  fact.wording = set.wording.value_or(set.paraphrased ? 0 : index % 3);
  if (set.kind == fact_kind::words) {
    fact.thing = "phrase";
    fact.code = random_phrase(generator);
  }
  t.about["code"] = fact.code;
  t.about["wording"] = fact.wording;
  expect(t, words, ' ' + fact.code, true);
  if (set.kind != fact_kind::two) {
    t.text = hide({{depth, fact.sentence()}}, document, fact.question(), words);
    return t;
  }
  needle second = other_than(fact, generator);
  second.wording = fact.wording;
  t.about["second"] = {{"name", second.name}, {"code", second.code}};
  double const later = depth < 0.5 ? depth + 0.4 : depth - 0.4;
  t.text = hide({{depth, fact.sentence()}, {later, second.sentence()}}, document,
                "\n\nQuestion: What are the secret codes of the " + fact.name + " and the " + second.name +
                    "?\nAnswer: The secret code of the " + fact.name + " is",
                words);
  expect(t, words, " and the secret code of the " + second.name + " is", false);
  expect(t, words, ' ' + second.code, true);
  return t;
}

}  // namespace engine
