// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <llama-cpp.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

/// The tokenizer of a GGUF file, by libllama. Throws bad_input if the file has none that libllama knows.
class tokenizer {
 public:
  explicit tokenizer(std::filesystem::path const& file);

  /// The text and nothing else: no beginning-of-sequence token, and control tokens in it are plain text.
  std::vector<int> tokens(std::string_view text) const;

  /// What a prompt begins with: the beginning-of-sequence token if the file asks for one, else nothing.
  std::vector<int> beginning() const;

  std::string text(int token) const;
  bool ends(int token) const;  // end of sequence or of turn

 private:
  llama_model_ptr model_;
  llama_vocab const* vocabulary_;
};

}  // namespace engine
