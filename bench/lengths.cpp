// SPDX-License-Identifier: Apache-2.0
// Are there lengths or dims at which attention falls off a cliff? Powers of two, and what lies beside them.
#include "support/beside.hpp"
#include "support/layer.hpp"

#include <purekv/attend.hpp>
#include <purekv/pattern/dense.hpp>

#include <cstdlib>

namespace {

/// A prompt of `tokens`, of the longest ones the last 1,024 queries; short ones are attended to many times over.
template <class T> void attention(benchmark::State& state) {
  int const dim = static_cast<int>(state.range(0)), tokens = static_cast<int>(state.range(1));
  random_layer<T> layer(4, 1, dim, tokens, tokens > 16384 ? 1024 : tokens);
  purekv::dense const pattern;
  scratch_memory const work(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache));
  auto const once = [&] {
    if (!purekv::attend(purekv::cpu{}, pattern, layer.queries, layer.cache, layer.results, {}, work.view()).ok())
      std::abort();
  };
  once();
  double const error = layer.error(pattern, 12);  // of long prompts relative to the little that is left of the mean
  state.counters["error"] = error;
  if (!(error < 2e-5)) return state.SkipWithError("differs from double precision");
  double const operations = 4.0 * dim * purekv::causal_pairs(layer.queries, layer.cache);
  double const wanted = 5e8, most = 1000;  // operations that are enough to time, and calls
  int const repeats = static_cast<int>(std::clamp(wanted / operations, 1.0, most));
  run_beside(
      state, "flop", operations * repeats, [] { return machine::multiply_add_rate(500'000); },
      [&] {
        for (int r = 0; r < repeats; ++r) once();
      });
}

void lengths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"dim", "tokens"});
  for (int n : {1, 2, 3, 5, 8, 13, 16, 31, 32, 33, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 383, 511, 512, 513})
    b->Args({128, n});
  for (int n : {700, 1000, 1023, 1024, 1025, 1500, 2000, 2047, 2048, 2049, 3000, 4095, 4096, 4097, 6000})
    b->Args({128, n});
  b->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(5);
}
BENCHMARK(attention<purekv::half>)->Name("lengths")->Apply(lengths);

void long_lengths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"dim", "tokens"});
  for (int n : {8192, 8193, 12345, 16384, 32768, 65535, 65536}) b->Args({128, n});
  b->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(3);
}
BENCHMARK(attention<purekv::half>)->Name("lengths")->Apply(long_lengths);

void dims(benchmark::internal::Benchmark* b) {
  b->ArgNames({"dim", "tokens"});
  for (int dim : {16, 17, 24, 31, 32, 33, 40, 48, 56, 63, 64, 65, 72, 80, 88, 96, 100, 112, 120, 127, 128, 129})
    b->Args({dim, 2048});
  for (int dim : {144, 160, 176, 191, 192, 193, 208, 224, 240, 255, 256}) b->Args({dim, 2048});
  b->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(5);
}
BENCHMARK(attention<float>)->Name("dims/float")->Apply(dims);
BENCHMARK(attention<purekv::half>)->Name("dims/half")->Apply(dims);

}  // namespace
