// SPDX-License-Identifier: Apache-2.0
#include "../engine.hpp"
#include "../experiment.hpp"
#include "../presets.hpp"
#include "../tokenizer.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

namespace engine {

namespace {

constexpr int new_tokens = 6;

answer_reader const numbers_only{[](int token) { return std::to_string(token) + ' '; }, [](int) { return false; },
                                 [](std::string const&) { return std::nullopt; }};

measurement run(engine& model, std::string const& preset, std::span<int const> prompt) {
  auto const attention = make_attention(preset, 5, model);
  return answer_prompt(model, *attention, static_cast<int>(prompt.size()), new_tokens, numbers_only,
                       [&] { return model.prefill(prompt, *attention); });
}

}  // namespace

TEST_CASE("a recorded prompt replays to the same logits, bit for bit, under every preset") {
  std::vector<int> const prompt = tokenizer(test_model()).tokens(prose(12));
  auto const tokens = static_cast<int>(prompt.size());
  gguf_model const weights(test_model());
  engine model(weights, 2);

  recorded_prompt pass;
  auto const full = make_attention("full", 1, model);
  full->begin(tokens, new_tokens);
  model.record(prompt, *full, pass);
  // For presets that read a layout, as if a part of the text were a video.
  purekv::segment const segments[] = {purekv::segment::text(0, 7), purekv::segment::video(7, 3, 4, 5),
                                      purekv::segment::text(67, tokens + new_tokens - 67)};
  REQUIRE(tokens > 67);
  for (std::string const& preset : preset_names()) {
    CAPTURE(preset);
    bool const sees = preset.starts_with("novel") || preset.starts_with("purekv_video");
    attention_options const options{.layout = sees ? purekv::token_layout{segments, 3} : purekv::token_layout{}};
    auto const begin = [&](measured_attention& attention) {
      attention.expect_repetition(tokens);
      attention.begin(tokens, new_tokens);
    };
    auto const compress = [&](measured_attention& attention) {
      if (attention.repeats()) model.extend(prompt, tokens, attention);
      attention.compress();
    };
    auto const computed = make_attention(preset, 5, model, options);
    begin(*computed);
    std::vector<float> const expected = model.prefill(prompt, *computed);
    compress(*computed);
    float const one = model.decode(7, tokens, *computed)[11];

    auto const replayed = make_attention(preset, 5, model, options);
    begin(*replayed);
    CHECK(model.replay(pass, replayed->first_layer_that_differs(), *replayed) == expected);
    compress(*replayed);
    CHECK(model.decode(7, tokens, *replayed)[11] == one);
    CHECK(replayed->cache_bytes() == computed->cache_bytes());
  }
}

TEST_CASE("answers do not depend on the number of threads") {
  std::vector<int> const prompt = tokenizer(test_model()).tokens(prose(12));
  gguf_model const weights(test_model());
  engine one(weights, 1), two(weights, 2);
  for (std::string const preset : {"snapkv", "purekv", "purekv_deep"}) {
    CAPTURE(preset);
    CHECK(run(one, preset, prompt).tokens == run(two, preset, prompt).tokens);
  }
}

TEST_CASE("allocated bytes: positions and the room for new tokens included") {
  std::vector<int> const prompt = tokenizer(test_model()).tokens(prose(12));
  auto const tokens = static_cast<int>(prompt.size());
  gguf_model const weights(test_model());
  engine model(weights, 2);
  model_shape const& s = model.shape();
  std::int64_t const slot = 2 * s.dim * 2 + 4, heads = std::int64_t{s.layers} * s.kv_heads;
  std::int64_t const bookkeeping = 2048 * s.layers;  // extents, lengths, alignment

  measurement const full = run(model, "full", prompt);
  CHECK(full.cache_bytes >= heads * (tokens + new_tokens) * slot);
  CHECK(full.cache_bytes <= heads * (tokens + new_tokens) * slot + bookkeeping);
  CHECK(full.peak_cache_bytes == full.cache_bytes);

  measurement const snapkv = run(model, "snapkv", prompt), early = run(model, "purekv", prompt);
  for (measurement const& m : {snapkv, early}) {
    CHECK(m.cache_bytes >= heads * (tokens / 5 + new_tokens) * slot);
    CHECK(m.cache_bytes <= heads * (tokens / 5 + new_tokens) * slot + bookkeeping);
  }
  // One layer's full cache beside the kept ones; for purekv those of the layers that wait for the source.
  std::int64_t const full_layer = std::int64_t{s.kv_heads} * tokens * slot;
  CHECK(snapkv.peak_cache_bytes <= snapkv.cache_bytes + full_layer + bookkeeping);
  CHECK(early.peak_cache_bytes >= (s.layers / 3 + 1) * full_layer);
  CHECK(early.peak_cache_bytes < full.cache_bytes);
}

}  // namespace engine
