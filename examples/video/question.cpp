// SPDX-License-Identifier: Apache-2.0
#include "question.hpp"

#include "words.hpp"

namespace video {

namespace {

std::string word_after(std::string_view first, int index) {
  std::size_t at = 0;
  while (words()[at] != first) ++at;
  return std::string(words()[at + static_cast<std::size_t>(index)]);
}

std::string colour_of(sprite const& s) { return word_after("red", s.colour); }
std::string shape_of(sprite const& s) { return word_after("square", s.shape); }
std::string number(int n) { return word_after("0", n); }
std::string at(place p) { return "row " + number(p.y) + " column " + number(p.x) + " ."; }
std::string description(sprite const& s) { return colour_of(s) + ' ' + shape_of(s) + " ."; }

}  // namespace

question ask(question_kind kind, scene const& s, dice& random) {
  switch (kind) {
    case question_kind::at_the_end: {
      bool const moving = random.below(2) == 0;
      return {kind, "where is " + colour_of(moving ? s.moving : s.still) + " at the end ?",
              at(moving ? s.moving_at(s.shape.frames - 1) : s.still_at)};
    }
    case question_kind::in_a_frame: {
      int const frame = random.below(s.shape.frames);
      return {kind, "where is " + colour_of(s.moving) + " in frame " + number(frame) + " ?", at(s.moving_at(frame))};
    }
    case question_kind::which_shape: {
      int const which = random.below(3);
      sprite const& one = which == 0 ? s.moving : which == 1 ? s.still : s.flashing;
      return {kind, "which shape is " + colour_of(one) + " ?", shape_of(one) + " ."};
    }
    case question_kind::who_moves:
      return {kind, "which one moves ?", description(s.moving)};
    case question_kind::who_flashes:
      return {kind, "which one flashes ?", description(s.flashing)};
    case question_kind::flash_when:
      return {kind, "when does " + colour_of(s.flashing) + " flash ?", "frame " + number(s.flash_frame) + " ."};
    case question_kind::flash_where:
      break;
  }
  return {question_kind::flash_where, "where does " + colour_of(s.flashing) + " flash ?", at(s.flash_at)};
}

question ask_anything(scene const& s, dice& random) {
  return ask(static_cast<question_kind>(random.below(static_cast<int>(kind_names.size()))), s, random);
}

example make_example(std::uint64_t seed, std::uint64_t index, video_shape const& shape, int questions) {
  dice random(seed, index);
  scene const what(shape, random);
  example result{what, render(what, random), {}};
  for (int i = 0; i < questions; ++i) result.questions.push_back(ask_anything(what, random));
  return result;
}

}  // namespace video
