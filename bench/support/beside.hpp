// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

/// Samples of one quantity, reported by their median.
class samples {
 public:
  void add(double x) { all_.push_back(x); }
  double median() const {
    if (all_.empty()) return 0;
    std::vector<double> sorted = all_;
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
    return sorted[sorted.size() / 2];
  }

 private:
  std::vector<double> all_;
};

template <class F> double timed(F const& f) {
  double const start = machine::seconds();
  f();
  return machine::seconds() - start;
}

/// Runs `f` between two measurements of `limit()` in every iteration, so that what disturbs the one disturbs the other,
/// and reports its rate of `work` (operations or bytes) and that rate as a share of the limit.
template <class Limit, class F>
void run_beside(benchmark::State& state, char const* unit, double work, Limit const& limit, F const& f) {
  samples rate, share, peak;
  double before = limit();
  for (auto _ : state) {
    double const time = timed(f);
    double const after = limit();
    state.SetIterationTime(time);
    rate.add(work / time);
    peak.add((before + after) / 2);
    share.add(work / time / ((before + after) / 2));
    before = after;
  }
  state.counters[std::string("G") + unit + "/s"] = rate.median() / 1e9;
  state.counters["machine_G" + std::string(unit) + "/s"] = peak.median() / 1e9;
  state.counters["share"] = share.median();
}

/// Runs `f` and `baseline` in turn and reports how many times faster `f` is (speedup), `f` being timed.
template <class Baseline, class F> void run_against(benchmark::State& state, Baseline const& baseline, F const& f) {
  samples ratio;
  for (auto _ : state) {
    double const before = timed(baseline), time = timed(f), after = timed(baseline);
    state.SetIterationTime(time);
    ratio.add((before + after) / 2 / time);
  }
  state.counters["speedup"] = ratio.median();
}
