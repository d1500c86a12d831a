// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"

#include "error.hpp"
#include "report.hpp"

#include <algorithm>
#include <iostream>

namespace engine {

int most_likely(std::span<float const> logits) {
  return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

measurement answer_prompt(language_model& model, measured_attention& attention, int prompt_tokens, int new_tokens,
                          answer_reader const& reader, std::function<std::vector<float>()> const& prefill) {
  using clock = std::chrono::steady_clock;
  measurement result;
  result.prompt_tokens = prompt_tokens;

  auto const start = clock::now();
  attention.begin(prompt_tokens, new_tokens);
  std::vector<float> logits = prefill();
  result.prefill = clock::now() - start;
  result.attention = attention.attention_time();
  result.compressing = attention.compression_time();
  result.layers = attention.layer_times();
  result.cache_bytes = attention.cache_bytes();
  result.peak_cache_bytes = attention.peak_cache_bytes();

  auto const decoding = clock::now();
  for (int generated = 0;; ++generated) {
    int const token = most_likely(logits);
    if (reader.ends(token)) break;
    result.tokens.push_back(token);
    result.answer += reader.text(token);
    if (generated + 1 == new_tokens) break;
    logits = model.decode(token, prompt_tokens + generated, attention);
  }
  if (result.tokens.size() > 1)
    result.decoded_per_second =
        static_cast<double>(result.tokens.size() - 1) / seconds(clock::now() - decoding).count();
  result.right = reader.right(result.answer);
  return result;
}

std::vector<measurement> measure_rows(language_model& model, options const& o, std::span<int const> prompt,
                                      answer_reader const& reader) {
  auto const tokens = static_cast<int>(prompt.size());
  if (tokens + o.new_tokens > model.shape().context)
    throw bad_input("the prompt has " + std::to_string(tokens) + " tokens and the answer up to " +
                    std::to_string(o.new_tokens) + "; the model's context holds " +
                    std::to_string(model.shape().context));
  auto const rows = o.rows();
  std::vector<measurement> results;
  progress_bar bar(static_cast<int>(rows.size()));
  auto const run = [&](options::row const& row, std::span<int const> part) {
    auto const attention = make_attention(row.preset, row.compression, o.element, model.shape(), model.threads());
    measurement m = answer_prompt(model, *attention, static_cast<int>(part.size()), o.new_tokens, reader,
                                  [&] { return model.prefill(part, *attention); });
    m.preset = row.preset;
    m.compression = row.compression;
    return m;
  };
  run({"full", 1}, prompt.first(std::min<std::size_t>(prompt.size(), 256)));  // wakes threads, touches weights
  for (options::row const& row : rows) {
    bar.step(row.preset + ' ' + std::to_string(row.compression) + 'x');
    results.push_back(run(row, prompt));
  }
  return results;
}

}  // namespace engine
