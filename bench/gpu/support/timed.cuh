// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "limits.cuh"

#include <benchmark/benchmark.h>

#include <string>

namespace bench {

/// The limit that an operation is held against, and what is counted of it.
enum class limit { read, copy, multiply };

inline double measure(limit what) {
  return what == limit::read ? read_bandwidth() : what == limit::copy ? copy_bandwidth() : multiply_rate();
}

/// Times `work` on the device, once per iteration. Before it come `prepare`, and a read of other memory than the
/// L2 holds, which is so long that the device has all launches of `work` before it begins.
template <class Prepare, class F> double run_timed(benchmark::State& state, Prepare const& prepare, F const& work) {
  prepare();
  work();
  std::vector<double> all;
  for (auto _ : state) {
    prepare();
    clear_l2();
    double const time = seconds(work);
    state.SetIterationTime(time);
    all.push_back(time);
  }
  return median(all);
}

/// The same, and its rate of `count` bytes or operations beside the limit, measured before and after.
template <class Prepare, class F>
void run_beside(benchmark::State& state, limit what, double count, Prepare const& prepare, F const& work) {
  double const before = measure(what);
  double const time = run_timed(state, prepare, work);
  double const machine = (before + measure(what)) / 2;
  std::string const unit = what == limit::multiply ? "Tflop/s" : "GB/s";
  double const scale = what == limit::multiply ? 1e12 : 1e9;
  state.counters["us"] = time * 1e6;
  state.counters[unit] = count / time / scale;
  if (machine == 0) return;
  state.counters["machine_" + unit] = machine / scale;
  state.counters["share"] = count / time / machine;
}

inline constexpr auto nothing = [] {};

/// Whether everything could be allocated; the benchmark is skipped otherwise.
template <class... A> bool fits(benchmark::State& state, A const&... arrays) {
  bool const all = ((arrays.data() != nullptr) && ...);
  if (!all) state.SkipWithError("the device has too little memory");
  return all;
}

}  // namespace bench
