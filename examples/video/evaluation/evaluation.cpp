// SPDX-License-Identifier: Apache-2.0
#include "evaluation.hpp"

#include "../../engine/error.hpp"
#include "../../engine/evaluation/layer_agreement.hpp"
#include "../../engine/presets.hpp"
#include "../patterns.hpp"
#include "../watch.hpp"
#include "../words.hpp"

#include <algorithm>

namespace video {

namespace {

using nlohmann::json;
using kind_counts = std::array<int, kind_names.size()>;

int& of_kind(kind_counts& counts, question const& q) { return counts[static_cast<std::size_t>(q.kind)]; }

/// What a row says, added up over the questions.
struct tally {
  kind_counts right{};
  std::int64_t bytes = 0;
  std::array<double, 4> kept{};  // share of the tokens of the moving, still and flashing sprite, and of the others
  int caches = 0;

  void look_at(engine::measured_attention const& attention, scene const& s, int layers) {
    std::array<double, 4> seen{}, all{};
    auto const whose = [&](int token) {
      int const frame_tokens = s.shape.height * s.shape.width, frame = token / frame_tokens;
      place const here{token % frame_tokens / s.shape.width, token % s.shape.width};
      if (here == s.moving_at(frame)) return std::size_t{0};
      if (frame == s.flash_frame && here == s.flash_at) return std::size_t{2};
      return here == s.still_at ? std::size_t{1} : std::size_t{3};
    };
    std::vector<std::size_t> owner;
    for (int token = 0; token < s.shape.tokens(); ++token) owner.push_back(whose(token));
    for (int l = 0; l < layers; ++l)
      for (auto const& head : attention.kept(l)) {
        for (std::size_t const o : owner) all[o] += 1;
        for (std::int32_t const position : head)
          if (int const token = position - prompt::first_patch; token >= 0 && token < s.shape.tokens())
            seen[owner[static_cast<std::size_t>(token)]] += 1;
      }
    for (std::size_t i = 0; i < kept.size(); ++i) kept[i] += all[i] > 0 ? seen[i] / all[i] : 1;
    bytes += attention.cache_bytes();
    ++caches;
  }

  json record(evaluation_row const& row) const {
    auto const mean = [&](double sum) { return sum / caches; };
    return {{"pattern", row.pattern},
            {"preset", row.preset},
            {"compression", row.compression},
            {"right", right},
            {"bytes", bytes / caches},
            {"kept",
             {{"moving", mean(kept[0])},
              {"still", mean(kept[1])},
              {"flashing", mean(kept[2])},
              {"others", mean(kept[3])}}}};
  }
};

class video_measurement {
 public:
  video_measurement(engine::engine& model, evaluation_set const& set, example const& e)
      : model_(model), set_(set), video_(e), prompt_(set.shape, e.pixels), layout_(set.shape) {}

  json answers() {
    kind_counts asked{};
    for (question const& q : video_.questions) ++of_kind(asked, q);
    std::vector<tally> tallies(set_.rows.size());
    for (std::size_t first = 0, end = 0; first < set_.rows.size(); first = end) {
      while (end < set_.rows.size() && set_.rows[end].pattern == set_.rows[first].pattern) ++end;
      std::span const rows = std::span(set_.rows).subspan(first, end - first);
      std::span const results = std::span(tallies).subspan(first, end - first);
      if (set_.agnostic)
        ask_afterwards(rows, results);
      else
        for (question const& q : video_.questions) ask_first(q, rows, results);
    }
    json record{{"asked", asked}, {"rows", json::array()}};
    for (std::size_t i = 0; i < tallies.size(); ++i) record["rows"].push_back(tallies[i].record(set_.rows[i]));
    return record;
  }

  json layers() {
    question const& q = video_.questions.at(0);
    model_.show(prompt_.shown());
    return {{"agreement", engine::layer_agreement(model_, with(tokens_of(q.text)), element)}};
  }

