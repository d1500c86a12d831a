// SPDX-License-Identifier: Apache-2.0
// How near is decoding to reading its cache once?
#include "../support/scratch_memory.hpp"
#include "support/layer.cuh"

#include <purekv/decode.cuh>
#include <purekv/decode.hpp>
#include <purekv/pattern/dense.hpp>

namespace {

using purekv::bfloat16;

constexpr double largest_error = 0.01;  // of 16-bit results, relative L2

/// The memory of a layer as a ragged cache: heads hold from half to one and a half of the average.
struct uneven {
  bench::array<purekv::extent> extents;
  purekv::ragged_cache<bfloat16> cache;

  uneven(bench::layer<bfloat16> const& layer, bench::layer_shape const& n)
      : extents(std::int64_t{n.sequences} * n.kv_heads, bench::memory::managed) {
    std::int64_t const rows = extents.size(), slots = rows * n.tokens;
    std::int64_t begin = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      std::int32_t const length = rows == 1 ? n.tokens : static_cast<std::int32_t>(n.tokens / 2 + n.tokens * i / rows);
      extents[i] = {begin, length, length};
      begin += length;
    }
    // Positions that ascend over all slots ascend in every head; the queries come after them.
    bench::fill(layer.positions, bench::counting{INT32_MAX});
    for (std::int32_t& position : layer.query_positions) position = static_cast<std::int32_t>(slots);
    bench::wait();
    cache = {layer.keys.data(),
             layer.values.data(),
             layer.positions.data(),
             extents.data(),
             n.sequences,
             n.kv_heads,
             n.dim,
             slots,
             n.dim};
  }
  double tokens() const {
    double sum = 0;
    for (purekv::extent const& e : extents) sum += e.length;
    return sum;
  }
};

template <class C> struct step {
  bench::layer<bfloat16> const& layer;
  C cache;
  bench::array<std::byte> work;

  step(bench::layer<bfloat16> const& l, C const& c)
      : layer(l),
        cache(c),
        work(static_cast<std::int64_t>(purekv::decode_workspace(bench::device(), purekv::dense{}, l.queries, c))) {}
  void operator()() const {
    bench::must(purekv::decode(bench::device(), purekv::dense{}, layer.queries, cache, layer.results, {},
                               bench::workspace_of(work)));
  }
};

/// Whether the CPU comes to the same results for a small cache.
template <class C> bool right(bench::layer<bfloat16> const& layer, C const& cache) {
  step<C> const decode(layer, cache);
  decode();
  bench::wait();
  std::vector<float> expected(static_cast<std::size_t>(layer.out.size()));
  auto const& rows = layer.results;
  scratch_memory const memory(purekv::decode_workspace(purekv::cpu{}, purekv::dense{}, layer.queries, cache));
  bench::must(purekv::decode(purekv::cpu{}, purekv::dense{}, layer.queries, cache,
                             purekv::head_major(expected.data(), rows.heads, rows.tokens, rows.dim), {},
                             memory.view()));
  return bench::distance(layer.out.data(), expected.data(), layer.out.size()) < largest_error;
}

bool right() {
  bench::layer_shape const small{2, 8, 2, 128, 700, 1};
  bench::layer<bfloat16> const layer(small, bench::memory::managed);
  if (!right(layer, layer.cache)) return false;
  uneven const ragged(layer, small);
  return right(layer, ragged.cache);
}

/// One token of every sequence. compression 1: all tokens are cached; 5: a fifth of them, heads unequal.
void decode(benchmark::State& state) {
  static bool const checked = right();
  if (!checked) return state.SkipWithError("differs from the CPU");
  int const sequences = static_cast<int>(state.range(0)), compression = static_cast<int>(state.range(2));
  int const heads = static_cast<int>(state.range(3)), kv_heads = static_cast<int>(state.range(4));
  bench::layer_shape const n{sequences, heads, kv_heads, 128, static_cast<int>(state.range(1)) / compression, 1};
  bench::layer<bfloat16> const layer(n);
  if (!layer.fits(state)) return;
  double const row_bytes = 2.0 * n.dim * sizeof(bfloat16);
  auto const run = [&](auto const& cache, double tokens) {
    step const one(layer, cache);
    if (!bench::fits(state, one.work)) return;
    bench::run_beside(state, bench::limit::read, tokens * row_bytes, bench::nothing, one);
  };
  if (compression == 1) return run(layer.cache, static_cast<double>(layer.positions.size()));
  uneven const ragged(layer, n);
  run(ragged.cache, ragged.tokens());
}
BENCHMARK(decode)
    ->ArgNames({"sequences", "tokens", "compression", "heads", "kv_heads"})
    ->ArgsProduct({{1, 8, 64}, {16384, 65536, 131072}, {1, 5}, {28}, {4}})
    ->ArgsProduct({{1, 8}, {16384, 65536, 131072}, {1, 5}, {32}, {8}})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
