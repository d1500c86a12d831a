// SPDX-License-Identifier: Apache-2.0
#include "../engine.hpp"
#include "../tokenizer.hpp"
#include "kept_only.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

namespace engine {

TEST_CASE("above the source the graph has the kept rows only, and they become what the whole prompt makes of them") {
  std::vector<int> prompt = tokenizer(test_model()).tokens(prose(24));
  prompt.resize(200);
  gguf_model const weights(test_model(), true);  // activations rounded to 8 bits would hide small errors
  engine model(weights, 2);
  dropped_logits const d = drop(model, prompt, 4);
  int const source = model.shape().layers / 3;
  for (int l = 0; l < model.shape().layers; ++l)
    CHECK(d.entered[static_cast<std::size_t>(l)].size() == (l <= source ? 200u : 50u));
  CHECK(d.entered.back().back() == 199);
  MESSAGE("largest difference of a logit: ", d.worst);
  CHECK(d.worst <= 1e-2);
}

TEST_CASE("with everything kept the logits are the full model's, bit for bit, and decoding goes on") {
  std::vector<int> const prompt = tokenizer(test_model()).tokens(prose(24));
  auto const tokens = static_cast<int>(prompt.size());
  gguf_model const weights(test_model());
  engine model(weights, 2);
  auto const full = make_attention("full", 1, model);
  auto const dropping = make_attention("purekv_drop", 1, model);
  full->begin(tokens, 2);
  std::vector<float> const expected = model.prefill(prompt, *full), next = model.decode(7, tokens, *full);
  dropping->begin(tokens, 2);
  CHECK(model.prefill(prompt, *dropping) == expected);
  CHECK(model.decode(7, tokens, *dropping) == next);
  CHECK(dropping->layer_times().size() == static_cast<std::size_t>(model.shape().layers));
}

}  // namespace engine
