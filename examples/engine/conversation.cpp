// SPDX-License-Identifier: Apache-2.0
#include "conversation.hpp"

namespace engine {

conversation::conversation(language_model& model, options const& o, options::row const& row, prompt const& p, int room)
    : model_(model),
      attention_(make_attention(row.preset, row.compression, model, {.element = o.element, .chunked = o.chunk > 0})),
      text_(p.document),
      document_(static_cast<int>(p.document.size())),
      room_(room),
      new_tokens_(o.new_tokens),
      guessed_(o.guessed),
      cached_(p.document.size()),
      cost_(compress_document(model, *attention_, p, room, [&] { prefill(model, p.document, o.chunk, *attention_); })) {
}

bool conversation::has_room_for(std::size_t question) const {
  return text_.size() - static_cast<std::size_t>(document_) + question + static_cast<std::size_t>(new_tokens_) <=
         static_cast<std::size_t>(room_);
}

measurement conversation::ask(std::span<int const> question, answer_reader const& reader) {
  text_.insert(text_.end(), question.begin(), question.end());
  // The last token of an answer was said, but nothing came after it, so it is not in the cache yet.
  std::span<int const> const next = std::span<int const>(text_).subspan(cached_);
  measurement result;
  int const added = answer_question(model_, *attention_, static_cast<int>(cached_), next, new_tokens_, reader, result,
                                    {guessed_, text_});
  cached_ += static_cast<std::size_t>(added);
  text_.insert(text_.end(), result.tokens.begin(), result.tokens.end());
  return result;
}

void conversation::forget() {
  attention_->take_back(static_cast<int>(cached_) - document_);
  cached_ = static_cast<std::size_t>(document_);
  text_.resize(cached_);
}

}  // namespace engine
