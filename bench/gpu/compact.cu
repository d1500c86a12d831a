// SPDX-License-Identifier: Apache-2.0
// How near is compaction to copying what it keeps?
#include "support/layer.cuh"

#include <purekv/compact.cuh>

#include <cstring>

namespace {

using purekv::bfloat16;

/// A fifth of a cache is kept, in place or in another cache.
struct compacted {
  bench::layer<bfloat16> layer;
  bench::fifth kept;
  bench::array<bfloat16> keys, values;
  bench::array<std::int32_t> positions;
  bench::array<purekv::extent> extents;
  bench::array<std::int64_t> slots;
  purekv::ragged_cache<bfloat16> other;
  bench::layer_shape shape;

  explicit compacted(bench::layer_shape const& n, bench::memory where = bench::memory::device)
      : layer(n, where),
        kept(n.sequences * n.kv_heads, n.tokens, where),
        keys(kept.token.size() * n.dim, where),
        values(keys.size(), where),
        positions(kept.token.size(), where),
        extents(std::int64_t{n.sequences} * n.kv_heads, where),
        slots(1, where),
        other{keys.data(), values.data(), positions.data(),  extents.data(), n.sequences,
              n.kv_heads,  n.dim,         kept.token.size(), n.dim},
        shape(n) {}
  bool fits(benchmark::State& state) const {
    return layer.fits(state) && bench::fits(state, kept.token, keys, values, positions, extents, slots);
  }
  double bytes() const {
    return 2.0 * static_cast<double>(kept.token.size()) * (2.0 * shape.dim * sizeof(bfloat16) + sizeof(std::int32_t));
  }
  void whole() const { bench::fill(layer.lengths, bench::constant<std::int32_t>{shape.tokens}); }
  template <class Exec> void in_place(Exec const& exec) const {
    bench::must(purekv::compact(exec, kept.view, layer.cache));
  }
  void to_another() const {
    bench::must(
        purekv::lay_out(bench::device(), kept.view, shape.sequences, shape.kv_heads, 0, extents.data(), slots.data()));
    bench::must(purekv::compact(bench::device(), kept.view, layer.cache, other));
  }
};

bool right() {
  bench::layer_shape const small{2, 4, 2, 72, 700, 1};
  compacted const a(small, bench::memory::managed), b(small, bench::memory::managed);
  auto const same = [](auto const& x, auto const& y) {
    return std::memcmp(x.data(), y.data(), static_cast<std::size_t>(x.bytes())) == 0;
  };
  a.to_another();
  bench::wait();
  purekv::lay_out(b.kept.view, small.sequences, small.kv_heads, 0, b.extents.data());
  bench::must(purekv::compact(purekv::cpu{}, b.kept.view, b.layer.cache, b.other));
  bool const copied =
      same(a.keys, b.keys) && same(a.values, b.values) && same(a.positions, b.positions) && same(a.extents, b.extents);
  a.in_place(bench::device());
  bench::wait();
  b.in_place(purekv::cpu{});
  return copied && same(a.layer.keys, b.layer.keys) && same(a.layer.values, b.layer.values) &&
         same(a.layer.positions, b.layer.positions) && same(a.layer.lengths, b.layer.lengths);
}

template <bool InPlace> void compact(benchmark::State& state) {
  static bool const checked = right();
  if (!checked) return state.SkipWithError("differs from the CPU");
  int const sequences = static_cast<int>(state.range(0)), kv_heads = static_cast<int>(state.range(1));
  compacted const c({sequences, kv_heads, kv_heads, 128, static_cast<int>(state.range(2)), 1});
  if (!c.fits(state)) return;
  bench::run_beside(
      state, bench::limit::copy, c.bytes(), [&] { c.whole(); },
      [&] {
        if (InPlace)
          c.in_place(bench::device());
        else
          c.to_another();
      });
}
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"sequences", "kv_heads", "tokens"})->UseManualTime();
  for (int const tokens : {8192, 32768, 131072}) b->Args({1, 4, tokens})->Args({1, 8, tokens});
  b->Args({8, 8, 32768})->Args({64, 4, 16384});
}
BENCHMARK(compact<true>)->Apply(shapes);
BENCHMARK(compact<false>)->Apply(shapes);

}  // namespace
