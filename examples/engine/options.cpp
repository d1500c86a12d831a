// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include "error.hpp"
#include "report.hpp"

#include <CLI/CLI.hpp>

#include <iostream>
#include <thread>

namespace engine {

std::vector<options::row> options::rows() const {
  std::vector<row> result = listed;
  if (!result.empty()) return result;
  for (std::string const& preset : presets) {
    if (preset == "full")
      result.push_back({preset, 1});
    else
      for (int const compression : compressions) result.push_back({preset, compression});
  }
  return result;
}

options parse_options(int argc, char** argv, bool with_text) {
  options o;
  CLI::App app{
      "A language model answers from a compressed KV cache: one table over presets and compressions, "
      "with answers, bytes and seconds as measured."};
  std::string element = "half";
  if (with_text) {
    app.add_option("--model", o.model, "GGUF file of a model that the engine runs")->required();
    app.add_option("--document", o.document, "text file to hide a fact in, or to ask about")->required();
    app.add_option("--ask", o.question, "your own question about the document; nothing is hidden then");
    app.add_option("--tokens", o.tokens, "use only so many tokens of the document");
    app.add_option("--depth", o.depth, "where the fact is hidden, 0 to 1")->capture_default_str();
    app.add_option("--seed", o.seed, "chooses the fact")->capture_default_str();
    app.add_flag("--paraphrase", o.paraphrased, "ask for the hidden fact in other words than it is told in");
    app.add_flag("--chat", o.chat,
                 "compress the document once, then ask ten questions about five hidden facts, one after the other");
    app.add_flag(
        "--stdin", o.from_stdin,
        "with --chat: your own questions, one a line, under the first preset; what was said stays in the cache");
    app.add_flag("--forget", o.forgetful, "with --stdin: every question finds nothing but the document");
    app.add_flag("--float-weights", o.float_weights, "unpack quantised weights to float (faster prefill, more memory)");
  } else {
    o.tokens = 3000;
    app.add_option("--tokens", o.tokens, "length of the random prompt")->capture_default_str();
  }
  app.add_option("--compressions", o.compressions, "how many times smaller")->delimiter(',')->capture_default_str();
  app.add_option("--presets", o.presets, "rows of the table")->delimiter(',')->capture_default_str();
  app.add_option("--cache", element, "element of the cache: float, half or bfloat16")->capture_default_str();
  app.add_option("--threads", o.threads, "0: all of this machine")->capture_default_str();
  app.add_option("--new-tokens", o.new_tokens, "length of an answer at most")->capture_default_str();
  app.add_option("--chunk", o.chunk,
                 "feed the prompt in chunks of so many tokens, as servers do; nothing is evicted before the last");
  app.add_option(
      "--speculate", o.guessed,
      "guess so many tokens at a time from the text so far, and take back what the model would not have said");
  app.add_option("--json", o.json, "also write every figure and answer to this file");
  app.add_flag("--agnostic", o.agnostic,
               "every preset compresses the document without knowing the question; kvzip always does");
  app.add_flag("--kept", o.kept,
               "also write to --json which tokens every layer and head keeps; see scripts/plot_kept.py");
  app.add_flag("--describe", o.describe, "say what each layer does under each preset");
  try {
    app.parse(argc, argv);
  } catch (CLI::Success const& e) {
    std::exit(app.exit(e));
  } catch (CLI::ParseError const& e) {
    throw bad_input(e.what());
  }

  for (std::string const& preset : o.presets) read_preset(preset);
  for (int const c : o.compressions)
    if (c < 1) throw bad_input("--compressions must be at least 1");
  if (element == "float")
    o.element = cache_element::float32;
  else if (element == "bfloat16")
    o.element = cache_element::bfloat16;
  else if (element != "half")
    throw bad_input("--cache is float, half or bfloat16, not '" + element + "'");
  if (o.tokens < 0 || o.threads < 0 || o.chunk < 0 || o.guessed < 0 || o.new_tokens < 1)
    throw bad_input("--tokens, --threads, --chunk and --speculate cannot be negative, --new-tokens not below 1");
  if (o.forgetful && !o.from_stdin) throw bad_input("--forget goes with --stdin");
  if (o.from_stdin && !o.chat) throw bad_input("--stdin goes with --chat");
  if (!(o.depth >= 0 && o.depth <= 1)) throw bad_input("--depth lies between 0 and 1");
  if (!o.json.empty()) check_writable(o.json);
  if (o.threads == 0) o.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return o;
}

int report_errors(char const* program, int (*f)(int, char**), int argc, char** argv) {
  try {
    return f(argc, argv);
  } catch (bad_input const& e) {
    std::cerr << program << ": " << e.what() << '\n';
    return 2;
  } catch (std::exception const& e) {
    std::cerr << program << ": " << e.what() << '\n';
    return 1;
  }
}

}  // namespace engine
