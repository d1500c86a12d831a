// SPDX-License-Identifier: Apache-2.0
// Compression before the question is known, with a model that needs no file.
#include "../experiment.hpp"
#include "../random_model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

namespace engine {

namespace {

constexpr int new_tokens = 5;

answer_reader const nothing_to_read{[](int) { return std::string{}; }, [](int) { return false; },
                                    [](std::string const&) { return std::nullopt; }};

std::vector<int> some_tokens(int count, int first) {
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) ids[static_cast<std::size_t>(i)] = (first + 37 * i) % 4096;
  return ids;
}

prompt some_prompt(int document, int question) {
  return {some_tokens(document, 3), some_tokens(question, 1000), some_tokens(5, 2000), some_tokens(6, 2010)};
}

std::unique_ptr<measured_attention> attention_of(language_model const& model, std::string const& preset, int times) {
  return make_attention(preset, times, model);
}

measurement answer(language_model& model, std::string const& preset, int times, prompt const& p) {
  auto const attention = attention_of(model, preset, times);
  return answer_document(model, *attention, p, new_tokens, nothing_to_read,
                         [&] { model.prefill(p.document, *attention); });
}

}  // namespace

TEST_CASE("a document is repeated in chunks, each after a request and the end of the chunk before") {
  prompt p = some_prompt(300, 4);
  REQUIRE(p.repetition().size() == 1);
  std::vector<int> expected = p.repeat;
  expected.insert(expected.end(), p.document.begin(), p.document.end());
  CHECK(p.repetition()[0] == expected);

  p.document = some_tokens(2 * 2048 + 7, 3);
  auto const passes = p.repetition();
  REQUIRE(passes.size() == 3);
  CHECK(passes[0].size() == p.repeat.size() + 2048);
  CHECK(passes[1].size() == p.repeat_from.size() + 8 + 2048);
  CHECK(passes[2].size() == p.repeat_from.size() + 8 + 7);
  CHECK(std::equal(p.repeat_from.begin(), p.repeat_from.end(), passes[2].begin()));
  CHECK(std::equal(passes[2].end() - 15, passes[2].end(), p.document.end() - 15));

  p.document.clear();
  CHECK(p.repetition().empty());
}

TEST_CASE("the question after the document or with it: the same answer from a full cache") {
  random_model model(2);
  prompt const p = some_prompt(90, 11);
  std::vector<int> const whole = p.whole();
  auto const attention = attention_of(model, "full", 1);
  measurement const at_once = answer_prompt(model, *attention, p.tokens(), new_tokens, nothing_to_read,
                                            [&] { return model.prefill(whole, *attention); });
  CHECK(answer(model, "full", 1, p).tokens == at_once.tokens);
}

TEST_CASE("kvzip that keeps everything answers as the full cache does") {
  random_model model(2);
  prompt const p = some_prompt(90, 11);
  CHECK(answer(model, "kvzip", 1, p).tokens == answer(model, "full", 1, p).tokens);
}

TEST_CASE("kvzip keeps what its budget says of the whole model, and answers alike on any number of threads") {
  random_model two(2), three(3);
  prompt const p = some_prompt(200, 11);
  measurement const m = answer(two, "kvzip", 5, p);
  CHECK(answer(three, "kvzip", 5, p).tokens == m.tokens);
  model_shape const& s = two.shape();
  std::int64_t const slot = 2 * s.dim * 2 + 4, heads = std::int64_t{s.layers} * s.kv_heads;
  std::int64_t const slots = heads * (200 / 5 + 11 + new_tokens);
  CHECK(m.cache_bytes >= slots * slot);
  CHECK(m.cache_bytes <= slots * slot + 2048 * s.layers);
  // Nothing can be evicted before all has been scored: all layers' full caches, the repetition's tokens, the scores.
  CHECK(m.peak_cache_bytes >= heads * (200 + 205) * slot);
  CHECK(m.repeating.count() > 0);
  CHECK(answer(two, "snapkv", 5, p).repeating.count() == 0);
  CHECK(m.compressing.count() > 0);
  CHECK(m.prefill > m.attention + m.compressing);
}

TEST_CASE("a question that was taken back leaves no trace") {
  random_model model(2);
  prompt const p = some_prompt(120, 11);
  std::vector<int> const other = some_tokens(23, 77);
  for (std::string const preset : {"full", "snapkv", "purekv", "kvzip"}) {
    CAPTURE(preset);
    auto const attention = attention_of(model, preset, 4);
    compress_document(model, *attention, p, 23 + new_tokens, [&] { model.prefill(p.document, *attention); });
    auto const ask = [&](std::span<int const> question) {
      measurement result;
      int const added = answer_question(model, *attention, 120, question, new_tokens, nothing_to_read, result);
      CHECK(added == static_cast<int>(question.size()) + new_tokens - 1);
      attention->take_back(added);
      return result.tokens;
    };
    std::vector<int> const first = ask(p.question), second = ask(other);
    CHECK(first.size() == new_tokens);
    CHECK(ask(p.question) == first);
    CHECK(ask(other) == second);
  }
}

}  // namespace engine
