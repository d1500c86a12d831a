// SPDX-License-Identifier: Apache-2.0
#include "words.hpp"

#include "../engine/error.hpp"

#include <algorithm>
#include <array>

namespace video {

namespace {

constexpr auto list = std::to_array<std::string_view>(
    {"<patch>", "<video>", "</video>", ".",     "?",    "where",  "when",    "which", "is",      "does",
     "in",      "at",      "the",      "end",   "one",  "shape",  "moves",   "flash", "flashes", "row",
     "column",  "frame",   "red",      "green", "blue", "yellow", "magenta", "cyan",  "square",  "cross",
     "disc",    "checker", "0",        "1",     "2",    "3",      "4",       "5",     "6",       "7",
     "8",       "9",       "10",       "11",    "12",   "13",     "14",      "15"});

int token_of(std::string_view word) {
  auto const found = std::ranges::find(list, word);
  if (found != list.end()) return static_cast<int>(found - list.begin());
  std::string known;
  for (std::string_view const w : list) known.append(known.empty() ? "" : " ").append(w);
  throw engine::bad_input("the model does not know the word '" + std::string(word) + "'; it knows: " + known);
}

}  // namespace

std::span<std::string_view const> words() { return list; }

std::vector<int> tokens_of(std::string_view text) {
  std::vector<int> tokens;
  while (true) {
    auto const begin = text.find_first_not_of(' ');
    if (begin == std::string_view::npos) return tokens;
    text.remove_prefix(begin);
    auto const end = std::min(text.find(' '), text.size());
    tokens.push_back(token_of(text.substr(0, end)));
    text.remove_prefix(end);
  }
}

std::string text_of(std::span<int const> tokens) {
  std::string text;
  for (int const token : tokens) text.append(text.empty() ? "" : " ").append(list[static_cast<std::size_t>(token)]);
  return text;
}

}  // namespace video
