// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include "error.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iostream>

namespace engine {

namespace {

/// Characters a terminal shows, of UTF-8.
std::size_t width(std::string const& text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

/// A file beside `target` that is written before it takes its place, and is gone with this. Where the target is there
/// and no regular file, a terminal or a pipe, it is the target itself.
struct draft {
  std::filesystem::path target, path;
  bool replaces = false;  // a file that is there

  explicit draft(std::filesystem::path const& file) : target(file) {
    std::error_code ignored;
    replaces = std::filesystem::exists(file, ignored);
    if (replaces) target = std::filesystem::canonical(file, ignored);
    path = target;
    if (!replaces || std::filesystem::is_regular_file(target, ignored)) path += ".part";
  }
  ~draft() {
    std::error_code ignored;
    if (path != target) std::filesystem::remove(path, ignored);
  }
  draft(draft const&) = delete;
  draft& operator=(draft const&) = delete;
};

[[noreturn]] void throw_unwritable(std::filesystem::path const& file) {
  throw bad_input(file.string() + ": cannot be written");
}

}  // namespace

std::string markdown(std::vector<std::vector<std::string>> const& rows) {
  std::vector<std::size_t> widths;
  for (auto const& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i == widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], width(row[i]));
    }
  std::string text;
  for (auto const& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i)
      text.append("| ").append(row[i]).append(widths[i] - width(row[i]) + 1, ' ');
    text += "|\n";
    if (&row != &rows.front()) continue;
    for (std::size_t const w : widths) text.append("|").append(w + 2, '-');
    text += "|\n";
  }
  return text;
}

std::string with_decimals(double value, int decimals) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string printable(std::string const& text) {
  std::string result;
  for (char const c : text.substr(text.find_first_not_of(' ') == std::string::npos ? 0 : text.find_first_not_of(' ')))
    result += static_cast<unsigned char>(c) < 32 || c == '|' ? ' ' : c;
  return result;
}

std::string table(std::vector<measurement> const& rows) {
  auto const megabytes = [](std::int64_t bytes) { return with_decimals(static_cast<double>(bytes) / 1e6, 2); };
  std::vector<std::vector<std::string>> cells{{"preset", "smaller", "answer", "", "cache MB", "peak MB", "prefill s",
                                               "attention s", "compression s", "other s", "repeat s", "tokens/s"}};
  for (measurement const& r : rows) {
    std::string const verdict = !r.right ? "" : *r.right ? "right" : "wrong";
    seconds const other = r.prefill - r.attention - r.compressing;
    cells.push_back({r.preset, r.compression == 1 ? "-" : std::to_string(r.compression) + "x", printable(r.answer),
                     verdict, megabytes(r.cache_bytes), megabytes(r.peak_cache_bytes),
                     with_decimals(r.prefill.count(), 2), with_decimals(r.attention.count(), 2),
                     with_decimals(r.compressing.count(), 3), with_decimals(other.count(), 2),
                     r.repeating.count() > 0 ? with_decimals(r.repeating.count(), 2) : "-",
                     with_decimals(r.decoded_per_second, 0)});
  }
  return markdown(cells);
}

nlohmann::json to_json(measurement const& r) {
  nlohmann::json json{{"preset", r.preset},
                      {"compression", r.compression},
                      {"answer", r.answer},
                      {"tokens", r.tokens},
                      {"prompt_tokens", r.prompt_tokens},
                      {"cache_bytes", r.cache_bytes},
                      {"peak_cache_bytes", r.peak_cache_bytes},
                      {"prefill_seconds", r.prefill.count()},
                      {"attention_seconds", r.attention.count()},
                      {"compression_seconds", r.compressing.count()},
                      {"repetition_seconds", r.repeating.count()},
                      {"question_seconds", r.asking.count()},
                      {"decoded_tokens_per_second", r.decoded_per_second},
                      {"decoding_passes", r.decoding_passes}};
  for (seconds const layer : r.layers) json["layer_seconds"].push_back(layer.count());
  if (r.right) json["right"] = *r.right;
  if (!r.kept.empty()) json["kept"] = r.kept;
  return json;
}

nlohmann::json to_json(model_shape const& s) {
  return {{"layers", s.layers},         {"heads", s.heads},
          {"kv_heads", s.kv_heads},     {"dim", s.dim},
          {"hidden", s.hidden},         {"feed_forward", s.feed_forward},
          {"vocabulary", s.vocabulary}, {"context", s.context}};
}

void check_writable(std::filesystem::path const& file) {
  draft const d(file);
  auto const opens = [](std::filesystem::path const& p) { return std::ofstream(p, std::ios::app).is_open(); };
  if (!opens(d.path) || (d.replaces && !opens(d.target))) throw_unwritable(file);
}

void write_json(std::filesystem::path const& file, nlohmann::json const& data) {
  draft const d(file);
  std::ofstream out(d.path);
  // A token may be half of a UTF-8 character; JSON gets the replacement character for it.
  out << data.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  out.close();
  std::error_code failed;
  if (out && d.path != d.target) std::filesystem::rename(d.path, d.target, failed);
  if (!out || failed) throw_unwritable(file);
}

progress_bar::progress_bar(int steps) : steps_(steps), terminal_(isatty(STDERR_FILENO) != 0) {}
progress_bar::~progress_bar() { clear(); }

void progress_bar::step(std::string const& about_to_do) {
  ++done_;
  if (!terminal_) return;
  clear();
  constexpr int cells = 24;
  int const filled = steps_ > 0 ? cells * done_ / steps_ : 0;
  std::cerr << '[' << std::string(static_cast<std::size_t>(filled), '#')
            << std::string(static_cast<std::size_t>(cells - filled), '.') << "] " << done_ << '/' << steps_ << ' '
            << about_to_do << std::flush;
}

void progress_bar::clear() const {
  if (terminal_) std::cerr << "\r\x1b[K" << std::flush;
}

}  // namespace engine
