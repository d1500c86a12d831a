// SPDX-License-Identifier: Apache-2.0
#include "../prompt.hpp"

#include "random_gguf.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

#include <llama.h>

#include <algorithm>

namespace engine {

namespace {

std::string text_of(tokenizer const& words, std::span<int const> tokens) {
  std::string text;
  for (int const token : tokens) text += words.text(token);
  return text;
}

}  // namespace

TEST_CASE("pieces are tokenised as they are: no beginning-of-sequence token, and the text comes back") {
  tokenizer const words(test_model());
  std::string const text = "  Two spaces, a tab\tand <|im_end|> as plain text.\n";
  std::vector<int> const tokens = words.tokens(text);
  CHECK(text_of(words, tokens) == text);
  CHECK(std::ranges::none_of(tokens, [&](int token) { return words.ends(token) || token == 1; }));
  CHECK(words.tokens("").empty());
}

TEST_CASE("a needle lies where it was hidden, and the question comes last") {
  tokenizer const words(test_model());
  needle const fact{"blue door", "48213"};
  std::vector<int> const document = words.tokens(prose(20));
  std::vector<int> const prompt = hide(fact, document, 0.25, words).whole();
  std::size_t const before = document.size() / 4;
  CHECK(std::equal(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(before), document.begin()));
  CHECK(text_of(words, prompt) ==
        text_of(words, std::span(document).first(before)) + "\nThe secret code of the blue door is 48213.\n" +
            text_of(words, std::span(document).subspan(before)) +
            "\n\nQuestion: What is the secret code of the blue door?\nAnswer: The secret code of the blue door is");
  CHECK(hide(fact, document, 1.0, words).whole().size() == prompt.size());
  CHECK(text_of(words, hide(fact, document, 0.25, words).question) == fact.question());
}

TEST_CASE("a paraphrased needle shares its name with its question and nothing else that tells it") {
  std::mt19937 generator(3);
  needle const fact = needle::random(generator, true);
  CHECK(fact.sentence().find(fact.code) != std::string::npos);
  CHECK(fact.question().find(fact.code) == std::string::npos);
  for (std::string const& text : {fact.sentence(), fact.question()}) {
    CHECK(text.find(fact.name) != std::string::npos);
    CHECK(text.find("secret code") == std::string::npos);
  }
  generator.seed(3);
  CHECK(needle::random(generator).code == fact.code);
}

TEST_CASE("several needles lie in order, spread evenly, and nothing of the document is lost") {
  tokenizer const words(test_model());
  std::vector<needle> const facts{{"blue door", "48213"}, {"red safe", "00001"}, {"green gate", "99999"}};
  std::vector<int> const document = words.tokens(prose(20));
  prompt const p = hide(facts, document, words);
  std::string text = text_of(words, p.document);
  std::size_t last = 0;
  for (needle const& fact : facts) {
    std::size_t const at = text.find(fact.sentence());
    REQUIRE(at != std::string::npos);
    CHECK(at > last);
    last = at;
  }
  for (needle const& fact : facts) text.erase(text.find(fact.sentence()), fact.sentence().size());
  CHECK(text == prose(20));
  CHECK(p.question.empty());
  CHECK(text_of(words, p.repeat) == "\n\nRepeat the previous context exactly.\n");
}

TEST_CASE("a prompt begins as its model wants it to") {
  scratch_directory const scratch;
  auto const file = scratch / "model.gguf";
  random_gguf model{.architecture = "gemma", .vocabulary = 259, .byte_tokens = true};
  model.write(file);
  tokenizer const words(file);
  std::vector<int> const document = words.tokens("abc");
  CHECK(document == std::vector<int>{3 + 'a', 3 + 'b', 3 + 'c'});
  CHECK(words.beginning() == std::vector<int>{1});
  std::vector<int> const asked = ask("why?", document, words).whole();
  CHECK(asked.front() == 1);
  CHECK(hide({"blue door", "48213"}, document, 0, words).document.front() == 1);

  model.begins = false;
  model.write(file);
  tokenizer const plain(file);
  CHECK(plain.beginning().empty());
  CHECK(ask("why?", document, plain).whole() == std::vector<int>(asked.begin() + 1, asked.end()));
}

TEST_CASE("an answer is the code and nothing more") {
  needle const fact{"blue door", "48213"};
  CHECK(fact.answered_by(" 48213."));
  CHECK(fact.answered_by("48213\n"));
  CHECK_FALSE(fact.answered_by(" 482134"));
  CHECK_FALSE(fact.answered_by(" 4821"));
  CHECK_FALSE(fact.answered_by("the code is 48213"));
  CHECK_FALSE(fact.answered_by(""));
}

TEST_CASE("random needles differ, with five digits") {
  std::mt19937 generator(3);
  needle const a = needle::random(generator), b = needle::random(generator);
  CHECK(a.code.size() == 5);
  CHECK(a.code.find_first_not_of("0123456789") == std::string::npos);
  CHECK(a.code != b.code);
}

}  // namespace engine
