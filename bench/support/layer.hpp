// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scratch_memory.hpp"

#include <purekv/attend.hpp>
#include <purekv/convert.hpp>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

/// One layer of one sequence with random queries, keys and values: `tokens` cached tokens, the last `queries` of them
/// attending. Queries and results are float, the cache is T.
template <class T> struct random_layer {
  std::vector<float> q, out;
  std::vector<T> keys, values;
  std::vector<std::int32_t> positions, lengths;
  purekv::query_view<float> queries;
  purekv::contiguous_cache<T> cache;
  purekv::rows_view<float> results;

  random_layer(int heads, int kv_heads, int dim, int tokens, int count) {
    auto const size = [](auto... n) { return (static_cast<std::size_t>(n) * ...); };
    std::minstd_rand random(7);
    std::normal_distribution<float> normal;
    auto const fill = [&](auto& data, std::size_t n) {
      std::vector<float> floats(n);
      for (float& x : floats) x = normal(random);
      data.resize(n);
      purekv::convert(floats.data(), data.data(), static_cast<std::int64_t>(n));
    };
    fill(q, size(heads, count, dim));
    fill(keys, size(kv_heads, tokens, dim));
    fill(values, size(kv_heads, tokens, dim));
    out.resize(q.size());
    for (int h = 0; h < kv_heads; ++h)
      for (int i = 0; i < tokens; ++i) positions.push_back(i);
    lengths.assign(size(kv_heads), tokens);
    cache = {keys.data(),
             values.data(),
             positions.data(),
             lengths.data(),
             1,
             kv_heads,
             tokens,
             dim,
             std::ptrdiff_t{kv_heads} * tokens * dim,
             std::ptrdiff_t{tokens} * dim,
             dim};
    queries = {purekv::head_major<float const>(q.data(), heads, count, dim),
               {1, nullptr, positions.data() + tokens - count}};
    results = purekv::head_major(out.data(), heads, count, dim);
  }

  /// Relative L2 error of `results` against the same attention in double precision, on a sample of its rows.
  template <class P> double error(P const& pattern, int sample = 24) const {
    double wrong = 0, all = 0;
    int const heads = queries.rows.heads, count = queries.rows.tokens, dim = queries.rows.dim;
    for (int i = 0; i < sample; ++i) {
      int const row = sample > 1 ? static_cast<int>(std::int64_t{count - 1} * i / (sample - 1)) : 0;
      std::vector<double> const exact = reference(pattern, i % heads, row);
      for (int d = 0; d < dim; ++d) {
        double const difference = results.row(i % heads, row)[d] - exact[static_cast<std::size_t>(d)];
        wrong += difference * difference;
        all += exact[static_cast<std::size_t>(d)] * exact[static_cast<std::size_t>(d)];
      }
    }
    return std::sqrt(wrong / all);
  }

 private:
  template <class P> std::vector<double> reference(P const& pattern, int head, int query) const {
    int const dim = queries.rows.dim, kv_head = head / (queries.rows.heads / cache.kv_heads);
    std::int32_t const at = queries.batch.positions[query];
    std::vector<double> logits, result(static_cast<std::size_t>(dim));
    std::vector<int> seen;
    for (int k = 0; k < cache.length(0, kv_head); ++k) {
      auto const run = cache.run(0, kv_head, k);
      if (run.positions[0] > at || !pattern.visible(head, at, run.positions[0])) continue;
      double dot = 0;
      for (int d = 0; d < dim; ++d)
        dot += double{queries.rows.row(head, query)[d]} * double{static_cast<float>(run.keys[d])};
      logits.push_back(dot / std::sqrt(static_cast<double>(dim)));
      seen.push_back(k);
    }
    double const top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (double& s : logits) sum += s = std::exp(s - top);
    for (std::size_t i = 0; i < seen.size(); ++i)
      for (int d = 0; d < dim; ++d)
        result[static_cast<std::size_t>(d)] +=
            logits[i] / sum * double{static_cast<float>(cache.run(0, kv_head, seen[i]).values[d])};
    return result;
  }
};
