// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.hpp"

#include "error.hpp"

#include <limits>

namespace engine {

tokenizer::tokenizer(std::filesystem::path const& file) {
  llama_log_set([](ggml_log_level, char const*, void*) {}, nullptr);
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  model_.reset(llama_model_load_from_file(file.c_str(), params));
  if (!model_) throw bad_input(file.string() + ": has no tokenizer that libllama can read");
  vocabulary_ = llama_model_get_vocab(model_.get());
}

std::vector<int> tokenizer::tokens(std::string_view text) const {
  std::vector<int> result(text.size() + 8);
  auto tokenise = [&] {
    return llama_tokenize(vocabulary_, text.data(), static_cast<int>(text.size()), result.data(),
                          static_cast<int>(result.size()), false, false);
  };
  int count = tokenise();
  if (count < 0 && count != std::numeric_limits<int>::min()) {  // a space may become three tokens, one for each byte
    result.resize(static_cast<std::size_t>(-count));
    count = tokenise();
  }
  if (count < 0) throw bad_input("the text cannot be tokenised");
  result.resize(static_cast<std::size_t>(count));
  return result;
}

std::vector<int> tokenizer::beginning() const {
  if (!llama_vocab_get_add_bos(vocabulary_)) return {};
  return {llama_vocab_bos(vocabulary_)};
}

std::string tokenizer::text(int token) const {
  std::string piece(64, '\0');
  int length = llama_token_to_piece(vocabulary_, token, piece.data(), static_cast<int>(piece.size()), 0, true);
  if (length < 0) {
    piece.resize(static_cast<std::size_t>(-length));
    length = llama_token_to_piece(vocabulary_, token, piece.data(), -length, 0, true);
  }
  piece.resize(static_cast<std::size_t>(length < 0 ? 0 : length));
  return piece;
}

bool tokenizer::ends(int token) const { return llama_vocab_is_eog(vocabulary_, token); }

}  // namespace engine
