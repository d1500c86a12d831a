// SPDX-License-Identifier: Apache-2.0
// What does AVX512-BF16 save attention, and what does it err? Beside the float kernels, which take float queries.
// Compiled with -DPUREKV_BFLOAT16_TILES it asks the same of AMX-BF16.
#if !defined(PUREKV_BFLOAT16_TILES)
#define PUREKV_BFLOAT16_DOT
#endif
#include "support/beside.hpp"
#include "support/layer.hpp"
#include "support/scratch_memory.hpp"

#include <purekv/attend.hpp>
#include <purekv/dispatch.hpp>
#include <purekv/pattern/dense.hpp>

namespace {

using purekv::bfloat16;

void pairs(benchmark::State& state) {
  bool const ready = purekv::this_isa == purekv::isa::avx512_amx ? purekv::request_tiles()
                                                                 : purekv::this_isa == purekv::isa::avx512_bfloat16;
  if (!ready) return state.SkipWithError("not compiled for AVX512-BF16, or no AMX here");
  constexpr int heads = 8;
  int const dim = static_cast<int>(state.range(0)), tokens = static_cast<int>(state.range(1));
  random_layer<bfloat16> layer(heads, 2, dim, tokens, tokens);
  std::vector<bfloat16> q(layer.q.size());
  auto const count = static_cast<std::int64_t>(q.size());
  purekv::convert(layer.q.data(), q.data(), count);
  purekv::convert(q.data(), layer.q.data(), count);
  purekv::query_view<bfloat16> const queries{purekv::head_major<bfloat16 const>(q.data(), heads, tokens, dim),
                                             layer.queries.batch};
  purekv::dense const pattern;
  scratch_memory const work(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache));
  auto const attend = [&](auto const& rows) {
    purekv::status const s = purekv::attend(purekv::cpu{}, pattern, rows, layer.cache, layer.results, {}, work.view());
    if (!s.ok()) std::abort();
  };
  attend(layer.queries);
  state.counters["float_error"] = layer.error(pattern);
  attend(queries);
  double const error = layer.error(pattern);
  state.counters["error"] = error;
  if (!(error < 5e-6)) return state.SkipWithError("differs from double precision");
  run_against(
      state, [&] { attend(layer.queries); }, [&] { attend(queries); });
}
BENCHMARK(pairs)
    ->ArgNames({"dim", "tokens"})
    ->ArgsProduct({{64, 80, 96, 128, 256}, {4096}})
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->MinTime(1);

}  // namespace
