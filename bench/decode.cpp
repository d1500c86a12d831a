// SPDX-License-Identifier: Apache-2.0
// How near is decoding to reading its cache once, and to what this machine can multiply?
#include "support/beside.hpp"
#include "support/layer.hpp"
#include "support/rotated.hpp"

#include <purekv/decode.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>

namespace {

constexpr double largest_error = 5e-6;

/// One step of a layer; counters: share of the streaming read and of the multiply-add peak, both
/// measured right before and after each call, and the error against double precision.
template <class T> void decode(benchmark::State& state) {
  int const group = static_cast<int>(state.range(0)), dim = static_cast<int>(state.range(1));
  int const tokens = static_cast<int>(state.range(2)), queries = static_cast<int>(state.range(3));
  int const kv_heads = static_cast<int>(state.range(4));
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
  state.counters["best_of_read"] = read_share.largest();
  state.counters["of_peak"] = peak_share.median();
  state.counters["error"] = error;
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"group", "dim", "tokens", "queries", "kv_heads"});
  b->Args({7, 128, 16384, 1, 4});
  for (int group : {1, 4, 7, 8}) b->Args({group, 128, 8192, 1, 8});
  b->Args({3, 64, 8192, 1, 8})->Args({4, 128, 8192, 4, 8});
  for (int dim : {72, 80, 96, 192, 256}) b->Args({4, dim, 8192, 1, 8});
  b->Unit(benchmark::kMillisecond)->UseManualTime()->MinTime(0.5);
}
BENCHMARK(decode<purekv::half>)->Apply(shapes);
BENCHMARK(decode<purekv::bfloat16>)->Apply(shapes);
BENCHMARK(decode<float>)->Apply(shapes);

/// A cache of T against one of floats, both read from memory.
template <class T> void decode_against_float(benchmark::State& state) {
  random_layer<T> layer(28, 4, 128, 16384, 1);
  random_layer<float> floats(28, 4, 128, 16384, 1);
  purekv::dense const pattern;
  scratch_memory const work(std::max(purekv::decode_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache),
                                     purekv::decode_workspace(purekv::cpu{}, pattern, floats.queries, floats.cache)));
  rotated<T> caches(layer);
  rotated<float> float_caches(floats);
  auto const step = [&](auto& from, auto const& cache) {
    if (!purekv::decode(purekv::cpu{}, pattern, from.queries, cache, from.results, {}, work.view()).ok()) std::abort();
  };
  step(layer, layer.cache);
  double const error = layer.error(pattern);
  state.counters["error"] = error;
  if (!(error < largest_error)) return state.SkipWithError("differs from double precision");
  run_against(
      state, [&] { step(floats, float_caches.next()); }, [&] { step(layer, caches.next()); });
}
BENCHMARK(decode_against_float<purekv::half>)->Unit(benchmark::kMillisecond)->UseManualTime();
BENCHMARK(decode_against_float<purekv::bfloat16>)->Unit(benchmark::kMillisecond)->UseManualTime();

/// The first tokens of each head of a layer, of heads in turn 0.5, 0.8, 1.2 and 1.5 times 1 / times of them; copies
/// of them as of the whole.
template <class T> class rotated_ragged {
 public:
  rotated_ragged(random_layer<T> const& layer, int times) : layer_(layer) {
    std::int64_t slots = 0;
    for (int h = 0; h < layer.cache.kv_heads; ++h) {
      int const tenths[] = {5, 8, 12, 15};
      std::int32_t const length = layer.cache.tokens * tenths[h % 4] / (10 * times);
      extents_.push_back({slots, length, length});
      slots += length;
      for (std::int32_t t = 0; t < length; ++t) positions_.push_back(t);
    }
    std::size_t const copies =
        5 * machine::last_level_cache() / 2 / (2 * static_cast<std::size_t>(slots * layer.cache.dim) * sizeof(T)) + 2;
    std::vector<T> keys, values;
    for (int h = 0; h < layer.cache.kv_heads; ++h) {
      auto const run = layer.cache.run(0, h, 0);
      std::ptrdiff_t const count = std::ptrdiff_t{length(h)} * layer.cache.dim;
      keys.insert(keys.end(), run.keys, run.keys + count);
      values.insert(values.end(), run.values, run.values + count);
    }
    keys_.assign(copies, keys);
    values_.assign(copies, values);
  }
  std::int32_t length(int head) const { return extents_[static_cast<std::size_t>(head)].length; }
  purekv::ragged_cache<T> next() {
    turn_ = (turn_ + 1) % keys_.size();
    int const dim = layer_.cache.dim;
    return {keys_[turn_].data(),
            values_[turn_].data(),
            positions_.data(),
            extents_.data(),
            1,
            layer_.cache.kv_heads,
            dim,
            static_cast<std::int64_t>(positions_.size()),
            dim};
  }

 private:
  random_layer<T> const& layer_;
  std::vector<purekv::extent> extents_;
  std::vector<std::int32_t> positions_;
  std::vector<std::vector<T>> keys_, values_;
  std::size_t turn_ = 0;
};

/// What the oracle is told of such a cache.
template <class T> struct first_of_head {
  rotated_ragged<T> const& caches;
  int group;
  bool visible(int head, int, int k) const { return k < caches.length(head / group); }
};

void ragged_gain(benchmark::State& state) {
  int const heads = 28, kv_heads = 4;
  random_layer<purekv::half> layer(heads, kv_heads, 128, 16384, 1);
  purekv::dense const everything;
  scratch_memory const work(purekv::decode_workspace(purekv::cpu{}, everything, layer.queries, layer.cache));
  rotated<purekv::half> full(layer);
  rotated_ragged<purekv::half> small(layer, static_cast<int>(state.range(0)));
  auto const step = [&](auto const& cache) {
    if (!purekv::decode(purekv::cpu{}, everything, layer.queries, cache, layer.results, {}, work.view()).ok())
      std::abort();
  };
  step(small.next());
  double const error = layer.error(first_of_head<purekv::half>{small, heads / kv_heads});
  state.counters["error"] = error;
  if (!(error < largest_error)) return state.SkipWithError("differs from double precision");
  run_against(
      state, [&] { step(full.next()); }, [&] { step(small.next()); });
}
BENCHMARK(ragged_gain)->ArgName("times")->Arg(5)->Unit(benchmark::kMillisecond)->UseManualTime();

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
