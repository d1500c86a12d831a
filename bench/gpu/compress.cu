// SPDX-License-Identifier: Apache-2.0
// What does compressing a layer's cache to a fifth cost beside the layer's dense attention?
#include "../support/scratch_memory.hpp"
#include "support/layer.cuh"

#include <purekv/attend.cuh>
#include <purekv/compact.cuh>
#include <purekv/pattern/dense.hpp>
#include <purekv/presets.hpp>
#include <purekv/score.cuh>
#include <purekv/select.cuh>
#include <purekv/source.cuh>

#include <cstring>
namespace {

using purekv::bfloat16;

constexpr double largest_error = 0.02;  // of scores, relative L2

template <class Estimator> struct source_estimator { using type = Estimator; };
template <purekv::CrossLayerEstimator Estimator> struct source_estimator<Estimator> {
  using type = typename Estimator::source_estimator;
};

/// A layer that has attended to its prompt, and the memory that compressing it needs.
template <class Compressor> struct attended {
  using estimator = decltype(Compressor::estimator);
  static constexpr bool cross_layer = purekv::CrossLayerEstimator<estimator>;
  bench::layer_shape shape;
  bench::layer<bfloat16> layer;
  bench::array<float> lse, scores, band;
  bench::array<std::int64_t> offset, slots;
  bench::array<std::int32_t> token;
  bench::array<purekv::extent> extents;
  bench::array<bfloat16> kept_keys, kept_values;
  bench::array<std::int32_t> kept_positions, band_tokens;
  bench::array<std::byte> memory;
  Compressor compressor{{}, purekv::ratio::compression(5), {}};
  purekv::evidence<purekv::dense, bfloat16> seen;
  purekv::score_view score_rows;
  purekv::source_view source;
  purekv::selection kept;
  purekv::ragged_cache<bfloat16> small;

  explicit attended(bench::layer_shape const& n, bench::memory where = bench::memory::device)
      : shape(n),
        layer(n, where),
        lse(std::int64_t{n.heads} * n.tokens, where),
        scores(std::int64_t{n.kv_heads} * n.tokens, where),
        band(scores.size(), where),
        offset(n.kv_heads + 1, where),
        slots(1, where),
        token(scores.size(), where),
        extents(n.kv_heads, where),
        kept_keys(layer.keys.size() / 4, where),
        kept_values(layer.keys.size() / 4, where),
        kept_positions(scores.size() / 4, where),
        band_tokens(1, bench::memory::managed) {
    if (!layer.fits()) return;
    band_tokens[0] = n.tokens;
    seen = {{}, layer.queries, lse.data(), n.tokens};
    score_rows = purekv::dense_scores(scores.data(), 1, n.kv_heads, n.tokens);
    source = {purekv::dense_scores(band.data(), 1, n.kv_heads, n.tokens), layer.positions.data(), n.tokens,
              band_tokens.data()};
    kept = {offset.data(), token.data(), token.size(), n.kv_heads};
    small = {kept_keys.data(),
             kept_values.data(),
             kept_positions.data(),
             extents.data(),
             1,
             n.kv_heads,
             n.dim,
             kept_positions.size(),
             n.dim};
    auto const& exec = bench::device();
    std::size_t bytes = purekv::attend_workspace(exec, purekv::dense{}, layer.queries, layer.cache, taps());
    auto const cover = [&](std::size_t more) { bytes = std::max(bytes, more); };
    cover(purekv::score_workspace(exec, compressor.estimator, seen, layer.cache));
    cover(purekv::select_workspace(exec, compressor, layer.cache));
    if constexpr (cross_layer) {
      cover(purekv::score_workspace(exec, typename source_estimator<estimator>::type{}, seen, layer.cache));
      cover(purekv::accumulate_source_workspace(exec, compressor.estimator, layer.cache));
    }
    memory = bench::array<std::byte>(static_cast<std::int64_t>(bytes));
  }
  bool fits(benchmark::State& state) const {
    return layer.fits(state) && bench::fits(state, lse, scores, band, offset, token, extents, kept_keys, kept_values,
                                            kept_positions, memory);
  }
  purekv::attend_taps taps() const { return {.lse = lse.data(), .lse_stride = shape.tokens}; }
  purekv::workspace work() const { return bench::workspace_of(memory); }

  void attend() const {
    bench::must(
        purekv::attend(bench::device(), purekv::dense{}, layer.queries, layer.cache, layer.results, taps(), work()));
  }
  void score_source() const {
    if constexpr (cross_layer) {
      bench::must(purekv::score(bench::device(), typename source_estimator<estimator>::type{}, seen, layer.cache, {},
                                score_rows, work()));
      bench::must(purekv::accumulate_source(bench::device(), compressor.estimator, compressor.protect, score_rows,
                                            layer.cache, true, source, work()));
    }
  }
  void score() const {
    bench::must(purekv::score(bench::device(), compressor.estimator, seen, layer.cache,
                              cross_layer ? source : purekv::source_view{}, score_rows, work()));
  }
  void select() const {
    bench::must(purekv::select(bench::device(), compressor, score_rows, layer.cache, kept, work()));
  }
  void compact() const {
    bench::must(purekv::lay_out(bench::device(), kept, 1, shape.kv_heads, 0, extents.data(), slots.data()));
    bench::must(purekv::compact(bench::device(), kept, layer.cache, small));
  }
};

/// Scores as the CPU has them, and to the bit the selection and the cache that it makes of ours.
template <class Compressor> bool right() {
  bench::layer_shape const n{1, 8, 2, 64, 400, 400};
  attended<Compressor> const a(n, bench::memory::managed);
  a.attend();
  a.score_source();
  a.score();
  a.select();
  a.compact();
  bench::wait();
  auto const bytes_of = [](auto const& x) { return static_cast<std::size_t>(x.bytes()); };
  scratch_memory const memory(std::size_t{64} << 20);
  std::vector<float> scores(static_cast<std::size_t>(a.scores.size()));
  bench::must(purekv::score(purekv::cpu{}, a.compressor.estimator, a.seen, a.layer.cache,
                            a.cross_layer ? a.source : purekv::source_view{},
                            purekv::dense_scores(scores.data(), 1, n.kv_heads, n.tokens), memory.view()));
  if (!(bench::distance(a.scores.data(), scores.data(), a.scores.size()) < largest_error)) return false;

  attended<Compressor> const b(n, bench::memory::managed);
  bench::must(purekv::select(purekv::cpu{}, a.compressor, a.score_rows, a.layer.cache, b.kept, memory.view()));
  std::int64_t const count = a.offset[n.kv_heads];
  if (std::memcmp(a.offset.data(), b.offset.data(), bytes_of(a.offset)) != 0 ||
      std::memcmp(a.token.data(), b.token.data(), static_cast<std::size_t>(count) * sizeof(std::int32_t)) != 0)
    return false;
  purekv::lay_out(b.kept, 1, n.kv_heads, 0, b.extents.data());
  bench::must(purekv::compact(purekv::cpu{}, b.kept, a.layer.cache, b.small));
  std::size_t const kept_bytes = static_cast<std::size_t>(count * n.dim) * sizeof(bfloat16);
  return std::memcmp(a.extents.data(), b.extents.data(), bytes_of(a.extents)) == 0 &&
         std::memcmp(a.kept_keys.data(), b.kept_keys.data(), kept_bytes) == 0 &&
         std::memcmp(a.kept_values.data(), b.kept_values.data(), kept_bytes) == 0;
}

/// Microseconds of every step, and their sum as a share of the attention, which gives the lse as well.
template <class Compressor> void share_of_attention(benchmark::State& state) {
  static bool const checked = right<Compressor>();
  if (!checked) return state.SkipWithError("differs from the CPU");
  int const tokens = static_cast<int>(state.range(0)), heads = static_cast<int>(state.range(1));
  attended<Compressor> const a({1, heads, static_cast<int>(state.range(2)), 128, tokens, tokens});
  if (!a.fits(state)) return;
  a.attend();
  double total = 0;
  auto const step = [&](char const* name, auto const& f) {
    f();
    std::vector<double> times;
    for (int i = 0; i < 21; ++i) {
      bench::clear_l2();
      times.push_back(bench::seconds(f));
    }
    total += bench::median(times);
    state.counters[name] = bench::median(times) * 1e6;
  };
  step("source_us", [&] { a.score_source(); });
  step("score_us", [&] { a.score(); });
  step("select_us", [&] { a.select(); });
  step("compact_us", [&] { a.compact(); });
  double const attention = bench::run_timed(state, bench::nothing, [&] { a.attend(); });
  state.counters["attend_us"] = attention * 1e6;
  state.counters["share"] = total / attention;
}
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"tokens", "heads", "kv_heads"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (int const tokens : {8192, 32768}) b->Args({tokens, 28, 4})->Args({tokens, 32, 8});
}
BENCHMARK(share_of_attention<purekv::snapkv<purekv::ratio>>)->Apply(shapes);
BENCHMARK(share_of_attention<purekv::purekv_early<purekv::ratio>>)->Apply(shapes);
BENCHMARK(share_of_attention<purekv::purekv_paper<purekv::ratio>>)->Apply(shapes);

}  // namespace
