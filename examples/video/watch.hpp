// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../engine/engine.hpp"
#include "../engine/measured_attention.hpp"
#include "prompt.hpp"

#include <functional>

namespace video {

/// The weights that train.py made, in float. Throws engine::bad_input for a model that does not share our words().
engine::gguf_model load_model(std::filesystem::path const& file);

/// What an attention that wants something repeated before it compresses gets: typical questions, none about any one
/// video.
std::vector<std::string> const& probes();

/// One video in a cache, compressed before any question is known. Each question finds the cache as the video left it.
class watched {
 public:
  /// pass: how the video's tokens pass, where that is not by prefill.
  watched(engine::engine& model, engine::measured_attention& attention, prompt const& p,
          std::function<void()> const& pass = {});

  /// The most likely answer, with the mark that ends it.
  std::string answer(std::string_view question);

  /// Whether answer() would say this: all of it is fed at once and compared with what is most likely.
  bool answers(std::string_view question, std::string_view expected);

 private:
  engine::engine& model_;
  engine::measured_attention& attention_;
  int video_tokens_;
};

/// Whether the logits after the tokens before each of these, [tokens, words], make it the most likely one.
bool are_most_likely(std::span<int const> tokens, std::span<float const> logits);

}  // namespace video
