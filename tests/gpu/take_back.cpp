// SPDX-License-Identifier: Apache-2.0
#include <purekv/take_back.cuh>
// The header under test comes first.
#include "support/gpu.hpp"

using namespace purekv;

namespace gpu_take_back_test {

template <class Owned> void check_against_cpu(test::random& random, Owned& cache, int sequences, int kv_heads) {
  fixtures::buffer<std::int32_t> tokens;
  std::vector<std::int32_t> before;
  for (int s = 0; s < sequences; ++s) {
    tokens.push_back(random.between(0, 9));
    for (int h = 0; h < kv_heads; ++h) {
      before.push_back(tokens.back() + random.between(0, 20));
      cache.view.set_length(s, h, before.back());
    }
  }
  auto const lengths = [&] {
    std::vector<std::int32_t> all;
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < kv_heads; ++h) all.push_back(cache.view.length(s, h));
    return all;
  };
  fixtures::snapshot rest;
  rest.watch(cache.keys);
  rest.watch(cache.positions);
  rest.watch(tokens);
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return take_back(exec, tokens.data(), cache.view); });
  auto const by_gpu = lengths();
  CHECK(rest.unchanged());
  for (int s = 0, i = 0; s < sequences; ++s)
    for (int h = 0; h < kv_heads; ++h, ++i) cache.view.set_length(s, h, before[static_cast<std::size_t>(i)]);
  REQUIRE(take_back(cpu{}, tokens.data(), cache.view).ok());
  CHECK(by_gpu == lengths());
}

}  // namespace gpu_take_back_test

using namespace gpu_take_back_test;

TEST_CASE("take_back on a GPU leaves the lengths that the CPU leaves") {
  SEEDED(random);
  for (auto const& [sequences, kv_heads] : std::vector<std::pair<int, int>>{{1, 1}, {3, 5}, {17, 8}}) {
    fixtures::owned_contiguous<half> contiguous(sequences, kv_heads, 30, 2);
    check_against_cpu(random, contiguous, sequences, kv_heads);
    fixtures::owned_ragged<float> ragged(
        sequences, kv_heads, std::vector<std::int32_t>(static_cast<std::size_t>(sequences * kv_heads), 30), 2, 0, 1);
    check_against_cpu(random, ragged, sequences, kv_heads);
  }
}

TEST_CASE("take_back on a GPU leaves no negative length, and adds no token") {
  SEEDED(random);
  fixtures::owned_contiguous<half> cache(2, 1, 30, 2);
  cache.view.set_length(0, 0, 3);
  cache.view.set_length(1, 0, 4);
  fixtures::buffer<std::int32_t> const tokens{5, -2};
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return take_back(exec, tokens.data(), cache.view); });
  CHECK(cache.view.length(0, 0) == 0);
  CHECK(cache.view.length(1, 0) == 4);
}

TEST_CASE("take_back on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  fixtures::owned_contiguous<half> cache(2, 2, 30, 2);
  for (int s = 0; s < 2; ++s)
    for (int h = 0; h < 2; ++h) cache.view.set_length(s, h, 7);
  fixtures::buffer<std::int32_t> const tokens{1, 2};
  test::gpu_device device(random);
  fixtures::snapshot before;
  before.watch(cache.lengths);
  auto const code = [&](auto const& change) {
    gpu exec = device.exec();
    std::int32_t const* taken = tokens.data();
    auto view = cache.view;
    change(exec, taken, view);
    return device.status_of([&](gpu const&) { return take_back(exec, taken, view); }).code;
  };
  CHECK(code([](auto& exec, auto&, auto&) { exec.device = {}; }) == errc::unsupported_device);
  CHECK(code([](auto&, auto& taken, auto&) { taken = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto& view) { view.lengths = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto& view) { view.kv_heads = 0; }) == errc::bad_shape);
  CHECK(before.unchanged());
}
