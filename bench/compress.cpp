// SPDX-License-Identifier: Apache-2.0
// What does compressing a layer's cache cost beside the layer's dense attention, and what does its top-k cost?
#include "support/beside.hpp"
#include "support/layer.hpp"

#include <purekv/compact.hpp>
#include <purekv/presets.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/score.hpp>
#include <purekv/select.hpp>

namespace {

void must(purekv::status const& s) {
  if (!s.ok()) std::abort();
}

/// A layer that has attended to its prompt, and the memory that compressing it needs.
template <class T> struct attended_layer : random_layer<T> {
  using random_layer<T>::cache, random_layer<T>::queries, random_layer<T>::results;
  std::vector<float> lse, scores, band;
  std::vector<std::int64_t> offset;
  std::vector<std::int32_t> token;
  std::vector<purekv::extent> extents;
  std::vector<T> kept_keys, kept_values;
  std::vector<std::int32_t> kept_positions;
  purekv::score_view score_rows;
  purekv::source_view source;
  purekv::selection kept;
  purekv::evidence<purekv::dense, float> seen;

  attended_layer(int heads, int kv_heads, int dim, int tokens)
      : random_layer<T>(heads, kv_heads, dim, tokens, tokens),
        lse(static_cast<std::size_t>(heads * tokens)),
        scores(static_cast<std::size_t>(kv_heads * tokens)),
        band(scores.size()),
        offset(static_cast<std::size_t>(kv_heads + 1)),
        token(scores.size()),
        extents(static_cast<std::size_t>(kv_heads)),
        kept_keys(this->keys.size()),
        kept_values(this->keys.size()),
        kept_positions(scores.size()),
        score_rows(purekv::dense_scores(scores.data(), 1, kv_heads, tokens)),
        source{purekv::dense_scores(band.data(), 1, kv_heads, tokens), this->positions.data(), tokens,
               this->lengths.data()},
        kept{offset.data(), token.data(), static_cast<std::int64_t>(token.size()), kv_heads},
        seen{{}, queries, lse.data(), tokens} {}

  purekv::ragged_cache<T> compact() {
    std::int64_t const slots = purekv::lay_out(kept, 1, cache.kv_heads, 0, extents.data());
    purekv::ragged_cache<T> const small{kept_keys.data(),
                                        kept_values.data(),
                                        kept_positions.data(),
                                        extents.data(),
                                        1,
                                        cache.kv_heads,
                                        cache.dim,
                                        slots,
                                        cache.dim};
    must(purekv::compact(purekv::cpu{}, kept, cache, small));
    return small;
  }
};

/// Shares of the time of dense attention: `source` is scoring the source layer, `score`, `select` and `compact` are
/// what each layer does. The lse tap is part of the attention.
template <class Compressor> void share_of_attention(benchmark::State& state) {
  using estimator = decltype(Compressor::estimator);
  constexpr bool cross_layer = purekv::CrossLayerEstimator<estimator>;
  int const tokens = static_cast<int>(state.range(0)), heads = 32, kv_heads = 8, dim = 128;
  attended_layer<purekv::half> layer(heads, kv_heads, dim, tokens);
  Compressor const compressor{{}, purekv::ratio::compression(5), {}};
  purekv::cpu const exec;
  purekv::attend_taps const taps{.lse = layer.lse.data(), .lse_stride = tokens};

  std::size_t bytes = purekv::attend_workspace(exec, purekv::dense{}, layer.queries, layer.cache, taps);
  auto const cover = [&](std::size_t more) { bytes = std::max(bytes, more); };
  cover(purekv::score_workspace(exec, compressor.estimator, layer.seen, layer.cache));
  cover(purekv::select_workspace(exec, compressor, layer.cache));
  if constexpr (cross_layer) {
    cover(purekv::score_workspace(exec, typename estimator::source_estimator{}, layer.seen, layer.cache));
    cover(purekv::accumulate_source_workspace(exec, compressor.estimator, layer.cache));
  }
  scratch_memory const memory(bytes);
  purekv::workspace const work = memory.view();

  samples source, score, select, compact, total;
  for (auto _ : state) {
    double const attend = timed(
        [&] { must(purekv::attend(exec, purekv::dense{}, layer.queries, layer.cache, layer.results, taps, work)); });
    state.SetIterationTime(attend);
    for (int repeat = 0; repeat < 5; ++repeat) {
      double of_source = 0;
      if constexpr (cross_layer)
        of_source = timed([&] {
          must(purekv::score(exec, typename estimator::source_estimator{}, layer.seen, layer.cache, {},
                             layer.score_rows, work));
          must(purekv::accumulate_source(exec, compressor.estimator, compressor.protect, layer.score_rows, layer.cache,
                                         true, layer.source, work));
        });
      double const of_score = timed([&] {
        must(purekv::score(exec, compressor.estimator, layer.seen, layer.cache,
                           cross_layer ? layer.source : purekv::source_view{}, layer.score_rows, work));
      });
      double const of_select =
          timed([&] { must(purekv::select(exec, compressor, layer.score_rows, layer.cache, layer.kept, work)); });
      double const of_compact = timed([&] { layer.compact(); });
      source.add(of_source / attend);
      score.add(of_score / attend);
      select.add(of_select / attend);
      compact.add(of_compact / attend);
      total.add((of_source + of_score + of_select + of_compact) / attend);
    }
  }
  state.counters["source"] = source.median();
  state.counters["score"] = score.median();
  state.counters["select"] = select.median();
  state.counters["compact"] = compact.median();
  state.counters["total"] = total.median();
}
BENCHMARK(share_of_attention<purekv::snapkv<purekv::ratio>>)->Arg(8192)->Iterations(3)->UseManualTime();
BENCHMARK(share_of_attention<purekv::purekv_early<purekv::ratio>>)->Arg(8192)->Iterations(3)->UseManualTime();
BENCHMARK(share_of_attention<purekv::purekv_paper<purekv::ratio>>)->Arg(8192)->Iterations(3)->UseManualTime();

/// The tokens that `selection` keeps of each KV head, and the query's own: what prune-then-attend computes.
struct kept_or_self {
  std::vector<std::vector<bool>> kept;
  int group;

