// SPDX-License-Identifier: Apache-2.0
#include "../random_model.hpp"

#include "../error.hpp"
#include "../experiment.hpp"
#include "kept_only.hpp"

#include <doctest/doctest.h>

#include <numeric>

namespace engine {

namespace {

answer_reader const nothing_to_read{[](int) { return std::string{}; }, [](int) { return false; },
                                    [](std::string const&) { return std::nullopt; }};

std::vector<int> some_tokens(int tokens, int first = 3) {
  std::vector<int> ids(static_cast<std::size_t>(tokens));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

prompt some_prompt(int document, int question) {
  return {some_tokens(document), some_tokens(question, 1000), some_tokens(5, 2000), some_tokens(6, 2010)};
}

}  // namespace

TEST_CASE("the prompt at once and token by token give the same logits") {
  random_model model(2);
  auto const whole = make_attention("full", 1, model, {.element = cache_element::float32});
  auto const stepwise = make_attention("full", 1, model, {.element = cache_element::float32});
  std::vector<int> const ids = some_tokens(40);
  whole->begin(40, 0);
  std::vector<float> const expected = model.prefill(ids, *whole);
  stepwise->begin(30, 10);
  std::vector<float> seen = model.prefill(std::span(ids).first(30), *stepwise);
  for (int i = 30; i < 40; ++i) seen = model.decode(ids[static_cast<std::size_t>(i)], i, *stepwise);
  for (std::size_t i = 0; i < seen.size(); ++i) REQUIRE(seen[i] == doctest::Approx(expected[i]).epsilon(1e-3));
}

TEST_CASE("where tokens are dropped the kept rows become what the whole prompt makes of them") {
  random_model model(2);
  dropped_logits const d = drop(model, some_tokens(150), 5);
  for (int l = 0; l < model.shape().layers; ++l)
    CHECK(d.entered[static_cast<std::size_t>(l)].size() == (l <= model.shape().layers / 3 ? 150u : 30u));
  float most = 0;
  for (float const x : d.expected) most = std::max(most, std::abs(x));
  CHECK(d.worst <= 1e-3 * double{most});

  auto const full = make_attention("full", 1, model, {.element = cache_element::float32});
  full->begin(150, 0);
  CHECK(drop(model, some_tokens(150), 1).seen == model.prefill(some_tokens(150), *full));
}

TEST_CASE("a table of every preset: smaller caches, and time that was measured") {
  random_model model(2);
  options o;
  o.compressions = {5};
  o.new_tokens = 4;
  o.presets.push_back("kvzip");
  o.kept = true;
  auto const rows = measure_rows(model, o, some_prompt(296, 4), nothing_to_read);
  REQUIRE(rows.size() == 8);
  for (measurement const& row : rows) {
    CAPTURE(row.preset);
    CHECK(row.tokens.size() == 4);
    CHECK(row.prefill > row.attention + row.compressing);
    CHECK(row.attention.count() > 0);
    CHECK((row.compressing.count() > 0) == (row.preset != "full"));
    if (row.preset != "full") CHECK(row.cache_bytes * 4 < rows[0].cache_bytes);
    CHECK((row.repeating.count() > 0) == (row.preset == "kvzip"));
    CHECK_FALSE(row.right.has_value());
  }
}

TEST_CASE("a prompt longer than the context is refused") {
  random_model model(1);
  options o;
  CHECK_THROWS_AS(measure_rows(model, o, some_prompt(model.shape().context - 3, 3), nothing_to_read), bad_input);
}

}  // namespace engine
