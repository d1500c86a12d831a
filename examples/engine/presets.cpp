// SPDX-License-Identifier: Apache-2.0
#include "presets.hpp"

#include "error.hpp"
#include "preset_maker.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace engine {

extern template class preset_maker<float>;
extern template class preset_maker<purekv::half>;
extern template class preset_maker<purekv::bfloat16>;

namespace {

// The presets that one source scores; the layers of their band may follow the name: purekv@0-7.
constexpr std::array with_source{"purekv_paper", "purekv",      "purekv_no_norm", "purekv_after",
                                 "purekv_drop",  "purekv_deep", "purekv_video",   "purekv_video_no_norm"};

std::optional<purekv::source_band> read_band(std::string_view text) {
  purekv::source_band band;
  auto const number = [&](std::int32_t& to) {
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), to);
    bool const read = error == std::errc{} && to >= 0;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return read;
  };
  if (!number(band.first)) return {};
  band.last = band.first;
  if (text.starts_with('-')) {
    text.remove_prefix(1);
    if (!number(band.last)) return {};
  }
  if (!text.empty() || band.last < band.first) return {};
  return band;
}

template <purekv::Element T>
std::unique_ptr<measured_attention> make(preset_name const& preset, int compression, language_model const& model,
                                         attention_options const& options) {
  return preset_maker<T>(model, compression, options).make(preset);
}

}  // namespace

std::vector<std::string> const& preset_names() {
  static std::vector<std::string> const names = [] {
    std::vector<std::string> all{"full",
                                 "streaming",
                                 "random",
                                 "knorm",
                                 "tova",
                                 "h2o",
                                 "h2o_half",
                                 "expected_attention",
                                 "snapkv",
                                 "snapkv_head_mean",
                                 "snapkv_value_norm",
                                 "snapkv_spans",
                                 "pyramidkv",
                                 "criticalkv",
                                 "kvzip",
                                 "novel",
                                 "novel_place",
                                 "probes",
                                 "probes_heads",
                                 "probes_model"};
    all.insert(all.end(), with_source.begin(), with_source.end());
    return all;
  }();
  return names;
}

preset_name read_preset(std::string const& text) {
  std::size_t const at = std::min(text.find('@'), text.size());
  preset_name result{text.substr(0, at), {}};
  if (std::ranges::count(preset_names(), result.name) == 0) {
    std::string known;
    for (std::string const& name : preset_names()) known += (known.empty() ? "" : ", ") + name;
    throw bad_input("unknown preset '" + result.name + "'; known are " + known);
  }
  if (at == text.size()) return result;
  if (std::ranges::count(with_source, result.name) == 0)
    throw bad_input("preset '" + result.name + "' has no source layers that '" + text.substr(at) + "' could name");
  result.band = read_band(std::string_view(text).substr(at + 1));
  if (!result.band)
    throw bad_input("'" + text + "': the source is one layer or a range, as in purekv@8 or purekv@0-10");
  return result;
}

std::unique_ptr<measured_attention> make_attention(std::string const& preset, int compression,
                                                   language_model const& model, attention_options const& options) {
  preset_name const name = read_preset(preset);
  switch (options.element) {
    case cache_element::float32:
      return make<float>(name, compression, model, options);
    case cache_element::bfloat16:
      return make<purekv::bfloat16>(name, compression, model, options);
    case cache_element::float16:
      break;
  }
  return make<purekv::half>(name, compression, model, options);
}

}  // namespace engine
