// SPDX-License-Identifier: Apache-2.0
// How near is appending a prompt, or one token of many sequences, to copying it?
#include "support/layer.cuh"

#include <purekv/append.cuh>

#include <cstring>

namespace {

using purekv::bfloat16;

/// New rows for every sequence of an empty cache.
struct appended {
  bench::layer<bfloat16> layer;
  bench::array<bfloat16> k, v;
  purekv::rows_view<bfloat16 const> new_keys, new_values;

  appended(bench::layer_shape const& n, bench::memory where = bench::memory::device)
      : layer(n, where), k(std::int64_t{n.sequences} * n.kv_heads * n.queries * n.dim, where), v(k.size(), where) {
    if (k.data() == nullptr || v.data() == nullptr) return;
    bench::fill(k, bench::normal<bfloat16>{11});
    bench::fill(v, bench::normal<bfloat16>{13});
    bench::wait();
    new_keys = purekv::token_major<bfloat16 const>(k.data(), n.kv_heads, n.sequences * n.queries, n.dim);
    new_keys.token_stride = std::ptrdiff_t{n.kv_heads} * n.dim;
    new_values = new_keys;
    new_values.data = v.data();
  }
  void forget() const { bench::fill(layer.lengths, bench::constant<std::int32_t>{0}); }
  template <class Exec> void append(Exec const& exec) const {
    bench::must(purekv::append(exec, new_keys, new_values, layer.queries.batch, layer.cache));
  }
};

bool right() {
  bench::layer_shape const small{2, 4, 2, 72, 40, 40};
  appended const a(small, bench::memory::managed), b(small, bench::memory::managed);
  a.forget();
  b.forget();
  a.append(bench::device());
  bench::wait();
  b.append(purekv::cpu{});
  auto const same = [](auto const& x, auto const& y) {
    return std::memcmp(x.data(), y.data(), static_cast<std::size_t>(x.bytes())) == 0;
  };
  return same(a.layer.keys, b.layer.keys) && same(a.layer.values, b.layer.values) &&
         same(a.layer.positions, b.layer.positions) && same(a.layer.lengths, b.layer.lengths);
}

void append(benchmark::State& state) {
  static bool const checked = right();
  if (!checked) return state.SkipWithError("differs from the CPU");
  int const sequences = static_cast<int>(state.range(0)), tokens = static_cast<int>(state.range(1));
  appended const a({sequences, 28, 4, 128, tokens, tokens});
  if (!a.layer.fits(state) || !bench::fits(state, a.k, a.v)) return;
  bench::run_beside(
      state, bench::limit::copy, 4.0 * static_cast<double>(a.k.bytes()), [&] { a.forget(); },
      [&] { a.append(bench::device()); });
}
BENCHMARK(append)->ArgNames({"sequences", "tokens"})->Args({1, 8192})->Args({1, 32768})->Args({64, 1})->UseManualTime();

}  // namespace
