// SPDX-License-Identifier: Apache-2.0
// What does a second thread bring? Beside it, what it brings a loop of multiply-adds, or a read of memory.
#include "support/beside.hpp"
#include "support/layer.hpp"

#include <purekv/attend.hpp>
#include <purekv/decode.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/thread_team.hpp>

#include <chrono>
#include <cstdlib>

namespace {

constexpr int threads = 2;

/// Wall time: what two threads take together.
template <class F> double elapsed(F const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct teams {
  purekv::thread_team one{1}, two{threads};
};

/// `work(cpu)` on one thread and on two in turn: speedup and its best; machine: how many times more work of `limit()`
/// two threads do at once than one, which is 1 where they share a core.
template <class F, class Limit>
void run_threads(benchmark::State& state, teams& on, F const& work, Limit const& limit) {
  samples speedup, machine_speedup, share, rate_of_one, rate_of_two;
  for (auto _ : state) {
    double const limit_of_one = elapsed([&] { on.one.run([&](purekv::cpu exec) { limit(exec); }); });
    double const one = elapsed([&] { on.one.run(work); });
    double const two = elapsed([&] { on.two.run(work); });
    double const limit_of_two = elapsed([&] { on.two.run([&](purekv::cpu exec) { limit(exec); }); });
    double const of_machine = threads * limit_of_one / limit_of_two;
    state.SetIterationTime(two);
    speedup.add(one / two);
    rate_of_one.add(1 / one);
    rate_of_two.add(1 / two);
    machine_speedup.add(of_machine);
    share.add(one / two / of_machine);
  }
  state.counters["speedup"] = speedup.median();
  state.counters["best"] = rate_of_two.largest() / rate_of_one.largest();
  state.counters["machine"] = machine_speedup.median();
  state.counters["of_machine"] = share.median();
}

/// Same bits on one thread and two, and right.
template <class T, class F>
bool right(benchmark::State& state, teams& on, random_layer<T> const& layer, F const& work) {
  on.one.run(work);
  std::vector<float> const alone = layer.out;
  double const error = layer.error(purekv::dense{});
  on.two.run(work);
  state.counters["error"] = error;
  bool const good = error < 5e-6 && alone == layer.out;
  if (!good) state.SkipWithError("differs from double precision, or between one thread and two");
  return good;
}

template <class T> void prefill(benchmark::State& state) {
  random_layer<T> layer(8, 2, static_cast<int>(state.range(0)), 4096, 4096);
  purekv::dense const pattern;
  scratch_memory const memory(purekv::attend_workspace(purekv::cpu{0, threads}, pattern, layer.queries, layer.cache));
  auto const attend = [&](purekv::cpu exec) {
    if (!purekv::attend(exec, pattern, layer.queries, layer.cache, layer.results, {}, memory.view()).ok()) std::abort();
  };
  teams on;
  if (!right(state, on, layer, attend)) return;
  run_threads(state, on, attend, [](purekv::cpu) { machine::multiply_add_rate(4'000'000); });
}
BENCHMARK(prefill<purekv::half>)
    ->Name("threads/prefill/half")
    ->ArgName("dim")
    ->Arg(64)
    ->Arg(128)
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(9);

template <class T> void decode(benchmark::State& state) {
  random_layer<T> layer(28, 4, 128, 65536, 1);  // 128 MiB of half: from memory each time
  purekv::dense const pattern;
  scratch_memory const memory(purekv::decode_workspace(purekv::cpu{0, threads}, pattern, layer.queries, layer.cache));
  auto const step = [&](purekv::cpu exec) {
    if (!purekv::decode(exec, pattern, layer.queries, layer.cache, layer.results, {}, memory.view()).ok()) std::abort();
  };
  teams on;
  if (!right(state, on, layer, step)) return;
  machine::streaming_read const read[threads];
  run_threads(state, on, step, [&](purekv::cpu exec) { read[exec.rank()](); });
}
BENCHMARK(decode<purekv::half>)
    ->Name("threads/decode/half")
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(9);

}  // namespace
