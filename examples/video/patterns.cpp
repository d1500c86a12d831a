// SPDX-License-Identifier: Apache-2.0
#include "patterns.hpp"

#include "../engine/cache_memory.hpp"
#include "../engine/error.hpp"

#include <purekv/plan.hpp>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <utility>

namespace video {

namespace {

using purekv::spatial_temporal;

struct variant {
  char const* name;
  void (*change)(spatial_temporal&);
};

constexpr variant variants[] = {
    {"st", [](spatial_temporal&) {}},
    {"st_previous", [](spatial_temporal& p) { p.spatial_frames = 1; }},
    {"st_previous2", [](spatial_temporal& p) { p.spatial_frames = 2; }},
    {"st_previous3", [](spatial_temporal& p) { p.spatial_frames = 3; }},
    {"st_around3",
     [](spatial_temporal& p) {
       p.spatial_frames = 3;
       p.spatial_radius = 3;
     }},
    {"st_first", [](spatial_temporal& p) { p.first_frame = true; }},
    {"st_near", [](spatial_temporal& p) { p.temporal_radius = 1; }},
    {"st_near4",
     [](spatial_temporal& p) {
       p.temporal_radius = 1;
       p.temporal_frames = 4;
     }},
    {"st_near_previous",
     [](spatial_temporal& p) {
       p.spatial_frames = 1;
       p.temporal_radius = 1;
     }},
    {"st_stride2", [](spatial_temporal& p) { p.temporal_stride = 2; }},
    {"spatial", [](spatial_temporal& p) { p.temporal_frames = 0; }},
    {"temporal", [](spatial_temporal& p) { p.spatial_radius = 0; }},
    {"frames4",
     [](spatial_temporal& p) {
       p.spatial_frames = 3;
       p.temporal_frames = 0;
     }},
};

/// What follows the colon of a name that begins with `kind` and one.
template <class Number> Number read_number(std::string const& name, std::string_view kind, Number least, Number most) {
  std::string_view const text = std::string_view(name).substr(kind.size() + 1);
  Number number{};
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || !(least <= number && number <= most))
    throw engine::bad_input("pattern '" + name + "': after the colon comes " +
                            (kind == "window" ? "a number of tokens, at least 1" : "a percentage, 0 to 100"));
  return number;
}

}  // namespace

std::vector<std::string> const& pattern_names() {
  static std::vector<std::string> const names = [] {
    std::vector<std::string> all{"dense"};
    for (variant const& v : variants) all.emplace_back(v.name);
    all.insert(all.end(), {"window:N", "random:P"});
    return all;
  }();
  return names;
}

engine::pattern make_pattern(std::string const& name, purekv::token_layout const& layout) {
  if (name == "dense") return purekv::dense{};
  for (variant const& v : variants)
    if (name == v.name) {
      spatial_temporal pattern{layout};
      v.change(pattern);
      return pattern;
    }
  if (name.starts_with("window:")) {
    engine::sees_newest const newest{{layout}, read_number<std::int32_t>(name, "window", 1, INT32_MAX)};
    return engine::newest_and_text{newest, newest};
  }
  if (name.starts_with("random:")) {
    engine::sees_at_random const some{{layout}, read_number<double>(name, "random", 0, 100) / 100};
    return engine::random_and_text{some, some};
  }
  std::string known;
  for (std::string const& each : pattern_names()) known += (known.empty() ? "" : ", ") + each;
  throw engine::bad_input("unknown pattern '" + name + "'; known are " + known);
}

density density_of(engine::pattern const& pattern, int tokens, int group) {
  std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
  std::iota(positions.begin(), positions.end(), 0);
  // A plan reads shapes and positions, no vectors: these have one value, and one KV head.
  std::vector<float> vectors(positions.size() * static_cast<std::size_t>(group));
  std::int32_t length = tokens;
  purekv::contiguous_cache<float> const cache{.keys = vectors.data(),
                                              .values = vectors.data(),
                                              .positions = positions.data(),
                                              .lengths = &length,
                                              .sequences = 1,
                                              .kv_heads = 1,
                                              .tokens = tokens,
                                              .dim = 1,
                                              .sequence_stride = tokens,
                                              .head_stride = tokens,
                                              .token_stride = 1};
  purekv::query_view<float> const queries{.rows = purekv::token_major(std::as_const(vectors).data(), group, tokens, 1),
                                          .batch = {.positions = positions.data()}};
  engine::aligned_memory const memory(purekv::plan_workspace(pattern, queries, cache));
  purekv::tile_plan plan;
  purekv::plan(purekv::cpu{}, pattern, queries, cache, {memory.data(), memory.bytes()}, plan).or_throw();

  double visible = 0;
  for (int q = 0; q < tokens; ++q)
    for (int k = 0; k <= q; ++k) visible += pattern.visible(0, q, k);
  return {visible * group / purekv::causal_pairs(queries, cache),
          purekv::executed_density(pattern, plan, queries, cache)};
}

}  // namespace video
