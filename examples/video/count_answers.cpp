// SPDX-License-Identifier: Apache-2.0
#include "count_answers.hpp"

#include "../engine/evaluation/share_out.hpp"
#include "../engine/report.hpp"
#include "evaluation/evaluation.hpp"

#include <algorithm>
#include <numeric>

namespace video {

namespace {

using nlohmann::json;

void add_answers(json const& record, std::vector<row_total>& rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    json const& row = record["rows"][i];
    for (std::size_t k = 0; k < kind_names.size(); ++k) {
      rows[i].right[k] += row["right"][k].get<int>();
      rows[i].asked[k] += record["asked"][k].get<int>();
    }
    rows[i].bytes = row["bytes"];
  }
}

void take_times(std::vector<json> const& records, std::vector<row_total>& rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    auto const median = [&](char const* key) {
      std::vector<double> all;
      for (json const& record : records) all.push_back(record["rows"][i][key]);
      std::ranges::sort(all);
      return all[all.size() / 2];
    };
    rows[i].seconds = median("seconds");
    rows[i].attention_seconds = median("attention_seconds");
    rows[i].compression_seconds = median("compression_seconds");
    rows[i].executed = median("executed");
  }
}

int total(std::array<int, kind_names.size()> const& counts) { return std::accumulate(counts.begin(), counts.end(), 0); }

std::string smaller(evaluation_row const& row) {
  return row.preset == "full" ? "-" : std::to_string(row.compression) + 'x';
}

}  // namespace

std::vector<row_total> count_answers(engine::gguf_model const& weights, evaluation_set const& set, unsigned seed,
                                     int threads) {
  constexpr int timed = 9;
  std::vector<row_total> rows;
  for (evaluation_row const& row : set.rows) rows.push_back({row});

  engine::progress_bar bar(set.videos + timed);
  evaluation_set alone = set;
  alone.what = measure::time;
  std::vector<json> times;
  {
    engine::engine model(weights, 1);
    for (int i = 0; i < timed; ++i) {
      bar.step("times");
      times.push_back(measure_video(model, alone, i, seed));
    }
  }
  take_times(times, rows);

  std::mutex one_at_a_time;
  engine::share_out(threads, static_cast<std::size_t>(set.videos), [&] {
    return [&, model = std::make_unique<engine::engine>(weights, 1)](std::size_t index) {
      json const record = measure_video(*model, set, static_cast<int>(index), seed);
      std::lock_guard const lock(one_at_a_time);
      bar.step(set.name);
      add_answers(record, rows);
    };
  });
  return rows;
}

std::string table(std::vector<row_total> const& rows) {
  std::vector<std::vector<std::string>> cells{{"attention", "preset", "smaller", "right, %"}};
  auto& head = cells[0];
  head.insert(head.end(), kind_names.begin(), kind_names.end());
  for (char const* const column : {"cache kB", "pass ms", "attention ms", "dense / this", "executed", "compression ms"})
    head.emplace_back(column);
  using engine::with_decimals;
  for (row_total const& r : rows) {
    std::vector<std::string> row{r.row.pattern, r.row.preset, smaller(r.row),
                                 with_decimals(100.0 * total(r.right) / std::max(total(r.asked), 1), 1)};
    for (std::size_t k = 0; k < kind_names.size(); ++k)
      row.push_back(with_decimals(100.0 * r.right[k] / std::max(r.asked[k], 1), 0));
    row.push_back(with_decimals(static_cast<double>(r.bytes) / 1e3, 0));
    row.push_back(with_decimals(1e3 * r.seconds, 1));
    row.push_back(with_decimals(1e3 * r.attention_seconds, 2));
    row.push_back(with_decimals(rows[0].attention_seconds / r.attention_seconds, 2) + 'x');
    row.push_back(with_decimals(r.executed, 3));
    row.push_back(with_decimals(1e3 * r.compression_seconds, 2));
    cells.push_back(std::move(row));
  }
  return engine::markdown(cells);
}

json to_json(std::vector<row_total> const& rows) {
  json result = json::array();
  for (row_total const& r : rows)
    result.push_back({{"pattern", r.row.pattern},
                      {"preset", r.row.preset},
                      {"compression", r.row.compression},
                      {"right", r.right},
                      {"asked", r.asked},
                      {"cache_bytes", r.bytes},
                      {"seconds", r.seconds},
                      {"attention_seconds", r.attention_seconds},
                      {"compression_seconds", r.compression_seconds},
                      {"executed", r.executed}});
  return result;
}

}  // namespace video
