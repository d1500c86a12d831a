// SPDX-License-Identifier: Apache-2.0
// The engine against PyTorch: model and logits are what export.py --untrained wrote.
#include "../../engine/error.hpp"
#include "../../engine/presets.hpp"
#include "../../engine/tests/support.hpp"
#include "../question.hpp"
#include "../watch.hpp"
#include "../words.hpp"

#include <doctest/doctest.h>

#include <cmath>

namespace video {

namespace {

std::filesystem::path const data = VIDEO_TEST_DATA;

struct golden {
  std::uint32_t seed;
  video_shape shape;
  std::vector<int> tokens;    // a question with its answer
  std::vector<float> logits;  // after each of them: [tokens, words]
};

golden read_golden(std::filesystem::path const& file) {
  ggml_context* tensors = nullptr;
  gguf_context_ptr const metadata(gguf_init_from_file(file.c_str(), {.no_alloc = false, .ctx = &tensors}));
  REQUIRE(metadata);
  ggml_context_ptr const owner(tensors);
  auto const key = [&](char const* name) { return gguf_find_key(metadata.get(), name); };
  auto const* const size = static_cast<std::int32_t const*>(gguf_get_arr_data(metadata.get(), key("golden.size")));
  ggml_tensor const* const tokens = ggml_get_tensor(tensors, "tokens");
  ggml_tensor const* const logits = ggml_get_tensor(tensors, "logits");
  auto const* const t = static_cast<std::int32_t const*>(tokens->data);
  auto const* const l = static_cast<float const*>(logits->data);
  return {gguf_get_val_u32(metadata.get(), key("golden.seed")),
          {size[0], size[1], size[2]},
          {t, t + ggml_nelements(tokens)},
          {l, l + ggml_nelements(logits)}};
}

double worst(std::vector<float> const& a, std::span<float const> b) {
  REQUIRE(a.size() == b.size());
  double result = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    REQUIRE(std::isfinite(a[i]));
    result = std::max(result, std::abs(double{a[i]} - b[i]));
  }
  return result;
}

double deviation(std::vector<float> const& x) {
  double sum = 0, squares = 0;
  for (float const v : x) {
    sum += v;
    squares += double{v} * v;
  }
  auto const n = static_cast<double>(x.size());
  return std::sqrt(squares / n - sum / n * (sum / n));
}

}  // namespace

TEST_CASE("the engine's logits are PyTorch's") {
  golden const expected = read_golden(data / "golden.gguf");
  example const e = make_example(expected.seed, 0, expected.shape, 1);
  std::string const text = e.questions[0].text + ' ' + e.questions[0].answer;
  CHECK(text_of(expected.tokens).starts_with(text));

  engine::gguf_model const weights = load_model(data / "model.gguf");
  engine::engine model(weights, 2);
  prompt const p(expected.shape, e.pixels);
  auto const tokens = static_cast<int>(p.tokens().size()), asked = static_cast<int>(expected.tokens.size());
  auto const full = [&] {
    auto attention = make_attention("full", 1, model, {.element = engine::cache_element::float32});
    attention->begin(tokens, asked);
    return attention;
  };
  CHECK(deviation(expected.logits) > 0.5);

  model.show(p.shown());
  auto const at_once = full();
  model.prefill(p.tokens(), *at_once);
  model.extend(expected.tokens, tokens, *at_once);
  double const difference = worst(model.logits(0, asked), expected.logits);
  MESSAGE("largest difference over ", asked, " positions: ", difference);
  CHECK(difference < 1e-3);

  auto const one_by_one = full();
  model.prefill(p.tokens(), *one_by_one);
  auto const words = static_cast<std::size_t>(model.shape().vocabulary);
  for (std::size_t i = 0; i < expected.tokens.size(); ++i)
    CHECK(worst(model.decode(expected.tokens[i], tokens + static_cast<int>(i), *one_by_one),
                std::span(expected.logits).subspan(i * words, words)) < 1e-3);

  // Not from another video, nor from one that is cut into frames in another way.
  auto const wrong = [&](video_shape const& shape, std::vector<std::uint8_t> const& pixels) {
    prompt const other(shape, pixels);
    auto const attention = full();
    model.show(other.shown());
    model.prefill(other.tokens(), *attention);
    model.extend(expected.tokens, tokens, *attention);
    return worst(model.logits(0, asked), expected.logits);
  };
  CHECK(wrong(expected.shape, make_example(expected.seed, 1, expected.shape, 0).pixels) > 1e-2);
  video_shape turned = expected.shape;
  std::swap(turned.frames, turned.height);
  CHECK(wrong(turned, e.pixels) > 1e-2);
  turned = expected.shape;
  std::swap(turned.height, turned.width);
  CHECK(wrong(turned, e.pixels) > 1e-2);
}

TEST_CASE("a question leaves no trace, on any number of threads") {
  engine::gguf_model const weights = load_model(data / "model.gguf");
  golden const g = read_golden(data / "golden.gguf");
  example const e = make_example(9, 0, g.shape, 8);
  prompt const p(g.shape, e.pixels);
  std::vector<std::string> answers;
  for (int const threads : {1, 3}) {
    engine::engine model(weights, threads);
    auto const attention = make_attention("full", 1, model);
    watched about(model, *attention, p);
    for (bool const again : {false, true})
      for (std::size_t i = 0; i < e.questions.size(); ++i) {
        std::string const answer = about.answer(e.questions[i].text);
        if (threads == 1 && !again)
          answers.push_back(answer);
        else
          CHECK(answer == answers[i]);
      }
  }
}

TEST_CASE("what cannot be shown or asked") {
  engine::gguf_model const weights = load_model(data / "model.gguf");
  engine::engine model(weights, 1);
  auto const shown = [&](video_shape const& shape, std::vector<float> const& patches) {
    purekv::segment const s = purekv::segment::video(0, shape.frames, shape.height, shape.width);
    model.show({{&s, 1}, patches});
  };
  using engine::bad_input;
  CHECK_THROWS_WITH_AS(shown({17, 2, 2}, {}), "the video has 17 frames; the model was trained on at most 16",
                       bad_input);
  CHECK_THROWS_WITH_AS(shown({2, 99, 2}, {}), doctest::Contains("99 rows of patches"), bad_input);
  CHECK_THROWS_WITH_AS(shown({2, 2, 99}, {}), doctest::Contains("99 columns of patches"), bad_input);
  CHECK_THROWS_WITH_AS(shown({2, 2, 2}, std::vector<float>(8 * 48 - 1)),
                       "the video has 383 values, not 48 for each of 8 patches", bad_input);
  CHECK_THROWS_WITH_AS(shown({2, 0, 2}, {}), doctest::Contains("no frames, height or width"), bad_input);

  example const e = make_example(9, 0, {4, 3, 3}, 0);
  prompt const p({4, 3, 3}, e.pixels);
  auto const attention = make_attention("full", 1, model);
  watched about(model, *attention, p);
  CHECK_THROWS_WITH_AS(about.answer("where is purple ?"), doctest::Contains("'purple'"), bad_input);
  CHECK_THROWS_WITH_AS(about.answer(""), "the question is empty", bad_input);
  CHECK_THROWS_WITH_AS(about.answer("is is is is is is is is"), "a question has at most 7 words", bad_input);
}

}  // namespace video
