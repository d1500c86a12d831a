// SPDX-License-Identifier: Apache-2.0
#include "prompt_tokens.hpp"

#include <algorithm>
#include <iterator>

namespace engine {

namespace {

constexpr std::ptrdiff_t chunk = 2048, carried_over = 8;  // KVzip's

template <class From> void append(std::vector<int>& tokens, From first, From last) {
  tokens.insert(tokens.end(), first, last);
}

}  // namespace

std::vector<int> prompt::whole() const {
  std::vector<int> tokens = document;
  append(tokens, question.begin(), question.end());
  return tokens;
}

std::vector<std::vector<int>> prompt::repetition() const {
  std::vector<std::vector<int>> passes;
  for (auto from = document.begin(); from != document.end();) {
    auto const to = from + std::min(chunk, std::distance(from, document.end()));
    std::vector<int> pass = passes.empty() ? repeat : repeat_from;
    append(pass, passes.empty() ? from : from - carried_over, to);
    passes.push_back(std::move(pass));
    from = to;
  }
  return passes;
}

}  // namespace engine
