// SPDX-License-Identifier: Apache-2.0
#include <purekv/append.cuh>
// The header under test comes first.
#include "support/gpu.hpp"

using namespace purekv;

namespace gpu_append_test {

struct sizes {
  int kv_heads, dim, value_dim;
  std::vector<int> cached, added;  // per sequence
};

template <class TI, class Owned> class problem {
 public:
  using element = typename decltype(Owned::view)::element;

  problem(test::random& random, sizes const& n)
      : total(std::accumulate(n.added.begin(), n.added.end(), 0)),
        k(n.kv_heads, total, n.dim, fixtures::order::token_major, random.between(0, 1) * 3),
        v(n.kv_heads, total, n.value_dim == 0 ? n.dim : n.value_dim, fixtures::order::head_major),
        cache(make(random, n)) {
    k.fill_normal(random);
    v.fill_normal(random);
    offset.push_back(0);
    for (std::size_t s = 0; s < n.added.size(); ++s) {
      std::int32_t position = 0;
      for (int t = 0; t < n.cached[s]; ++t) {
        position += random.between(1, 3);
        for (int h = 0; h < n.kv_heads; ++h)
          fixtures::push(
              cache.view, static_cast<int>(s), h, position, [&](int) { return random.normal(); },
              [&](int) { return random.normal(); });
      }
      for (int t = 0; t < n.added[s]; ++t) positions.push_back(position += random.between(1, 3));
      offset.push_back(offset.back() + n.added[s]);
    }
  }

  batch_view batch() const { return {static_cast<std::int32_t>(offset.size() - 1), offset.data(), positions.data()}; }

  int total;
  fixtures::owned_rows<TI> k, v;
  Owned cache;
  fixtures::buffer<std::int32_t> offset, positions;

 private:
  static Owned make(test::random& random, sizes const& n) {
    std::vector<std::int32_t> capacities;
    for (std::size_t s = 0; s < n.added.size(); ++s)
      for (int h = 0; h < n.kv_heads; ++h) capacities.push_back(n.cached[s] + n.added[s] + random.between(0, 2));
    int const sequences = static_cast<int>(n.added.size());
    if constexpr (requires(Owned & o) { o.lengths; })
      return Owned(sequences, n.kv_heads, *std::max_element(capacities.begin(), capacities.end()), n.dim,
                   fixtures::order::head_major, 0, fixtures::beyond::nan, n.value_dim);
    else
      return Owned(sequences, n.kv_heads, capacities, n.dim, 0, 1, fixtures::beyond::nan, n.value_dim);
  }
};

/// Appends by the CPU to a copy, which must then be the same to the bit.
template <class TI, class Owned> void check_against_cpu(test::random& random, sizes const& n) {
  CAPTURE(n.dim);
  CAPTURE(n.value_dim);
  problem<TI, Owned> p(random, n);
  auto const keys = p.cache.keys, values = p.cache.values;
  auto const positions = p.cache.positions;
  std::vector<std::int32_t> before, after;
  auto const lengths = [&] {
    std::vector<std::int32_t> all;
    for (int s = 0; s < p.cache.view.sequences; ++s)
      for (int h = 0; h < n.kv_heads; ++h) all.push_back(p.cache.view.length(s, h));
    return all;
  };
  before = lengths();
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return append(exec, p.k.rows(), p.v.rows(), p.batch(), p.cache.view); });
  after = lengths();
  auto const keys_by_gpu = p.cache.keys, values_by_gpu = p.cache.values;
  auto const positions_by_gpu = p.cache.positions;

  std::copy(keys.begin(), keys.end(), p.cache.keys.begin());
  std::copy(values.begin(), values.end(), p.cache.values.begin());
  std::copy(positions.begin(), positions.end(), p.cache.positions.begin());
  for (int s = 0, i = 0; s < p.cache.view.sequences; ++s)
    for (int h = 0; h < n.kv_heads; ++h, ++i) p.cache.view.set_length(s, h, before[static_cast<std::size_t>(i)]);
  REQUIRE(append(cpu{}, p.k.rows(), p.v.rows(), p.batch(), p.cache.view).ok());
  CHECK(after == lengths());
  auto const same = [](auto const& a, auto const& b) {
    return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
  };
  CHECK(same(keys_by_gpu, p.cache.keys));
  CHECK(same(values_by_gpu, p.cache.values));
  CHECK(same(positions_by_gpu, p.cache.positions));
}

}  // namespace gpu_append_test

using namespace gpu_append_test;

TEST_CASE("append on a GPU leaves what the CPU leaves, to the bit") {
  SEEDED(random);
  std::vector<sizes> const all = {{1, 64, 0, {0}, {1}},
                                  {2, 72, 40, {3, 0, 5}, {17, 0, 33}},
                                  {3, 1, 0, {7}, {0}},
                                  {4, 33, 7, {0, 90}, {100, 1}},
                                  {2, 128, 0, {15, 16}, {16, 15}}};
  for (sizes const& n : all) {
    check_against_cpu<half, fixtures::owned_contiguous<half>>(random, n);
    check_against_cpu<float, fixtures::owned_ragged<bfloat16>>(random, n);
    check_against_cpu<float, fixtures::owned_ragged<float>>(random, n);
  }
}

TEST_CASE("append on a GPU drops tokens for which there is no slot") {
  SEEDED(random);
  problem<half, fixtures::owned_ragged<half>> p(random, {1, 16, 0, {2}, {5}});
  p.cache.extents[0].capacity = 4;
  auto const keys = p.cache.keys;
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return append(exec, p.k.rows(), p.v.rows(), p.batch(), p.cache.view); });
  CHECK(p.cache.view.length(0, 0) == 4);
  std::size_t const end = static_cast<std::size_t>(p.cache.extents[0].begin + 4) * 16;
  CHECK(std::memcmp(keys.data() + end, p.cache.keys.data() + end, (keys.size() - end) * sizeof(half)) == 0);
}

TEST_CASE("append on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  problem<half, fixtures::owned_contiguous<half>> p(random, {2, 16, 0, {2}, {5}});
  test::gpu_device device(random);
  fixtures::snapshot before;
  before.watch(p.cache.keys);
  before.watch(p.cache.positions);
  before.watch(p.cache.lengths);
  auto const code = [&](auto const& change) {
    auto k = p.k.rows(), v = p.v.rows();
    auto batch = p.batch();
    auto cache = p.cache.view;
    gpu exec = device.exec();
    change(exec, k, v, batch, cache);
    return device.status_of([&](gpu const&) { return append(exec, k, v, batch, cache); }).code;
  };
  CHECK(code([](auto& exec, auto&, auto&, auto&, auto&) { exec.device = {}; }) == errc::unsupported_device);
  CHECK(code([](auto& exec, auto&, auto&, auto&, auto&) { exec.device.major = 7; }) == errc::unsupported_device);
  CHECK(code([](auto&, auto& k, auto&, auto&, auto&) { k.data = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto& v, auto&, auto&) { v.dim = 8; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, auto&, auto& batch, auto&) { batch.positions = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& cache) { cache.lengths = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& cache) { cache.kv_heads = 0; }) == errc::bad_shape);
  CHECK(before.unchanged());
}