  json times() {
    json rows = json::array();
    for (evaluation_row const& row : set_.rows) {
      auto const attention = make(row);
      auto const start = std::chrono::steady_clock::now();
      watched const about(model_, *attention, prompt_);
      double const taken = engine::seconds(std::chrono::steady_clock::now() - start).count();
      auto const pattern = make_pattern(row.pattern, layout_.view());
      density const share = density_of(pattern, static_cast<int>(prompt_.tokens().size()),
                                       model_.shape().heads / model_.shape().kv_heads);
      rows.push_back({{"pattern", row.pattern},
                      {"preset", row.preset},
                      {"compression", row.compression},
                      {"seconds", taken},
                      {"attention_seconds", attention->attention_time().count()},
                      {"compression_seconds", attention->compression_time().count()},
                      {"visible", share.visible},
                      {"executed", share.executed},
                      {"bytes", attention->cache_bytes()}});
    }
    return {{"rows", rows}};
  }

 private:
  static constexpr engine::cache_element element = engine::cache_element::float16;

  std::unique_ptr<engine::measured_attention> make(evaluation_row const& row) const {
    return engine::make_attention(
        row.preset, row.compression, model_,
        {.element = element, .pattern = make_pattern(row.pattern, layout_.view()), .layout = layout_.view()});
  }

  std::vector<int> with(std::vector<int> const& words) const {
    std::vector<int> all = prompt_.tokens();
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }

  /// The pass of a prompt under the pattern of these rows, for them to share.
  void record(std::vector<int> const& tokens, evaluation_row const& row) {
    auto const whole = make({row.pattern, "full", 1});
    model_.show(prompt_.shown());
    whole->begin(static_cast<int>(tokens.size()), longest_question);
    model_.record(tokens, *whole, pass_);
  }

  void ask_afterwards(std::span<evaluation_row const> rows, std::span<tally> results) {
    record(prompt_.tokens(), rows[0]);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      auto const attention = make(rows[i]);
      watched about(model_, *attention, prompt_,
                    [&] { model_.replay(pass_, attention->first_layer_that_differs(), *attention); });
      results[i].look_at(*attention, video_.what, model_.shape().layers);
      for (question const& q : video_.questions) of_kind(results[i].right, q) += about.answers(q.text, q.answer);
    }
  }

  void ask_first(question const& q, std::span<evaluation_row const> rows, std::span<tally> results) {
    std::vector<int> const tokens = with(tokens_of(q.text)), answer = tokens_of(q.answer);
    record(tokens, rows[0]);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      auto const attention = make(rows[i]);
      if (attention->repeats())
        throw engine::bad_input("set '" + set_.name + "': " + rows[i].preset +
                                " compresses before the question is known; it belongs into a set that is agnostic");
      attention->begin(static_cast<int>(tokens.size()), longest_question);
      std::vector<float> logits = model_.replay(pass_, attention->first_layer_that_differs(), *attention);
      results[i].look_at(*attention, video_.what, model_.shape().layers);
      model_.extend(answer, static_cast<int>(tokens.size()), *attention);
      std::vector<float> const rest = model_.logits(0, static_cast<int>(answer.size()) - 1);
      logits.insert(logits.end(), rest.begin(), rest.end());
      of_kind(results[i].right, q) += are_most_likely(answer, logits);
    }
  }

  engine::engine& model_;
  evaluation_set const& set_;
  example const& video_;
  prompt prompt_;
  video_layout layout_;
  engine::recorded_prompt pass_;
};

}  // namespace

json measure_video(engine::engine& model, evaluation_set const& set, int index, unsigned seed) {
  auto const start = std::chrono::steady_clock::now();
  std::uint64_t const of_set = set.calibration ? std::uint64_t{seed} + 1000 : seed;
  example const e = make_example(of_set, static_cast<std::uint64_t>(index), set.shape, set.questions);
  video_measurement measurement(model, set, e);
  json record = set.what == measure::layers ? measurement.layers()
                : set.what == measure::time ? measurement.times()
                                            : measurement.answers();
  record["set"] = set.name;
  record["video"] = index;
  record["seconds"] = engine::seconds(std::chrono::steady_clock::now() - start).count();
  return record;
}

}  // namespace video
