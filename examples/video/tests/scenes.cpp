// SPDX-License-Identifier: Apache-2.0
#include "../../engine/error.hpp"
#include "../question.hpp"
#include "../words.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <set>

extern "C" {
void purekv_make_videos(std::uint64_t, std::int64_t, std::int32_t, std::int32_t, std::int32_t, std::int32_t,
                        std::int32_t, std::uint8_t*, std::int32_t*, std::uint8_t*, std::int32_t*);
std::int32_t purekv_word(std::int32_t, char const**);
}

namespace video {

namespace {

/// Mean light of a patch's channels: [patch_values] -> [channels].
std::array<double, channels> light(example const& e, int frame, place at) {
  video_shape const& s = e.what.shape;
  auto const* const p = e.pixels.data() + ((frame * s.height + at.y) * s.width + at.x) * patch_values;
  std::array<double, channels> sum{};
  for (int i = 0; i < patch_values; ++i) sum[static_cast<std::size_t>(i % channels)] += p[i] / 16.0;
  return sum;
}

std::vector<video_shape> const shapes_tried{{16, 6, 6}, {8, 5, 5}, {1, 2, 2}, {3, 2, 7}};

}  // namespace

TEST_CASE("a video depends on its seed, index and shape, and is the same on every machine") {
  example const a = make_example(7, 5, {}, 10), b = make_example(7, 5, {}, 10);
  CHECK(a.pixels == b.pixels);
  CHECK(a.questions.size() == 10);
  for (std::size_t i = 0; i < a.questions.size(); ++i) CHECK(a.questions[i].text == b.questions[i].text);
  CHECK(make_example(7, 6, {}, 0).pixels != a.pixels);
  CHECK(make_example(8, 5, {}, 0).pixels != a.pixels);

  std::uint64_t sum = 0;
  for (std::uint8_t const p : a.pixels) sum = sum * 31 + p;
  CHECK(a.pixels.size() == 27648);
  CHECK(sum == 16003065466351119821ULL);
  CHECK(a.questions[0].text + ' ' + a.questions[0].answer == "where is yellow at the end ? row 1 column 2 .");
}

TEST_CASE("what is seen is what happens") {
  unsigned const seed = std::random_device{}();
  CAPTURE(seed);
  for (video_shape const& shape : shapes_tried)
    for (unsigned i = 0; i < 50; ++i) {
      CAPTURE(i);
      example const e = make_example(seed, i, shape, 0);
      scene const& s = e.what;
      CHECK(std::set{s.moving.colour, s.still.colour, s.flashing.colour}.size() == 3);
      CHECK(s.velocity != place{});
      for (int t = 0; t < shape.frames; ++t) {
        CHECK(s.moving_at(t).y < shape.height);
        CHECK(s.moving_at(t).x < shape.width);
        for (int y = 0; y < shape.height; ++y)
          for (int x = 0; x < shape.width; ++x) {
            place const here{y, x};
            sprite const* const seen = here == s.moving_at(t)                     ? &s.moving
                                       : t == s.flash_frame && here == s.flash_at ? &s.flashing
                                       : here == s.still_at                       ? &s.still
                                                                                  : nullptr;
            // Half to three quarters of a sprite's 16 dots are lit, the background at 0.3 / 2 on average.
            auto const bright = light(e, t, here);
            int lit = 0;
            for (double const b : bright) lit += b > 100;
            if (seen == nullptr)
              CHECK(lit == 0);
            else
              CHECK(lit == (seen->colour < 3 ? 1 : 2));
          }
      }
    }
}

TEST_CASE("a place in a fixed background changes by noise alone") {
  example const e = make_example(3, 1, {}, 0);
  scene const& s = e.what;
  double sum = 0, squares = 0, n = 0;
  for (int y = 0; y < 6; ++y)
    for (int x = 0; x < 6; ++x) {
      bool empty = place{y, x} != s.still_at && place{y, x} != s.flash_at;
      for (int t = 0; t < 16; ++t) empty = empty && place{y, x} != s.moving_at(t);
      for (int i = 0; empty && i < patch_values; ++i) {
        auto const at = [&](int t) { return e.pixels[static_cast<std::size_t>(((t * 6 + y) * 6 + x) * 48 + i)]; };
        if (at(0) < 55 || at(1) < 55) continue;  // not cut off at black
        sum += at(1) - at(0);
        squares += (at(1) - at(0)) * (at(1) - at(0));
        n += 1;
      }
    }
  CHECK(n > 100);
  CHECK(std::abs(sum / n) < 4);
  CHECK(std::sqrt(squares / n / 2) > 7);
  CHECK(std::sqrt(squares / n / 2) < 18);
}

TEST_CASE("every question is in the model's words, and its answer is what happens") {
  unsigned const seed = std::random_device{}();
  CAPTURE(seed);
  std::set<question_kind> asked;
  std::set<std::string> texts;
  for (video_shape const& shape : shapes_tried)
    for (unsigned i = 0; i < 100; ++i)
      for (question const& q : make_example(seed, i, shape, 12).questions) {
        asked.insert(q.kind);
        texts.insert(q.text);
        auto const text = tokens_of(q.text), answer = tokens_of(q.answer);
        CHECK(text.size() + answer.size() <= longest_question);
        CHECK(text_of(text) == q.text);
        CHECK(text_of(answer) == q.answer);
        CHECK(q.text.ends_with(" ?"));
        CHECK(answer.back() == end_of_answer);
      }
  CHECK(asked.size() == kind_names.size());
  CHECK(texts.size() > 100);

  dice random(1, 1);
  scene s({16, 6, 6}, random);
  s.moving = {0, 2};
  s.still = {5, 1};
  s.flashing = {3, 0};
  s.start = {5, 1};
  s.velocity = {1, -1};
  s.flash_at = {4, 3};
  s.flash_frame = 11;
  auto const said = [&](question_kind kind) {
    question const q = ask(kind, s, random);
    return q.text + ' ' + q.answer;
  };
  CHECK(said(question_kind::who_moves) == "which one moves ? red disc .");
  CHECK(said(question_kind::who_flashes) == "which one flashes ? yellow square .");
  CHECK(said(question_kind::flash_when) == "when does yellow flash ? frame 11 .");
  CHECK(said(question_kind::flash_where) == "where does yellow flash ? row 4 column 3 .");
  CHECK(s.moving_at(3) == place{2, 4});
  std::set<std::string> ends;
  for (int i = 0; i < 50; ++i) ends.insert(said(question_kind::at_the_end));
  CHECK(ends.contains("where is red at the end ? row 2 column 4 ."));
  CHECK(ends.size() == 2);
}

TEST_CASE("a word that the model does not know") {
  CHECK_THROWS_WITH_AS(tokens_of("where is purple ?"), doctest::Contains("does not know the word 'purple'; it knows: "),
                       engine::bad_input);
  CHECK(tokens_of("").empty());
  CHECK(tokens_of("  red ") == tokens_of("red"));
}

TEST_CASE("training sees the same videos and questions") {
  constexpr int count = 3, questions = 5;
  video_shape const shape{4, 3, 5};
  auto const values = static_cast<std::size_t>(shape.tokens() * patch_values);
  constexpr std::size_t slots = questions * longest_question;
  std::vector<std::uint8_t> pixels(count * values), answer(count * slots, 2);
  std::vector<std::int32_t> text(count * slots, -1), kind(count * questions, -1);
  purekv_make_videos(6, 40, count, shape.frames, shape.height, shape.width, questions, pixels.data(), text.data(),
                     answer.data(), kind.data());
  for (std::size_t i = 0; i < count; ++i) {
    example const e = make_example(6, 40 + i, shape, questions);
    CHECK(std::equal(e.pixels.begin(), e.pixels.end(), pixels.begin() + static_cast<std::ptrdiff_t>(i * values)));
    for (std::size_t q = 0; q < questions; ++q) {
      question const& expected = e.questions[q];
      CHECK(kind[i * questions + q] == static_cast<int>(expected.kind));
      auto const slot = static_cast<std::ptrdiff_t>(i * slots + q * longest_question);
      std::vector<int> asked, answered;
      for (int t = 0; t < longest_question; ++t) {
        int const token = text[static_cast<std::size_t>(slot + t)];
        bool const in_answer = answer[static_cast<std::size_t>(slot + t)] == 1;
        if (in_answer)
          answered.push_back(token);
        else if (answered.empty())
          asked.push_back(token);
        else
          CHECK(token == end_of_answer);
      }
      CHECK(text_of(asked) == expected.text);
      CHECK(text_of(answered) == expected.answer);
    }
  }

  char const* word = nullptr;
  auto const list = words();
  for (std::size_t t = 0; t < list.size(); ++t) {
    auto const length = purekv_word(static_cast<std::int32_t>(t), &word);
    CHECK(std::string_view(word, static_cast<std::size_t>(length)) == list[t]);
  }
  CHECK(purekv_word(static_cast<std::int32_t>(list.size()), &word) == 0);
}

TEST_CASE("dice are fair, and noise is a bell") {
  dice random(std::random_device{}(), 0);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70000; ++i) ++counts[static_cast<std::size_t>(random.below(7))];
  for (int const count : counts) CHECK(std::abs(count - 10000) < 600);
  double sum = 0, squares = 0;
  int smallest = 0, largest = 0;
  for (int i = 0; i < 100000; ++i) {
    int const n = random.noise(11);
    sum += n;
    squares += n * n;
    smallest = std::min(smallest, n);
    largest = std::max(largest, n);
  }
  CHECK(std::abs(sum / 1e5) < 0.3);
  CHECK(std::sqrt(squares / 1e5) == doctest::Approx(13.27).epsilon(0.02));
  CHECK(smallest >= -44);
  CHECK(largest <= 44);
  CHECK(largest > 30);
}

}  // namespace video
