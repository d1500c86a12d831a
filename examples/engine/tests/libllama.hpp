// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>
#include <llama-cpp.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <span>
#include <vector>

namespace engine {

/// Logits after every token, by libllama with a float cache and plain attention: [tokens, vocabulary].
inline std::vector<float> by_libllama(std::filesystem::path const& file, std::span<int const> tokens, int threads) {
  llama_log_set([](ggml_log_level, char const*, void*) {}, nullptr);
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

inline agreement compare(std::vector<float> const& ours, std::vector<float> const& theirs, int tokens,
                         double tolerance) {
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

}  // namespace engine
