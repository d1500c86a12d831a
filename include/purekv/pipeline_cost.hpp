// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/pattern.hpp>
#include <purekv/model_shape.hpp>
#include <purekv/per_layer.hpp>
#include <purekv/schedule.hpp>

#include <string>

namespace purekv::inline v0_1 {

/// What a schedule costs for one prompt. Bytes count keys, values and positions, the room for new tokens included.
struct pipeline_cost {
  std::int64_t peak_bytes = 0;    // while the prompt passes, layer by layer, memory taken as late as possible
  std::int64_t steady_bytes = 0;  // afterwards
  std::int64_t full_bytes = 0;    // a cache that keeps everything
  double pairs = 0;               // (query head, key) pairs computed; above a source with kept tokens evenly spread
  double full_pairs = 0;          // the same with every layer attending to all that its pattern shows
  std::int64_t rows = 0;          // (layer, token) pairs that pass: the work beside attention
  std::int64_t full_rows = 0;
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// (query, key) pairs of one head that the pattern shows, causality included.
template <Pattern P> double visible_pairs(P const& pattern, std::int32_t tokens) {
  double pairs = 0;
  for (std::int32_t q = 0; q < tokens; ++q) {
    std::int32_t const furthest = last_visible(pattern, q), end = furthest < tokens ? furthest : tokens - 1;
    auto count = [&](std::int32_t first, std::int32_t last, bool full) {
      last = last < end ? last : end;
      if (full && first <= last) pairs += last - first + 1;
      if (!full)
        for (std::int32_t k = first; k <= last; ++k) pairs += pattern.visible(0, q, k);
    };
    if constexpr (requires { pattern.runs(q, q, count); })
      pattern.runs(q, q, count);
    else
      count(0, end, false);
  }
  return pairs;
}

/// One sequence of `tokens` tokens; kept(layer): how many of them a head of that layer keeps.
template <Pattern P, class Kept>
pipeline_cost cost_of(model_shape const& model, schedule const& plan, per_layer<P> const& pattern, Kept const& kept,
                      std::int32_t tokens, std::int32_t new_tokens, std::int32_t element_bytes) {
  std::int64_t const token =
      std::int64_t{model.kv_heads} *
      ((std::int64_t{model.dim} + model.value_width()) * element_bytes + std::int64_t{sizeof(std::int32_t)});
  std::int64_t const full = token * tokens;
  auto const kept_bytes = [&](std::int32_t l) { return token * (std::int64_t{kept(l)} + new_tokens); };
  double visible = 0;
  pipeline_cost cost;
  for (std::int32_t l = 0; l < model.layers; ++l) {
    if (l == 0 || pattern.varies()) visible = visible_pairs(pattern[l], tokens) * model.heads;
    std::int64_t live = 0;
    for (std::int32_t other = 0; other < model.layers; ++other) {
      bool const from_the_start = plan.chunked && !plan.needs_full(other);
      if (plan.evicts_at(other) <= l || from_the_start) live += kept_bytes(other);
      if (plan.keeps_full(other) && (other <= l || plan.chunked) && l <= plan.evicts_at(other)) live += full;
    }
    if (plan.needs_full(l) && !plan.keeps_full(l)) live += full;
    cost.peak_bytes = live > cost.peak_bytes ? live : cost.peak_bytes;
    cost.steady_bytes += kept_bytes(l);
    cost.full_bytes += token * (std::int64_t{tokens} + new_tokens);
    bool const drops = plan.drops(l);
    bool const pruned = (drops || plan.layers[l].when == evict_when::before_attending) && tokens > 0;
    double const share = pruned ? static_cast<double>(kept(l)) / tokens : 1.0;
    cost.pairs += visible * share * (drops ? share : 1.0);
    cost.full_pairs += visible;
    cost.rows += drops ? kept(l) : tokens;
    cost.full_rows += tokens;
  }
  return cost;
}

}  // namespace detail

/// The cost in words, on one line. Allocates the string; for people, not for engines.
inline std::string describe(pipeline_cost const& c) {
  std::string text;
  auto percent = [&](double part, double whole) {
    text.append(std::to_string(static_cast<int>(whole > 0 ? 100 * part / whole + 0.5 : 0))).append(" %");
  };
  auto bytes = [&](char const* name, std::int64_t n) {
    text.append(name).append(std::to_string(n)).append(" bytes (");
    percent(static_cast<double>(n), static_cast<double>(c.full_bytes));
    text.append(" of a full cache), ");
  };
  bytes("peak ", c.peak_bytes);
  bytes("steady ", c.steady_bytes);
  text.append("pairs computed ");
  percent(c.pairs, c.full_pairs);
  if (c.rows < c.full_rows) {
    text.append(", rows computed ");
    percent(static_cast<double>(c.rows), static_cast<double>(c.full_rows));
  }
  return text.append("\n");
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
