// SPDX-License-Identifier: Apache-2.0
// Every architecture that the engine runs, against libllama, on small models with random weights.
#include "../engine.hpp"
#include "../error.hpp"
#include "../experiment.hpp"
#include "../presets.hpp"
#include "libllama.hpp"
#include "random_gguf.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

#include <numeric>

namespace engine {

namespace {

constexpr int threads = 1, prompt_tokens = 229, decoded = 11, positions = prompt_tokens + decoded;

struct tried {
  std::string name;
  random_gguf model;
};

/// Head counts and widths are multiples of little; windows are shorter than the prompt; caps are low enough to bend.
std::vector<tried> const& models() {
  static std::vector<tried> const all{
      {"llama", {.architecture = "llama"}},
      {"llama with everything it may have",
       {.architecture = "llama",
        .heads = 6,
        .kv_heads = 2,
        .biases = true,
        .rope_factors = true,
        .own_output = true,
        .numbers = {{"rope.freq_base", 5e5f}, {"rope.scaling.factor", 2}}}},
      {"qwen2", {.architecture = "qwen2", .hidden = 112, .biases = true, .numbers = {{"rope.freq_base", 1e6f}}}},
      {"qwen2 with its own output",
       {.architecture = "qwen2", .hidden = 96, .heads = 6, .kv_heads = 3, .biases = true, .own_output = true}},
      {"qwen2vl, reading",
       {.architecture = "qwen2vl",
        .hidden = 112,
        .biases = true,
        .numbers = {{"rope.freq_base", 1e6f}, {"attention.layer_norm_rms_epsilon", 0}},  // libllama does not read it
        .sections = {3, 3, 2, 0}}},
      {"qwen3", {.architecture = "qwen3", .dim = 24, .head_norms = true, .numbers = {{"rope.freq_base", 1e6f}}}},
      {"gemma", {.architecture = "gemma", .heads = 3, .dim = 40, .feed_forward_share = 0.3f}},
      {"gemma2",
       {.architecture = "gemma2",
        .heads = 6,
        .kv_heads = 2,
        .dim = 24,
        .post_norms = true,
        .numbers = {{"attn_logit_softcapping", 2.5f}, {"final_logit_softcapping", 4}},
        .feed_forward_share = 0.3f,
        .window = 23}},
      {"gemma2 that leaves its caps unsaid",
       {.architecture = "gemma2", .post_norms = true, .feed_forward_share = 0.3f, .window = 64}},
      {"gemma2 with fewer windows",
       {.architecture = "gemma2",
        .layers = 5,
        .post_norms = true,
        .feed_forward_share = 0.3f,
        .window = 23,
        .window_period = 3}},
      {"gemma2 as deep as the one that scales by its width",
       {.architecture = "gemma2",
        .layers = 46,
        .heads = 3,
        .dim = 40,
        .post_norms = true,
        .post_norm = 0.2f,
        .feed_forward_share = 0,
        .window = 23}},
      {"gemma3",
       {.architecture = "gemma3",
        .layers = 7,
        .dim = 24,
        .head_norms = true,
        .post_norms = true,
        .numbers = {{"rope.freq_base", 1e6f}, {"rope.scaling.factor", 8}},
        .feed_forward_share = 0.3f,
        .window = 17}},
      {"gemma3 that names its layers and another base, and caps its logits",
       {.architecture = "gemma3",
        .layers = 4,
        .heads = 5,
        .head_norms = true,
        .post_norms = true,
        .own_output = true,
        .numbers = {{"rope.freq_base", 1e6f}, {"rope.freq_base_swa", 500}, {"final_logit_softcapping", 4}},
        .feed_forward_share = 0.3f,
        .window = 17,
        .local = {0, 1, 1, 0}}},
      {"gemma3 without a window",
       {.architecture = "gemma3", .head_norms = true, .post_norms = true, .feed_forward_share = 0.3f}},
      {"gemma3 as deep as the one that scales by its width",
       {.architecture = "gemma3",
        .layers = 62,
        .heads = 3,
        .dim = 40,
        .head_norms = true,
        .post_norms = true,
        .post_norm = 0.2f,
        .feed_forward_share = 0,
        .window = 40}},
  };
  return all;
}

random_gguf const& model_named(std::string const& name) {
  for (tried const& t : models())
    if (t.name == name) return t.model;
  throw std::runtime_error("no model " + name);
}

/// ggml looks GELU up in a table of half precision, where a difference of 1e-7 may flip a rounding.
double tolerance(random_gguf const& model) {
  return model.architecture.starts_with("gemma") && model.feed_forward_share > 0 ? 5e-3 : 1e-3;
}

std::vector<int> some_tokens(int vocabulary, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<int> tokens(positions);
  for (int& token : tokens) token = std::uniform_int_distribution(0, vocabulary - 1)(generator);
  return tokens;
}

/// Logits after every token, the last ones decoded one by one: [positions, vocabulary].
std::vector<float> by_engine(std::filesystem::path const& file, std::span<int const> tokens) {
  gguf_model const weights(file);
  engine model(weights, threads);
  auto const attention = make_attention("full", 1, model, {.element = cache_element::float32});
  attention->begin(prompt_tokens, decoded);
  model.prefill(tokens.first(prompt_tokens), *attention);
  std::vector<float> result = model.logits(0, prompt_tokens);
  for (int i = prompt_tokens; i < positions; ++i) {
    std::vector<float> const row = model.decode(tokens[static_cast<std::size_t>(i)], i, *attention);
    result.insert(result.end(), row.begin(), row.end());
  }
  return result;
}

/// Of all logits, about their mean.
double standard_deviation(std::vector<float> const& x) {
  double const n = static_cast<double>(x.size()), mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
  return std::sqrt(
      std::accumulate(x.begin(), x.end(), 0.0, [&](double s, double v) { return s + (v - mean) * (v - mean); }) / n);
}

/// Our logits of one model against libllama's of another.
agreement compare_files(random_gguf const& ours, random_gguf const& theirs) {
  scratch_directory const scratch;
  ours.write(scratch / "ours.gguf");
  theirs.write(scratch / "theirs.gguf");
  std::vector<int> const tokens = some_tokens(theirs.vocabulary, theirs.seed);
  std::vector<float> const expected = by_libllama(scratch / "theirs.gguf", tokens, threads);
  REQUIRE(standard_deviation(expected) > 0.5);
  return compare(by_engine(scratch / "ours.gguf", tokens), expected, positions, tolerance(theirs));
}

}  // namespace

TEST_CASE("with a full float cache the logits of every architecture are libllama's") {
  for (tried const& t : models()) {
    std::string const& name = t.name;
    random_gguf model = t.model;
    CAPTURE(name);
    model.seed = std::random_device{}();
    CAPTURE(model.seed);
    agreement const seen = compare_files(model, model);
    MESSAGE(name, ": largest difference over ", positions, " positions: ", seen.worst);
    CHECK(seen.worst <= tolerance(model));
    CHECK(seen.different_best == 0);
  }
}

// What the test above would not notice, it would not prove.
TEST_CASE("any part of a model done wrong shows in its logits") {
  struct mistake {
    std::string name;
    std::function<void(random_gguf&)> make;
  };
  auto number = [](char const* key, float value) { return [=](random_gguf& m) { m.numbers[key] = value; }; };
  auto architecture = [](char const* name) { return [=](random_gguf& m) { m.architecture = name; }; };
  auto window = [](std::uint32_t value) { return [=](random_gguf& m) { m.window = value; }; };
  auto const no_biases = [](random_gguf& m) { m.biases = false; };
  std::vector<mistake> const mistakes{
      {"llama", architecture("qwen2")},  // rotates other pairs
      {"llama with everything it may have", no_biases},
      {"llama with everything it may have", [](random_gguf& m) { m.rope_factors = false; }},
      {"llama with everything it may have", [](random_gguf& m) { m.own_output = false; }},
      {"llama with everything it may have", number("rope.scaling.factor", 1)},
      {"qwen2", no_biases},
      {"qwen2", number("rope.freq_base", 1e5f)},
      {"qwen2vl, reading", number("rope.freq_base", 1e5f)},
      {"qwen3", [](random_gguf& m) { m.architecture = "qwen2", m.head_norms = false; }},
      {"gemma", architecture("qwen2")},  // scales no embedding, gates by SiLU
      {"gemma2", window(22)},
      {"gemma2", window(24)},
      {"gemma2", number("attn_logit_softcapping", 2.6f)},
      {"gemma2", number("final_logit_softcapping", 4.5f)},
      {"gemma2",
       [](random_gguf& m) {
         m.local = {0, 1, 0};
       }},
      {"gemma2 that leaves its caps unsaid", number("attn_logit_softcapping", 1000)},
      {"gemma2 that leaves its caps unsaid", number("final_logit_softcapping", 1000)},
      {"gemma3", window(16)},
      {"gemma3", window(18)},
      {"gemma3", number("rope.freq_base", 1e5f)},
      {"gemma3", number("rope.freq_base_swa", 1e4f + 500)},
      {"gemma3", number("rope.scaling.factor", 7)},
      {"gemma3", [](random_gguf& m) { m.local = {1, 1, 1, 1, 1, 1, 0}; }},
      {"gemma3 that names its layers and another base, and caps its logits", number("final_logit_softcapping", 4.5f)},
  };
  for (mistake const& m : mistakes) {
    std::string const& name = m.name;
    CAPTURE(name);
    random_gguf right = model_named(name);
    right.seed = std::random_device{}();
    CAPTURE(right.seed);
    random_gguf wrong = right;
    m.make(wrong);
    agreement const seen = compare_files(wrong, right);
    MESSAGE(name, ", one part wrong: ", seen.worst);
    CHECK(seen.worst > 10 * tolerance(right));
  }
}

TEST_CASE("a model whose layers all have windows loses nothing where the budget pays for them") {
  scratch_directory const scratch;
  auto const file = scratch / "model.gguf";
  random_gguf gguf = model_named("gemma3 that names its layers and another base, and caps its logits");
  gguf.local = {1, 1, 1, 1};
  gguf.seed = std::random_device{}();
  CAPTURE(gguf.seed);
  gguf.write(file);
  gguf_model const weights(file);
  engine model(weights, threads);
  std::vector<int> const tokens = some_tokens(gguf.vocabulary, gguf.seed);
  auto const run = [&](std::string const& preset) {
    auto const attention = make_attention(preset, 4, model, {.element = cache_element::float32});
    attention->begin(prompt_tokens, decoded);
    std::vector<float> logits = model.prefill(std::span(tokens).first(prompt_tokens), *attention);
    for (int l = 0; preset != "full" && l < model.shape().layers; ++l)
      for (auto const& kept : attention->kept(l)) {
        CHECK(static_cast<int>(kept.size()) == gguf.window);
        CHECK(kept.front() == prompt_tokens - gguf.window);
      }
    for (int i = prompt_tokens; i < positions; ++i) {
      std::vector<float> const row = model.decode(tokens[static_cast<std::size_t>(i)], i, *attention);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return logits;
  };
  std::vector<float> const full = run("full");
  for (std::string const preset : {"snapkv", "purekv", "purekv_deep"}) {
    CAPTURE(preset);
    std::vector<float> const small = run(preset);
    double worst = 0;
    for (std::size_t i = 0; i < full.size(); ++i) worst = std::max(worst, std::abs(double{full[i]} - small[i]));
    MESSAGE(preset, " within windows: ", worst);
    CHECK(worst <= tolerance(gguf));
  }
}

TEST_CASE("compressed, every architecture answers from a smaller cache") {
  scratch_directory const scratch;
  auto const file = scratch / "model.gguf";
  answer_reader const numbers_only{[](int token) { return std::to_string(token) + ' '; }, [](int) { return false; },
                                   [](std::string const&) { return std::nullopt; }};
  for (tried const& t : models()) {
    random_gguf gguf = t.model;
    CAPTURE(t.name);
    gguf.seed = std::random_device{}();
    CAPTURE(gguf.seed);
    gguf.write(file);
    gguf_model const weights(file);
    engine model(weights, threads);
    std::vector<int> const prompt = some_tokens(gguf.vocabulary, gguf.seed);
    auto const answer = [&](std::string const& preset) {
      auto const attention = make_attention(preset, 4, model);
      return answer_prompt(model, *attention, positions, decoded, numbers_only, [&] {
        std::vector<float> logits = model.prefill(prompt, *attention);
        for (float const logit : logits) REQUIRE(std::isfinite(logit));
        return logits;
      });
    };
    if (!model.shape().windows.empty())
      CHECK_THROWS_WITH_AS(make_attention("kvzip", 4, model),
                           "kvzip compresses models whose layers all see the whole context", bad_input);
    measurement const full = answer("full");
    CHECK(full.tokens.size() == decoded);
    for (std::string const preset : {"snapkv", "purekv", "purekv_deep"}) {
      CAPTURE(preset);
      measurement const small = answer(preset);
      CHECK(small.tokens.size() == decoded);
      CHECK(small.cache_bytes * 3 < full.cache_bytes);
    }
  }
}

}  // namespace engine
