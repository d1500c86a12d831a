// SPDX-License-Identifier: Apache-2.0
#include "prompt.hpp"

#include <algorithm>
#include <array>

namespace engine {

namespace {

void append(std::vector<int>& tokens, std::span<int const> more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

/// The requests are KVzip's.
prompt with_requests(std::vector<int> document, std::vector<int> question, tokenizer const& words) {
  return {std::move(document), std::move(question), words.tokens("\n\nRepeat the previous context exactly.\n"),
          words.tokens("\n\nRepeat the part of the previous context exactly, starting with")};
}

}  // namespace

needle needle::random(std::mt19937& generator, bool paraphrased) {
  static constexpr std::array colours{"blue", "red", "green", "white", "golden", "silver"};
  static constexpr std::array things{"door", "gate", "box", "safe", "locker", "bridge"};
  auto below = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(generator); };
  needle result;
  result.paraphrased = paraphrased;
  result.name = colours[below(colours.size())];
  result.name += ' ';
  result.name += things[below(things.size())];
  for (int i = 0; i < 5; ++i) result.code += static_cast<char>('0' + below(10));
  return result;
}

std::string needle::sentence() const {
  if (paraphrased) return "\nVisitors who want to get through the " + name + " must type " + code + " on the keypad.\n";
  if (wording == 1) return "\nRemember that the secret " + thing + " of the " + name + " is " + code + ".\n";
  if (wording == 2) return "\nThe " + name + " has a secret " + thing + ", which is " + code + ".\n";
  return "\nThe secret " + thing + " of the " + name + " is " + code + ".\n";
}

std::string needle::question() const {
  if (paraphrased) return "\n\nQuestion: Which number opens the " + name + "?\nAnswer: The number to enter is";
  return "\n\nQuestion: What is the secret " + thing + " of the " + name + "?\nAnswer: The secret " + thing +
         " of the " + name + " is";
}

bool needle::answered_by(std::string_view text) const {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  bool const more_digits = text.size() > code.size() && text[code.size()] >= '0' && text[code.size()] <= '9';
  return text.starts_with(code) && !more_digits;
}

prompt hide(std::vector<hidden_sentence> sentences, std::span<int const> document, std::string const& question,
            tokenizer const& words) {
  std::ranges::sort(sentences, {}, &hidden_sentence::depth);
  std::vector<int> tokens = words.beginning();
  std::size_t from = 0;
  for (auto const& [depth, text] : sentences) {
    auto const to = static_cast<std::size_t>(depth * static_cast<double>(document.size()));
    append(tokens, document.subspan(from, to - from));
    append(tokens, words.tokens(text));
    from = to;
  }
  append(tokens, document.subspan(from));
  return with_requests(std::move(tokens), words.tokens(question), words);
}

prompt hide(needle const& fact, std::span<int const> document, double depth, tokenizer const& words) {
  return hide({{depth, fact.sentence()}}, document, fact.question(), words);
}

prompt hide(std::span<needle const> facts, std::span<int const> document, tokenizer const& words) {
  std::vector<hidden_sentence> sentences;
  for (needle const& fact : facts) {
    auto const before = static_cast<double>(sentences.size());
    sentences.push_back({(before + 0.5) / static_cast<double>(facts.size()), fact.sentence()});
  }
  return hide(std::move(sentences), document, "", words);
}

std::string question_text(std::string const& question) { return "\n\nQuestion: " + question + "\nAnswer:"; }

prompt ask_nothing(std::span<int const> document, tokenizer const& words) {
  return hide(std::vector<hidden_sentence>{}, document, "", words);
}

prompt ask(std::string const& question, std::span<int const> document, tokenizer const& words) {
  std::vector<int> tokens = words.beginning();
  append(tokens, document);
  return with_requests(std::move(tokens), words.tokens(question_text(question)), words);
}

}  // namespace engine
