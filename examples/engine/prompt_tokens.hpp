// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace engine {

/// A prompt in tokens, cut where the question begins, so that the document can be compressed before it is asked.
struct prompt {
  std::vector<int> document, question;
  std::vector<int> repeat, repeat_from;    // the requests to repeat the document, and to go on after a chunk
  std::vector<std::vector<int>> probes{};  // questions that are typical of such documents

  int tokens() const { return static_cast<int>(document.size() + question.size()); }
  std::vector<int> whole() const;

  /// The passes in which the document is repeated, chunk by chunk as KVzip does (arXiv 2505.23416): the request, for
  /// further chunks the last tokens of the chunk before, and the chunk.
  std::vector<std::vector<int>> repetition() const;
};

}  // namespace engine
