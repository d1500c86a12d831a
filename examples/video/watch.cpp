// SPDX-License-Identifier: Apache-2.0
#include "watch.hpp"

#include "../engine/error.hpp"
#include "../engine/experiment.hpp"
#include "words.hpp"

#include <algorithm>

namespace video {

namespace {

constexpr std::size_t longest_answer = 5;

std::vector<std::string> make_probes() {
  std::vector<std::string> result{"which one moves ?", "which one flashes ?"};
  auto const list = words();
  auto const first = std::ranges::find(list, "red"), zero = std::ranges::find(list, "0");
  for (int c = 0; c < colours; ++c) {
    std::string const colour(first[c]);
    result.push_back("where is " + colour + " at the end ?");
    result.push_back("which shape is " + colour + " ?");
    result.push_back("when does " + colour + " flash ?");
    result.push_back("where does " + colour + " flash ?");
  }
  for (int frame = 0; frame < video_shape{}.frames; ++frame)
    for (int c = frame % 2; c < colours; c += 2)
      result.push_back("where is " + std::string(first[c]) + " in frame " + std::string(zero[frame]) + " ?");
  return result;
}

}  // namespace

engine::gguf_model load_model(std::filesystem::path const& file) {
  engine::gguf_model model(file, true);
  std::vector<std::string> const spoken = model.words();
  if (!std::equal(spoken.begin(), spoken.end(), words().begin(), words().end()))
    throw engine::bad_input(file.string() + ": was trained with other words than this program speaks");
  return model;
}

std::vector<std::string> const& probes() {
  static std::vector<std::string> const all = make_probes();
  return all;
}

bool are_most_likely(std::span<int const> tokens, std::span<float const> logits) {
  std::size_t const width = logits.size() / tokens.size();
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (engine::most_likely(logits.subspan(i * width, width)) != tokens[i]) return false;
  return true;
}

watched::watched(engine::engine& model, engine::measured_attention& attention, prompt const& p,
                 std::function<void()> const& pass)
    : model_(model), attention_(attention), video_tokens_(static_cast<int>(p.tokens().size())) {
  model_.show(p.shown());
  if (attention_.repeats() && !attention_.asks_probes())
    throw engine::bad_input("a model that sees cannot repeat what it saw; its presets ask probes");
  if (attention_.repeats()) attention_.expect_repetition(longest_question);
  attention_.begin(video_tokens_, longest_question);
  if (pass)
    pass();
  else
    model_.prefill(p.tokens(), attention_);
  if (attention_.repeats())
    for (std::string const& probe : probes()) model_.extend(tokens_of(probe), video_tokens_, attention_);
  attention_.compress();
}

std::string watched::answer(std::string_view question) {
  std::vector<int> const asked = tokens_of(question);
  if (asked.empty()) throw engine::bad_input("the question is empty");
  if (asked.size() + longest_answer > longest_question)
    throw engine::bad_input("a question has at most " + std::to_string(longest_question - longest_answer) + " words");
  int position = video_tokens_;
  std::vector<int> said{engine::most_likely(model_.extend(asked, position, attention_))};
  position += static_cast<int>(asked.size());
  for (; said.back() != end_of_answer && said.size() < longest_answer; ++position)
    said.push_back(engine::most_likely(model_.decode(said.back(), position, attention_)));
  attention_.take_back(position - video_tokens_);
  return text_of(said);
}

bool watched::answers(std::string_view question, std::string_view expected) {
  std::vector<int> tokens = tokens_of(question);
  std::vector<int> const answer = tokens_of(expected);
  int const asked = static_cast<int>(tokens.size()), said = static_cast<int>(answer.size());
  tokens.insert(tokens.end(), answer.begin(), answer.end() - 1);
  model_.extend(tokens, video_tokens_, attention_);
  bool const right = are_most_likely(answer, model_.logits(asked - 1, said));
  attention_.take_back(static_cast<int>(tokens.size()));
  return right;
}

}  // namespace video
