// SPDX-License-Identifier: Apache-2.0
#include "../engine.hpp"
#include "../presets.hpp"
#include "../tokenizer.hpp"
#include "libllama.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

namespace engine {

namespace {

constexpr int positions = 512, threads = 2;

/// Logits after every token: [tokens, vocabulary].
std::vector<float> by_engine(std::filesystem::path const& file, std::span<int const> tokens) {
  gguf_model const weights(file);
  engine model(weights, threads);
  auto const attention = make_attention("full", 1, model, {.element = cache_element::float32});
  attention->begin(static_cast<int>(tokens.size()), 0);
  model.prefill(tokens, *attention);
  return model.logits(0, static_cast<int>(tokens.size()));
}

std::vector<int> some_tokens() {
  std::vector<int> tokens = tokenizer(test_model()).tokens(prose(80));
  REQUIRE(tokens.size() >= positions);
  tokens.resize(positions);
  return tokens;
}

}  // namespace

// ggml multiplies quantised weights with activations rounded to 8 bits: a difference of 1e-7 in one layer can flip a
// rounding, and flips grow to differences of 1 and more in the logits, between two runs of libllama itself too. So the
// same weights are compared unpacked to float, where no rounding hides an error.
TEST_CASE("with a full float cache the logits are libllama's") {
  llama_log_set([](ggml_log_level, char const*, void*) {}, nullptr);
  scratch_directory const scratch;
  auto const file = scratch / "float.gguf";
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = LLAMA_FTYPE_ALL_F32;
  params.allow_requantize = true;
  REQUIRE(llama_model_quantize(test_model().c_str(), file.c_str(), &params) == 0);

  std::vector<int> const tokens = some_tokens();
  agreement const seen = compare(by_engine(file, tokens), by_libllama(file, tokens, threads), positions, 1e-2);
  MESSAGE("largest difference over ", positions, " positions: ", seen.worst);
  CHECK(seen.worst <= 1e-2);
  CHECK(seen.different_best == 0);
}

TEST_CASE("with quantised weights too, as far as the rounding of activations lets one see") {
  std::vector<int> const tokens = some_tokens();
  SUBCASE("nothing to attend to but itself: exactly") {
    std::span<int const> const one(tokens.data(), 1);
    CHECK(compare(by_engine(test_model(), one), by_libllama(test_model(), one, threads), 1, 0).worst <= 1e-5);
  }
  SUBCASE("afterwards: the same most likely token nearly everywhere") {
    agreement const seen =
        compare(by_engine(test_model(), tokens), by_libllama(test_model(), tokens, threads), positions, 0);
    MESSAGE("same most likely token at ", seen.same_best, " of ", positions, ", largest difference ", seen.worst);
    CHECK(seen.same_best >= positions * 9 / 10);
  }
}

TEST_CASE("unpacking weights to float changes nothing but the rounding of activations") {
  std::vector<int> const tokens = some_tokens();
  gguf_model const weights(test_model(), true);
  engine model(weights, threads);
  auto const attention = make_attention("full", 1, model, {.element = cache_element::float32});
  attention->begin(positions, 0);
  model.prefill(tokens, *attention);
  agreement const seen = compare(model.logits(0, positions), by_engine(test_model(), tokens), positions, 0);
  CHECK(seen.same_best >= positions * 9 / 10);
}

}  // namespace engine
