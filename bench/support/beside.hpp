// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.hpp"
#include "matrix_product.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

/// Samples of one quantity, reported by their median and their largest.
class samples {
 public:
  void add(double x) { all_.push_back(x); }
  double median() const {
    if (all_.empty()) return 0;
    std::vector<double> sorted = all_;
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
    return sorted[sorted.size() / 2];
  }
  double largest() const { return all_.empty() ? 0 : *std::max_element(all_.begin(), all_.end()); }

 private:
  std::vector<double> all_;
};

template <class F> double timed(F const& f) {
  double const start = machine::seconds();
  f();
  return machine::seconds() - start;
}

/// Runs `f` between two measurements of `limit()` in every iteration, so that what disturbs the one disturbs the other,
/// and reports its rate of `work` (operations or bytes) and that rate as a share of the limit: median and best.
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
  state.counters["best"] = share.largest();
}

/// Beside multiply-adds in registers, and in of_product as a share of Eigen's matrix product.
template <class F> void run_beside_peak(benchmark::State& state, double operations, F const& f) {
  samples product;
  run_beside(
      state, "flop", operations,
      [&] {
        product.add(machine::matrix_product_rate());
        return machine::multiply_add_rate();
      },
      f);
  state.counters["of_product"] = state.counters["Gflop/s"] * 1e9 / product.median();
}

/// Runs `f` and `baseline` in turn and reports how many times faster `f` is (speedup: median, and the shortest time of
/// the one over the shortest of the other as `best`), `f` being timed.
template <class Baseline, class F> void run_against(benchmark::State& state, Baseline const& baseline, F const& f) {
  samples ratio, rate, baseline_rate;
  double before = timed(baseline);
  baseline_rate.add(1 / before);
  for (auto _ : state) {
    double const time = timed(f), after = timed(baseline);
    state.SetIterationTime(time);
    ratio.add((before + after) / 2 / time);
    rate.add(1 / time);
    baseline_rate.add(1 / after);
    before = after;
  }
  state.counters["speedup"] = ratio.median();
  state.counters["best"] = rate.largest() / baseline_rate.largest();
}
