// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "experiment.hpp"

namespace engine {

/// Questions over a document that was compressed once, and their answers.
class conversation {
 public:
  /// room: tokens that questions and answers may take in the cache; more are not asked at once.
  conversation(language_model& model, options const& o, options::row const& row, prompt const& p, int room);

  /// What it cost to read the document.
  measurement const& cost() const { return cost_; }

  /// Whether so many tokens of question, and the answer, still fit.
  bool has_room_for(std::size_t question) const;

  /// Asks, and goes on from there: the next question finds this one and its answer in the cache.
  measurement ask(std::span<int const> question, answer_reader const& reader);

  /// Only the document is left in the cache.
  void forget();

 private:
  language_model& model_;
  std::unique_ptr<measured_attention> attention_;
  std::vector<int> text_;  // the document and what has been said since
  int document_, room_, new_tokens_, guessed_;
  std::size_t cached_ = 0;  // tokens of the text that are in the cache
  measurement cost_;
};

}  // namespace engine
