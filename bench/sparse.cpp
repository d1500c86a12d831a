// SPDX-License-Identifier: Apache-2.0
// Does sparse attention take its share of the pairs, and no more? Scattered blocks of 128 x 128 pairs, by density.
#include "support/beside.hpp"
#include "support/layer.hpp"

#include <purekv/attend.hpp>
#include <purekv/detail/merged_runs.hpp>
#include <purekv/pattern/dense.hpp>

#include <cstdlib>

namespace {

/// Causal blocks that a hash picks, the diagonal ones always; of all heads the same.
struct scattered_blocks {
  static constexpr std::int32_t block = 128;
  std::uint32_t below = 0;  // a block is visible if its hash is less

  bool sees(std::int32_t q_block, std::int32_t k_block) const {
    std::uint64_t x = (std::uint64_t{static_cast<std::uint32_t>(q_block)} << 32) + static_cast<std::uint32_t>(k_block);
    x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return q_block == k_block || static_cast<std::uint32_t>(x >> 32) < below;
  }
  bool visible(std::int32_t, std::int32_t q, std::int32_t k) const { return sees(q / block, k / block); }

  template <class F> void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const {
    purekv::detail::merged_runs<F> out(emit);
    for (std::int32_t k = 0; k <= q_last / block; ++k) {
      bool some = false, all = true;
      for (std::int32_t q = q_first / block; q <= q_last / block; ++q) {
        some = some || sees(q, k);
        all = all && sees(q, k);
      }
      if (some) out.add(k * block, std::min((k + 1) * block - 1, q_last), all);
    }
    out.flush();
  }
  std::int32_t tile_end(std::int32_t q) const { return (q / block + 1) * block; }

  /// Pairs that `tokens` queries see.
  double pairs(std::int32_t tokens) const {
    double seen = 0;
    for (std::int32_t q = 0; q < tokens; ++q)
      for (std::int32_t k = 0; k <= q / block; ++k)
        if (sees(q / block, k)) seen += std::min((k + 1) * block - 1, q) - k * block + 1;
    return seen;
  }
  static scattered_blocks of_density(double density, std::int32_t tokens) {
    double const all = scattered_blocks{UINT32_MAX}.pairs(tokens), diagonal = scattered_blocks{0}.pairs(tokens);
    double const share = std::max(0.0, (density * all - diagonal) / (all - diagonal));
    return {static_cast<std::uint32_t>(share * UINT32_MAX)};
  }
};
static_assert(purekv::Pattern<scattered_blocks>);

/// density: share of the causal pairs that are seen; efficiency: of the time that this share of dense attention takes.
template <class T> void scattered(benchmark::State& state) {
  int const percent = static_cast<int>(state.range(0)), tokens = static_cast<int>(state.range(1));
  random_layer<T> layer(2, 1, 128, tokens, tokens);
  scattered_blocks const pattern = scattered_blocks::of_density(percent / 100.0, tokens);
  purekv::dense const everything;
  purekv::cpu const exec;
  scratch_memory const work(std::max(purekv::attend_workspace(exec, pattern, layer.queries, layer.cache),
                                     purekv::attend_workspace(exec, everything, layer.queries, layer.cache)));
  scratch_memory const memory(purekv::plan_workspace(pattern, layer.queries, layer.cache));
  purekv::tile_plan plan;
  if (!purekv::plan(exec, pattern, layer.queries, layer.cache, memory.view(), plan).ok()) std::abort();
  auto const dense = [&] {
    if (!purekv::attend(exec, everything, layer.queries, layer.cache, layer.results, {}, work.view()).ok())
      std::abort();
  };
  auto const sparse = [&] {
    if (!purekv::attend(exec, pattern, plan, layer.queries, layer.cache, layer.results, {}, work.view()).ok())
      std::abort();
  };
  sparse();
  double const error = layer.error(pattern);
  state.counters["error"] = error;
  if (!(error < 5e-6)) return state.SkipWithError("differs from double precision");
  run_against(state, dense, sparse);
  double const density = pattern.pairs(tokens) / (0.5 * tokens * (tokens + 1.0));
  state.counters["density"] = density;
  state.counters["executed"] = purekv::executed_density(pattern, plan, layer.queries, layer.cache);
  state.counters["efficiency"] = state.counters["best"] * density;
}
BENCHMARK(scattered<purekv::half>)
    ->ArgNames({"percent", "tokens"})
    ->ArgsProduct({{5, 10, 25, 50}, {16384, 4096}})
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(9);

}  // namespace
