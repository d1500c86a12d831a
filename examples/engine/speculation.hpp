// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

namespace engine {

/// How many tokens at a time are guessed while an answer is generated, and the text so far to guess from. The answer is
/// the one without guessing: what the model would not have said is taken back.
struct speculation {
  int tokens = 0;
  std::span<int const> text{};
};

/// What may come next in a text: what followed the latest earlier place where its last 3 tokens stand, or its last 2; a
/// part of the text, at most `most` tokens, none if there is no such place. Prompt lookup decoding,
/// https://github.com/apoorvumang/prompt-lookup-decoding.
std::span<int const> guess(std::span<int const> text, int most);

}  // namespace engine
