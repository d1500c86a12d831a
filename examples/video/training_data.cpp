// examples/video/training_data.cpp: the videos and questions for train.py, which loads this as a shared library.
// SPDX-License-Identifier: Apache-2.0
#include "question.hpp"
#include "words.hpp"

#include <algorithm>
#include <cstring>

extern "C" {

/// Videos first .. first + count - 1, each with `questions` pairs of question and answer in slots of equal length.
///   pixels : [count, frames, height, width, 48]        text : [count, questions, 12] tokens, "." after the answer
///   answer : [count, questions, 12], 1 where the token belongs to the answer      kind : [count, questions]
void purekv_make_videos(std::uint64_t seed, std::int64_t first, std::int32_t count, std::int32_t frames,
                        std::int32_t height, std::int32_t width, std::int32_t questions, std::uint8_t* pixels,
                        std::int32_t* text, std::uint8_t* answer, std::int32_t* kind) {
  for (std::int32_t i = 0; i < count; ++i) {
    video::example const e = video::make_example(seed, static_cast<std::uint64_t>(first + i), {frames, height, width},
                                                 static_cast<int>(questions));
    pixels = std::ranges::copy(e.pixels, pixels).out;
    for (video::question const& q : e.questions) {
      std::vector<int> tokens = video::tokens_of(q.text);
      std::size_t const asked = tokens.size();
      std::ranges::copy(video::tokens_of(q.answer), std::back_inserter(tokens));
      std::fill_n(answer, video::longest_question, std::uint8_t{0});
      std::fill(answer + asked, answer + tokens.size(), std::uint8_t{1});
      tokens.resize(video::longest_question, video::end_of_answer);
      text = std::ranges::copy(tokens, text).out;
      answer += video::longest_question;
      *kind++ = static_cast<std::int32_t>(q.kind);
    }
  }
}

/// Tokens of a pair's slot.
std::int32_t purekv_slot() { return video::longest_question; }

/// The word of a token, not terminated, and its length; 0 after the last.
std::int32_t purekv_word(std::int32_t token, char const** word) {
  if (token < 0 || static_cast<std::size_t>(token) >= video::words().size()) return 0;
  std::string_view const w = video::words()[static_cast<std::size_t>(token)];
  *word = w.data();
  return static_cast<std::int32_t>(w.size());
}

/// Likewise the name of a kind of question.
std::int32_t purekv_kind(std::int32_t kind, char const** name) {
  if (kind < 0 || static_cast<std::size_t>(kind) >= video::kind_names.size()) return 0;
  std::string_view const n = video::kind_names[static_cast<std::size_t>(kind)];
  *name = n.data();
  return static_cast<std::int32_t>(n.size());
}
}