  kept_or_self(purekv::selection const& from, int kv_heads, int tokens, int query_heads)
      : kept(static_cast<std::size_t>(kv_heads), std::vector<bool>(static_cast<std::size_t>(tokens))),
        group(query_heads / kv_heads) {
    for (int h = 0; h < kv_heads; ++h)
      for (std::int64_t i = from.offset[h]; i < from.offset[h + 1]; ++i)
        kept[static_cast<std::size_t>(h)][static_cast<std::size_t>(from.token[i])] = true;
  }
  bool visible(int head, int q, int k) const {
    return q == k || kept[static_cast<std::size_t>(head / group)][static_cast<std::size_t>(k)];
  }
};

/// A layer above the source: score, select, compact and attend to what is kept, against attending to everything.
void prune_then_attend(benchmark::State& state) {
  int const tokens = static_cast<int>(state.range(0)), heads = 8, kv_heads = 2, dim = 128;
  attended_layer<purekv::half> layer(heads, kv_heads, dim, tokens);
  purekv::purekv_early<purekv::ratio> const compressor{{}, purekv::ratio::compression(5), {}};
  using source_estimator = decltype(compressor.estimator)::source_estimator;
  purekv::cpu const exec;
  purekv::dense const pattern;
  purekv::attend_taps const taps{.lse = layer.lse.data(), .lse_stride = tokens};
  scratch_memory const memory(std::max({purekv::attend_workspace(exec, pattern, layer.queries, layer.cache, taps),
                                        purekv::score_workspace(exec, compressor.estimator, layer.seen, layer.cache),
                                        purekv::score_workspace(exec, source_estimator{}, layer.seen, layer.cache),
                                        purekv::accumulate_source_workspace(exec, compressor.estimator, layer.cache),
                                        purekv::select_workspace(exec, compressor, layer.cache)}));
  purekv::workspace const work = memory.view();
  auto const dense = [&] { must(purekv::attend(exec, pattern, layer.queries, layer.cache, layer.results, {}, work)); };
  must(purekv::attend(exec, pattern, layer.queries, layer.cache, layer.results, taps, work));
  must(purekv::score(exec, source_estimator{}, layer.seen, layer.cache, {}, layer.score_rows, work));
  must(purekv::accumulate_source(exec, compressor.estimator, compressor.protect, layer.score_rows, layer.cache, true,
                                 layer.source, work));
  purekv::self_view<purekv::half> const self{
      purekv::head_major<purekv::half const>(layer.keys.data(), kv_heads, tokens, dim),
      purekv::head_major<purekv::half const>(layer.values.data(), kv_heads, tokens, dim)};
  auto const pruned = [&] {
    must(purekv::score(exec, compressor.estimator, layer.seen, layer.cache, layer.source, layer.score_rows, work));
    must(purekv::select(exec, compressor, layer.score_rows, layer.cache, layer.kept, work));
    purekv::ragged_cache<purekv::half> const small = layer.compact();
    must(purekv::attend(exec, pattern, layer.queries, small, self, layer.results, {}, work));
  };
  pruned();
  double const error = layer.error(kept_or_self(layer.kept, kv_heads, tokens, heads));
  state.counters["error"] = error;
  if (!(error < 5e-6)) return state.SkipWithError("differs from double precision");
  run_against(state, dense, pruned);
}
BENCHMARK(prune_then_attend)
    ->ArgName("tokens")
    ->Arg(8192)
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(9);

/// A fifth of the tokens of 8 heads by score: `select` against std::nth_element, on the values (what is above the
/// threshold is then collected) or on indices that are then sorted.
enum class baseline { values, indices };

template <baseline how> void top_k(benchmark::State& state) {
  int const tokens = static_cast<int>(state.range(0)), kv_heads = 8, keep = tokens / 5;
  std::minstd_rand random(3);
  std::normal_distribution<float> normal;
  std::vector<float> scores(static_cast<std::size_t>(kv_heads * tokens)), copy(static_cast<std::size_t>(tokens));
  for (float& x : scores) x = std::exp(normal(random));
  std::vector<std::int32_t> positions, lengths(kv_heads, tokens), token(scores.size()), index(copy.size());
  for (int h = 0; h < kv_heads; ++h)
    for (int t = 0; t < tokens; ++t) positions.push_back(t);
  purekv::half nothing{};
  purekv::contiguous_cache<purekv::half> const cache{
      &nothing, &nothing, positions.data(), lengths.data(), 1, kv_heads, tokens, 1, kv_heads * std::ptrdiff_t{tokens},
      tokens,   1};
  std::vector<std::int64_t> offset(kv_heads + 1);
  purekv::selection const kept{offset.data(), token.data(), static_cast<std::int64_t>(token.size()), kv_heads};
  purekv::compressor<purekv::recency, purekv::ratio, purekv::none> const compressor{
      {}, purekv::ratio::compression(5), {}};
  purekv::score_view const rows = purekv::dense_scores(scores.data(), 1, kv_heads, tokens);
  scratch_memory const work(purekv::select_workspace(purekv::cpu{}, compressor, cache));

  std::vector<std::int32_t> expected;
  auto const nth_element = [&] {
    expected.clear();
    for (int h = 0; h < kv_heads; ++h) {
      float const* const row = rows.row(0, h);
      if (how == baseline::values) {
        copy.assign(row, row + tokens);
        std::nth_element(copy.begin(), copy.begin() + keep - 1, copy.end(), std::greater<>{});
        float const threshold = copy[static_cast<std::size_t>(keep - 1)];
        std::ptrdiff_t ties = keep - std::count_if(row, row + tokens, [&](float x) { return x > threshold; });
        for (int t = 0; t < tokens; ++t)
          if (row[t] > threshold || (row[t] == threshold && ties-- > 0)) expected.push_back(t);
      } else {
        std::iota(index.begin(), index.end(), 0);
        std::nth_element(index.begin(), index.begin() + keep, index.end(),
                         [&](std::int32_t a, std::int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
        std::sort(index.begin(), index.begin() + keep);
        expected.insert(expected.end(), index.begin(), index.begin() + keep);
      }
    }
  };
  auto const select = [&] { must(purekv::select(purekv::cpu{}, compressor, rows, cache, kept, work.view())); };
  nth_element();
  select();
  token.resize(expected.size());
  if (token != expected) state.SkipWithError("differs from std::nth_element");
  token.resize(scores.size());
  run_against(state, nth_element, select);
}
BENCHMARK(top_k<baseline::values>)->Arg(16384)->Arg(131072)->Unit(benchmark::kMicrosecond)->UseManualTime();
BENCHMARK(top_k<baseline::indices>)->Arg(16384)->Arg(131072)->Unit(benchmark::kMicrosecond)->UseManualTime();

}  // namespace
