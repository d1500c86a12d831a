// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "presets.hpp"

#include <filesystem>

namespace engine {

/// The command line of the demo.
struct options {
  std::filesystem::path model, document, json;
  std::string question;
  int tokens = 0;  // of the document; 0: all
  std::vector<int> compressions{5, 10, 20, 30};
  std::vector<std::string> presets{"full",   "streaming",   "snapkv",     "purekv_paper",
                                   "purekv", "purekv_drop", "purekv_deep"};
  cache_element element = cache_element::float16;
  bool float_weights = false;
  int threads = 0;  // 0: all of the machine
  int new_tokens = 32;
  int chunk = 0;    // tokens of the prompt that pass at a time; 0: all
  int guessed = 0;  // tokens that are guessed at a time while an answer is generated
  double depth = 0.5;
  unsigned seed = 1;
  bool paraphrased = false;
  bool agnostic = false;  // every preset compresses the document before it sees the question
  bool chat = false, from_stdin = false, forgetful = false;
  bool describe = false;
  bool kept = false;

  struct row {
    std::string preset;
    int compression;
  };
  std::vector<row> listed;  // instead of every preset at every compression

  /// One row per preset and compression; "full" has one.
  std::vector<row> rows() const;
};

/// Throws bad_input for what does not make sense; prints and exits for --help. with_text: the model reads text.
options parse_options(int argc, char** argv, bool with_text);

/// Runs f; prints a bad_input and returns 2, any other exception and returns 1.
int report_errors(char const* program, int (*f)(int, char**), int argc, char** argv);

}  // namespace engine
