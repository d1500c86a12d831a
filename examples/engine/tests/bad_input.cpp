// SPDX-License-Identifier: Apache-2.0
#include "../error.hpp"
#include "../gguf_model.hpp"
#include "random_gguf.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <fstream>

namespace engine {

namespace {

std::string complaint(std::filesystem::path const& file) {
  try {
    gguf_model const model(file);
  } catch (bad_input const& e) {
    return e.what();
  }
  return "none";
}

bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

void copy_beginning(std::filesystem::path const& from, std::filesystem::path const& to, std::size_t bytes) {
  std::vector<char> data(bytes);
  std::ifstream(from, std::ios::binary).read(data.data(), static_cast<std::streamsize>(bytes));
  std::ofstream(to, std::ios::binary).write(data.data(), static_cast<std::streamsize>(bytes));
}

/// A GGUF file with metadata and no tensors.
template <class F> void write_gguf(std::filesystem::path const& file, F const& fill) {
  gguf_context_ptr const metadata(gguf_init_empty());
  fill(metadata.get());
  REQUIRE(gguf_write_to_file(metadata.get(), file.c_str(), false));
}

void llama_metadata(gguf_context* metadata) {
  gguf_set_val_str(metadata, "general.architecture", "llama");
  for (char const* key : {"block_count", "embedding_length", "feed_forward_length", "attention.head_count"})
    gguf_set_val_u32(metadata, (std::string("llama.") + key).c_str(), 8);
  gguf_set_val_u32(metadata, "llama.embedding_length", 64);
  gguf_set_val_u32(metadata, "llama.context_length", 128);
  gguf_set_val_f32(metadata, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

struct outcome {
  int code;
  std::string text;
};

outcome run_demo(std::string const& arguments) {
  FILE* const pipe = popen((std::string(ENGINE_DEMO) + ' ' + arguments + " 2>&1 < /dev/null").c_str(), "r");
  REQUIRE(pipe != nullptr);
  outcome result{};
  std::array<char, 4096> buffer;
  while (std::size_t const n = fread(buffer.data(), 1, buffer.size(), pipe)) result.text.append(buffer.data(), n);
  result.code = WEXITSTATUS(pclose(pipe));
  return result;
}

}  // namespace

TEST_CASE("files that are no model") {
  scratch_directory const scratch;
  CHECK(contains(complaint(scratch / "missing.gguf"), "cannot be read"));
  CHECK(contains(complaint(std::filesystem::temp_directory_path()), "cannot be read"));

  std::ofstream(scratch / "text.gguf") << "This is a text file.";
  CHECK(contains(complaint(scratch / "text.gguf"), "is not a GGUF file"));
  std::ofstream(scratch / "empty.gguf");
  CHECK(contains(complaint(scratch / "empty.gguf"), "is not a GGUF file"));
}

TEST_CASE("a truncated GGUF, wherever it was cut") {
  scratch_directory const scratch;
  auto const cut = scratch / "cut.gguf";
  std::size_t const whole = std::filesystem::file_size(test_model());
  for (std::size_t const bytes : {std::size_t{4}, std::size_t{20}, std::size_t{100'000}, whole / 2, whole - 1}) {
    CAPTURE(bytes);
    copy_beginning(test_model(), cut, bytes);
    CHECK(contains(complaint(cut), "truncated or damaged GGUF"));
  }
}

TEST_CASE("models that this engine does not run") {
  scratch_directory const scratch;
  auto const file = scratch / "model.gguf";
  write_gguf(file, [](gguf_context* m) { gguf_set_val_str(m, "general.architecture", "gpt2"); });
  CHECK(contains(complaint(file),
                 "architecture 'gpt2'; this engine runs llama, qwen2, qwen2vl, qwen3, gemma, gemma2, gemma3"));
  write_gguf(file, [](gguf_context* m) { gguf_set_val_u32(m, "general.architecture", 3); });
  CHECK(contains(complaint(file), "has no general.architecture"));

  write_gguf(file, [](gguf_context* m) { gguf_set_val_str(m, "general.architecture", "llama"); });
  CHECK(contains(complaint(file), "llama.block_count"));
  write_gguf(file, [](gguf_context* m) {
    llama_metadata(m);
    gguf_set_val_u32(m, "llama.attention.head_count_kv", 3);
  });
  CHECK(contains(complaint(file), "number of heads"));
  write_gguf(file, [](gguf_context* m) {
    llama_metadata(m);
    gguf_set_val_u32(m, "llama.expert_count", 8);
  });
  CHECK(contains(complaint(file), "mixture of experts"));
  write_gguf(file, [](gguf_context* m) {
    llama_metadata(m);
    gguf_set_val_str(m, "llama.rope.scaling.type", "yarn");
  });
  CHECK(contains(complaint(file), "yarn"));
  write_gguf(file, llama_metadata);
  CHECK(contains(complaint(file), "token_embd.weight"));
}

TEST_CASE("models with a part that is missing, or that their architecture does not have") {
  scratch_directory const scratch;
  auto const file = scratch / "model.gguf";
  random_gguf model{.architecture = "llama"};
  model.write(file);
  CHECK(complaint(file) == "none");

  model.post_norms = true;
  model.write(file);
  CHECK(contains(complaint(file), "has a tensor blk.0.post_attention_norm.weight, which this engine does not know"));
  model.architecture = "gemma3";
  model.write(file);
  CHECK(contains(complaint(file), "has no tensor blk.0.attn_q_norm.weight"));

  model.head_norms = true;
  model.window = 8;
  model.local = {1, 0};
  model.write(file);
  CHECK(
      contains(complaint(file), "gemma3.attention.sliding_window_pattern that does not say yes or no for each layer"));
  model.local = {1, 0, 1};
  model.write(file);
  CHECK(gguf_model(file).shape().windows == std::vector<int>{8, 0, 8});
}

TEST_CASE("the demo says what is wrong and exits with 2") {
  scratch_directory const scratch;
  auto const document = scratch / "document.txt", long_document = scratch / "long.txt";
  std::ofstream(document) << prose(10);
  std::ofstream(long_document) << prose(1000);
  std::string const model = " --model " + test_model().string();

  outcome const unreadable = run_demo(model + " --document /nowhere/document.txt");
  CHECK(unreadable.code == 2);
  CHECK(contains(unreadable.text, "/nowhere/document.txt: cannot be read"));

  outcome const too_long = run_demo(model + " --document " + long_document.string());
  CHECK(too_long.code == 2);
  CHECK(contains(too_long.text, "context holds 8192"));

  outcome const unknown = run_demo(model + " --presets snapkw --document " + document.string());
  CHECK(unknown.code == 2);
  CHECK(contains(unknown.text, "unknown preset 'snapkw'; known are full, "));
  CHECK(contains(unknown.text, "purekv_drop"));

  auto const other = scratch / "other.gguf";
  write_gguf(other, [](gguf_context* m) { gguf_set_val_str(m, "general.architecture", "gpt2"); });
  outcome const unknown_architecture = run_demo(" --model " + other.string() + " --document " + document.string());
  CHECK(unknown_architecture.code == 2);
  CHECK(contains(unknown_architecture.text, "architecture 'gpt2'; this engine runs llama, "));

  outcome const long_question = run_demo(model + " --document " + document.string() + " --ask '" + prose(1000) + "'");
  CHECK(long_question.code == 2);
  CHECK(contains(long_question.text, " of them the question"));
  CHECK(contains(long_question.text, "context holds 8192"));
  CHECK(long_question.text.size() < 1000);  // not that question again

  outcome const no_model = run_demo("--model " + document.string() + " --document " + document.string());
  CHECK(no_model.code == 2);
  CHECK(contains(no_model.text, "is not a GGUF file"));
}

TEST_CASE("a compression that leaves less than what is pinned is refused with the largest that does not") {
  scratch_directory const scratch;
  auto const document = scratch / "document.txt";
  std::ofstream(document) << prose(10);
  std::string const demo = " --model " + test_model().string() + " --document " + document.string() + " --tokens 100";
  for (std::string const how : {"", " --agnostic", " --chat"})
    for (std::string const preset : {"purekv", "kvzip"}) {
      CAPTURE(how);
      CAPTURE(preset);
      outcome const refused = run_demo(demo + how + " --presets full," + preset + " --compressions 2,50");
      CAPTURE(refused.text);
      CHECK(refused.code == 2);
      CHECK(contains(refused.text, preset + " at 50x may keep "));
      CHECK(contains(refused.text, "but 20 are kept in any case; this needs a longer document or at most "));
      CHECK_FALSE(contains(refused.text, "| preset"));
    }
}

TEST_CASE("a results file that cannot be written is refused before the work, and none is left half written") {
  scratch_directory const scratch;
  auto const document = scratch / "document.txt", json = scratch / "figures.json";
  std::ofstream(document) << prose(10);
  std::string const demo = " --model " + test_model().string() + " --document " + document.string();
  for (std::string const file : {"/nowhere/at/all.json", scratch.path().c_str()}) {
    outcome const refused = run_demo(demo + " --json " + file);
    CHECK(refused.code == 2);
    CHECK(contains(refused.text, file + ": cannot be written"));
    CHECK_FALSE(contains(refused.text, "tokens"));
  }
  std::ofstream(json) << "before";
  CHECK(run_demo(demo + " --tokens 60 --compressions 50 --json " + json.string()).code == 2);
  CHECK(contents(json) == "before");
  CHECK(std::distance(std::filesystem::directory_iterator(scratch.path()), std::filesystem::directory_iterator{}) == 2);
}

TEST_CASE("the demo answers, and writes what it measured") {
  scratch_directory const scratch;
  std::ofstream(scratch / "document.txt") << prose(30);
  auto const json = scratch / "figures.json";
  outcome const done =
      run_demo("--model " + test_model().string() + " --document " + (scratch / "document.txt").string() +
               " --presets full,purekv --compressions 5 --json " + json.string());
  CAPTURE(done.text);
  CHECK(done.code == 0);
  CHECK(contains(done.text, "| purekv "));
  std::string const data = contents(json);
  CHECK(contains(data, "\"peak_cache_bytes\""));
  CHECK(contains(data, "\"right\": true"));
}

}  // namespace engine
