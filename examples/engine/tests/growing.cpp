// SPDX-License-Identifier: Apache-2.0
// Prompts in chunks, conversations and guessed tokens, with a model that needs no file.
#include "../conversation.hpp"
#include "../error.hpp"
#include "../random_model.hpp"

#include <doctest/doctest.h>

namespace engine {

namespace {

answer_reader const nothing_to_read{[](int) { return std::string{}; }, [](int) { return false; },
                                    [](std::string const&) { return std::nullopt; }};

std::vector<int> some_tokens(int count, int first) {
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) ids[static_cast<std::size_t>(i)] = (first + 37 * i) % 4096;
  return ids;
}

struct run_result {
  measurement cost;
  std::vector<std::vector<std::vector<std::int32_t>>> kept;
};

run_result answer(language_model& model, std::string const& preset, std::vector<int> const& prompt, int chunk,
                  int guessed = 0, int new_tokens = 6) {
  auto const attention = make_attention(preset, 4, model, {.element = cache_element::float32, .chunked = chunk > 0});
  run_result result;
  auto const feed = [&] {
    std::vector<float> logits = prefill(model, prompt, chunk, *attention);
    for (int l = 0; l < model.shape().layers; ++l) result.kept.push_back(attention->kept(l));
    return logits;
  };
  result.cost = answer_prompt(model, *attention, static_cast<int>(prompt.size()), new_tokens, nothing_to_read, feed,
                              {guessed, prompt});
  return result;
}

/// Tokens kept by one run and not by the other: near-ties, which float sums in another order may swap.
std::size_t differing(run_result const& a, run_result const& b) {
  std::size_t count = 0;
  for (std::size_t l = 0; l < a.kept.size(); ++l)
    for (std::size_t h = 0; h < a.kept[l].size(); ++h) {
      REQUIRE(a.kept[l][h].size() == b.kept[l][h].size());
      for (std::int32_t const position : a.kept[l][h])
        count += !std::binary_search(b.kept[l][h].begin(), b.kept[l][h].end(), position);
    }
  return count;
}

}  // namespace

TEST_CASE("a prompt in chunks: the caches, their sizes and the answers of the prompt at once") {
  random_model model(2);
  std::vector<int> const prompt = some_tokens(150, 3);
  struct {
    char const *chunked, *whole;  // in chunks nothing prunes first
  } const pairs[] = {{"full", "full"},
                     {"snapkv", "snapkv"},
                     {"h2o", "h2o"},
                     {"purekv", "purekv_after"},
                     {"purekv_drop", "purekv_after"}};
  for (auto const& pair : pairs) {
    std::string const in_chunks = pair.chunked, at_once = pair.whole;
    CAPTURE(in_chunks);
    run_result const whole = answer(model, at_once, prompt, 0);
    for (int const chunk : {1, 64, 150, 1000}) {
      if (chunk == 1 && in_chunks != "h2o") continue;
      CAPTURE(chunk);
      run_result const chunked = answer(model, in_chunks, prompt, chunk);
      CHECK(differing(chunked, whole) <= 2);
      CHECK(chunked.cost.tokens == whole.cost.tokens);
      CHECK(chunked.cost.cache_bytes == whole.cost.cache_bytes);
      // Until the last chunk all layers hold what has come; a chunk that is the whole prompt evicts layer by layer.
      if (chunk < 150)
        CHECK(chunked.cost.peak_cache_bytes >= answer(model, "full", prompt, 0).cost.cache_bytes - 12 * 3 * 6 * 520);
      CHECK(chunked.cost.layers.size() == static_cast<std::size_t>(model.shape().layers));
    }
  }
  CHECK_THROWS_AS(make_attention("expected_attention", 4, model, {.element = cache_element::float32, .chunked = true}),
                  bad_input);
}

TEST_CASE("kvzip takes its document in chunks") {
  random_model model(2);
  prompt const p{some_tokens(130, 3), some_tokens(11, 1000), some_tokens(5, 2000), some_tokens(6, 2010)};
  auto const tokens = [&](int chunk) {
    auto const attention = make_attention("kvzip", 4, model, {.element = cache_element::float32, .chunked = chunk > 0});
    return answer_document(model, *attention, p, 6, nothing_to_read,
                           [&] { prefill(model, p.document, chunk, *attention); })
        .tokens;
  };
  CHECK(tokens(37) == tokens(0));
}

TEST_CASE("what was said stays in the cache, and the document is all that is left when it is forgotten") {
  random_model model(2);
  options o;
  o.element = cache_element::float32;
  o.new_tokens = 5;
  prompt const p{some_tokens(90, 3), {}, {}, {}};
  std::vector<int> const first = some_tokens(11, 1000), second = some_tokens(70, 77);
  for (std::string const preset : {"full", "snapkv", "purekv"}) {
    CAPTURE(preset);
    conversation talk(model, o, {preset, 4}, p, 150);
    std::vector<int> const answered = talk.ask(first, nothing_to_read).tokens;
    std::vector<int> const follow_up = talk.ask(second, nothing_to_read).tokens;
    CHECK(!talk.has_room_for(second.size()));
    talk.forget();
    CHECK(talk.has_room_for(second.size()));
    CHECK(talk.ask(first, nothing_to_read).tokens == answered);
    CHECK(talk.ask(second, nothing_to_read).tokens == follow_up);
    if (preset != "full") continue;

    // Over a full cache it is one long text.
    std::vector<int> text = p.document;
    text.insert(text.end(), first.begin(), first.end());
    text.insert(text.end(), answered.begin(), answered.end());
    text.insert(text.end(), second.begin(), second.end());
    CHECK(answer(model, "full", text, 0, 0, 5).cost.tokens == follow_up);
  }
}

TEST_CASE("a guess is what followed the latest place where the last words stand") {
  std::vector<int> const text{1, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3};
  auto const guessed = [](std::span<int const> words, int most) {
    auto const next = guess(words, most);
    return std::vector<int>(next.begin(), next.end());
  };
  CHECK(guessed(text, 2) == std::vector<int>{4, 9});                        // 1 2 3, not the later 2 3
  CHECK(guessed(std::span(text).subspan(1), 2) == std::vector<int>{5, 8});  // only 2 3
  CHECK(guessed(std::span(text).first(5), 4).empty());
  CHECK(guessed(std::vector<int>{7, 7, 7, 7}, 3) == std::vector<int>{7});  // overlapping
  CHECK(guessed(text, 100) == std::vector<int>{4, 9, 2, 3, 5, 8, 1, 2, 3});
  CHECK(guessed(text, 0).empty());
  CHECK(guess({}, 3).empty());
}

TEST_CASE("an answer with guesses is the answer without, from fewer passes where they were right") {
  random_model model(2);
  std::vector<int> prompt = some_tokens(60, 3), again = prompt;
  prompt.insert(prompt.end(), again.begin(), again.end());
  for (std::string const preset : {"full", "snapkv", "purekv_drop"}) {
    CAPTURE(preset);
    for (int const new_tokens : {1, 2, 40}) {
      measurement const plain = answer(model, preset, prompt, 0, 0, new_tokens).cost;
      measurement const quick = answer(model, preset, prompt, 0, 4, new_tokens).cost;
      CHECK(quick.tokens == plain.tokens);
      CHECK(plain.decoding_passes == new_tokens - 1);
      CHECK(quick.decoding_passes <= plain.decoding_passes);
      if (new_tokens == 40) MESSAGE(preset, ": ", quick.decoding_passes, " passes for 40 tokens");
    }
  }
}

}  // namespace engine
