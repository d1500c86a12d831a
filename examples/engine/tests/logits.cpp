// SPDX-License-Identifier: Apache-2.0
#include "../engine.hpp"
#include "../presets.hpp"
#include "../tokenizer.hpp"
#include "support.hpp"

#include <doctest/doctest.h>
#include <llama-cpp.h>

#include <algorithm>
#include <cmath>

namespace engine {

namespace {

constexpr int positions = 512, threads = 2;

/// Logits after every token: [tokens, vocabulary].
std::vector<float> by_engine(std::filesystem::path const& file, std::span<int const> tokens) {
  gguf_model const weights(file);
  engine model(weights, threads);
  auto const attention = make_attention("full", 1, cache_element::float32, model.shape(), threads);
  attention->begin(static_cast<int>(tokens.size()), 0);
  model.prefill(tokens, *attention);
  return model.logits(0, static_cast<int>(tokens.size()));
}

std::vector<float> by_libllama(std::filesystem::path const& file, std::span<int const> tokens) {
  auto const count = static_cast<std::uint32_t>(tokens.size());
  llama_model_ptr const model(llama_model_load_from_file(file.c_str(), llama_model_default_params()));
  REQUIRE(model);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = count;
  params.n_threads = params.n_threads_batch = threads;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context_ptr const context(llama_init_from_model(model.get(), params));
  REQUIRE(context);

  llama_batch batch = llama_batch_init(static_cast<int>(count), 0, 1);
  batch.n_tokens = static_cast<int>(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    batch.token[i] = tokens[i];
    batch.pos[i] = static_cast<int>(i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  int const failed = llama_decode(context.get(), batch);
  llama_batch_free(batch);
  REQUIRE(failed == 0);

  auto const vocabulary = static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model.get())));
  std::vector<float> logits;
  for (std::uint32_t i = 0; i < count; ++i) {
    float const* const row = llama_get_logits_ith(context.get(), static_cast<int>(i));
    logits.insert(logits.end(), row, row + vocabulary);
  }
  return logits;
}

struct agreement {
  double worst = 0;        // largest |difference|
  int same_best = 0;       // positions with the same most likely token
  int different_best = 0;  // positions with another one, although the gap to the second is larger than the tolerance
};

agreement compare(std::vector<float> const& ours, std::vector<float> const& theirs, int tokens, double tolerance) {
  REQUIRE(ours.size() == theirs.size());
  std::size_t const vocabulary = ours.size() / static_cast<std::size_t>(tokens);
  agreement result;
  for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
    float const *const a = ours.data() + t * vocabulary, *const b = theirs.data() + t * vocabulary;
    for (std::size_t i = 0; i < vocabulary; ++i) {
      REQUIRE(std::isfinite(a[i]));
      result.worst = std::max(result.worst, std::abs(double{a[i]} - b[i]));
    }
    std::ptrdiff_t const best = std::max_element(b, b + vocabulary) - b;
    std::vector<float> sorted(b, b + vocabulary);
    std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<>());
    bool const same = std::max_element(a, a + vocabulary) - a == best;
    result.same_best += same;
    result.different_best += !same && b[best] - sorted[1] > tolerance;
  }
  return result;
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
  agreement const seen = compare(by_engine(file, tokens), by_libllama(file, tokens), positions, 1e-2);
  MESSAGE("largest difference over ", positions, " positions: ", seen.worst);
  CHECK(seen.worst <= 1e-2);
  CHECK(seen.different_best == 0);
}

TEST_CASE("with quantised weights too, as far as the rounding of activations lets one see") {
  std::vector<int> const tokens = some_tokens();
  SUBCASE("nothing to attend to but itself: exactly") {
    std::span<int const> const one(tokens.data(), 1);
    CHECK(compare(by_engine(test_model(), one), by_libllama(test_model(), one), 1, 0).worst <= 1e-5);
  }
  SUBCASE("afterwards: the same most likely token nearly everywhere") {
    agreement const seen = compare(by_engine(test_model(), tokens), by_libllama(test_model(), tokens), positions, 0);
    MESSAGE("same most likely token at ", seen.same_best, " of ", positions, ", largest difference ", seen.worst);
    CHECK(seen.same_best >= positions * 9 / 10);
  }
}

TEST_CASE("unpacking weights to float changes nothing but the rounding of activations") {
  std::vector<int> const tokens = some_tokens();
  gguf_model const weights(test_model(), true);
  engine model(weights, threads);
  auto const attention = make_attention("full", 1, cache_element::float32, model.shape(), threads);
  attention->begin(positions, 0);
  model.prefill(tokens, *attention);
  agreement const seen = compare(model.logits(0, positions), by_engine(test_model(), tokens), positions, 0);
  CHECK(seen.same_best >= positions * 9 / 10);
}

}  // namespace engine
