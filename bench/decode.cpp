// SPDX-License-Identifier: Apache-2.0
// How near is decoding to reading its cache once, and to what this machine can multiply?
#include "support/beside.hpp"
#include "support/layer.hpp"

#include <purekv/decode.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>

namespace {

constexpr double largest_error = 5e-6;

/// Copies of one layer's cache, more than twice the last-level cache in all, so that each call reads from memory.
template <class T> class rotated {
 public:
  explicit rotated(random_layer<T> const& layer) : layer_(layer) {
    std::size_t const bytes = 2 * layer.keys.size() * sizeof(T);
    std::size_t const copies = 5 * machine::last_level_cache() / 2 / bytes + 2;
    for (std::size_t i = 0; i < copies; ++i) {
      keys_.push_back(layer.keys);
      values_.push_back(layer.values);
    }
  }
  purekv::contiguous_cache<T> next() {
    purekv::contiguous_cache<T> cache = layer_.cache;
    cache.keys = keys_[turn_].data();
    cache.values = values_[turn_].data();
    turn_ = (turn_ + 1) % keys_.size();
    return cache;
  }

 private:
  random_layer<T> const& layer_;
  std::vector<std::vector<T>> keys_, values_;
  std::size_t turn_ = 0;
};

/// One step of a layer with 8 KV heads; counters: share of the streaming read and of the multiply-add peak, both
/// measured right before and after each call, and the error against double precision.
template <class T> void decode(benchmark::State& state) {
  int const group = static_cast<int>(state.range(0)), dim = static_cast<int>(state.range(1));
  int const tokens = static_cast<int>(state.range(2)), queries = static_cast<int>(state.range(3)), kv_heads = 8;
  random_layer<T> layer(group * kv_heads, kv_heads, dim, tokens, queries);
  purekv::dense const pattern;
  scratch_memory const work(purekv::decode_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache));
  auto const step = [&](purekv::contiguous_cache<T> const& cache) {
    if (!purekv::decode(purekv::cpu{}, pattern, layer.queries, cache, layer.results, {}, work.view()).ok())
      std::abort();
  };
  step(layer.cache);
  double const error = layer.error(pattern);
  if (!(error < largest_error)) state.SkipWithError("differs from double precision");

  rotated<T> caches(layer);
  machine::streaming_read const read;
  double const bytes = 2.0 * static_cast<double>(layer.keys.size() * sizeof(T));
  double const operations = 4.0 * dim * purekv::causal_pairs(layer.queries, layer.cache);
  samples time, read_share, peak_share, machine_read, machine_peak;
  double read_before = read(), peak_before = machine::multiply_add_rate(200'000);
  for (auto _ : state) {
    auto const cache = caches.next();
    double const seconds = timed([&] { step(cache); });
    double const peak_after = machine::multiply_add_rate(200'000), read_after = read();
    state.SetIterationTime(seconds);
    time.add(seconds);
    machine_read.add((read_before + read_after) / 2);
    machine_peak.add((peak_before + peak_after) / 2);
    read_share.add(bytes / seconds / ((read_before + read_after) / 2));
    peak_share.add(operations / seconds / ((peak_before + peak_after) / 2));
    read_before = read_after;
    peak_before = peak_after;
  }
  state.counters["GB/s"] = bytes / time.median() / 1e9;
  state.counters["Gflop/s"] = operations / time.median() / 1e9;
  state.counters["machine_GB/s"] = machine_read.median() / 1e9;
  state.counters["machine_Gflop/s"] = machine_peak.median() / 1e9;
  state.counters["of_read"] = read_share.median();
  state.counters["of_peak"] = peak_share.median();
  state.counters["error"] = error;
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"group", "dim", "tokens", "queries"});
  for (int group : {1, 4, 7, 8}) b->Args({group, 128, 8192, 1});
  b->Args({3, 64, 8192, 1})->Args({4, 128, 8192, 4});
  for (int dim : {72, 80, 96, 192, 256}) b->Args({4, dim, 8192, 1});
  b->Unit(benchmark::kMillisecond)->UseManualTime()->MinTime(0.5);
}
BENCHMARK(decode<purekv::half>)->Apply(shapes);
BENCHMARK(decode<purekv::bfloat16>)->Apply(shapes);
BENCHMARK(decode<float>)->Apply(shapes);

/// What a cache that is `times` smaller gains, what a pattern that shows 1 / times of the keys gains, and what the mass
/// tap costs.
enum class variant { compressed, windowed, mass };

template <variant what> void gain(benchmark::State& state) {
  int const tokens = 16384, kv_heads = 4, heads = 28, dim = 128, times = static_cast<int>(state.range(0));
  random_layer<purekv::half> full(heads, kv_heads, dim, tokens, 1), small(heads, kv_heads, dim, tokens / times, 1);
  purekv::dense const everything;
  purekv::sinks_and_window const window{4, tokens / times - 4};
  std::vector<float> mass(static_cast<std::size_t>(kv_heads * tokens));
  purekv::attend_taps taps;
  if (what == variant::mass) taps.mass = purekv::dense_scores(mass.data(), 1, kv_heads, tokens);
  scratch_memory const work(purekv::decode_workspace(purekv::cpu{}, everything, full.queries, full.cache, taps));
  rotated<purekv::half> full_caches(full), small_caches(small);
  auto const run = [&](auto const& pattern, auto& layer, auto& caches, purekv::attend_taps const& wanted) {
    if (!purekv::decode(purekv::cpu{}, pattern, layer.queries, caches.next(), layer.results, wanted, work.view()).ok())
      std::abort();
  };
  run_against(
      state, [&] { run(everything, full, full_caches, {}); },
      [&] {
        if constexpr (what == variant::compressed) run(everything, small, small_caches, {});
        if constexpr (what == variant::windowed) run(window, full, full_caches, {});
        if constexpr (what == variant::mass) run(everything, full, full_caches, taps);
      });
}
BENCHMARK(gain<variant::compressed>)->ArgName("times")->Arg(5)->Unit(benchmark::kMillisecond)->UseManualTime();
BENCHMARK(gain<variant::windowed>)->ArgName("times")->Arg(5)->Unit(benchmark::kMillisecond)->UseManualTime();
BENCHMARK(gain<variant::mass>)->ArgName("times")->Arg(1)->Unit(benchmark::kMillisecond)->UseManualTime();

}  // namespace
