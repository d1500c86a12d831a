// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/barrier.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/simt/shared.hpp>

using namespace purekv;

namespace barrier_test {

/// Reverses every row of `threads` numbers, by way of shared memory.
struct reverse_rows {
  static constexpr std::int32_t threads = 160;
  std::int32_t* data;
  std::int32_t rows;

  PUREKV_DEVICE void operator()() const {
    simt::shared<std::int32_t> const s = simt::shared_memory<std::int32_t>();
    std::int32_t const t = simt::thread_index();
    for (std::int32_t r = 0; r < rows; ++r) {
      s.store(t, data[r * threads + t]);
      simt::sync();
      data[r * threads + t] = s.load(threads - 1 - t);
      simt::sync();
    }
  }
};

/// One warp makes what three others take: buffers change hands at two named barriers, as where a warp loads and others
/// compute.
struct hand_over {
  static constexpr std::int32_t threads = 128;
  std::int32_t* out;  // [rounds, 96]
  std::int32_t rounds;

  PUREKV_DEVICE void operator()() const {
    constexpr std::int32_t full = 1, empty = 2;
    simt::shared<std::int32_t> const s = simt::shared_memory<std::int32_t>();
    std::int32_t const t = simt::thread_index();
    for (std::int32_t r = 0; r < rounds; ++r) {
      if (t < 32) {
        if (r > 0) simt::sync(empty, threads);
        for (std::int32_t i = t; i < 96; i += 32) s.store(i, r * 1000 + i);
        simt::arrive(full, threads);
      } else {
        simt::sync(full, threads);
        out[r * 96 + t - 32] = s.load(127 - t);
        if (r + 1 < rounds) simt::arrive(empty, threads);
      }
    }
  }
};

/// The lanes of half a warp turn their values round among themselves, each half for itself.
struct half_warps {
  static constexpr std::int32_t threads = 64;
  std::int32_t* out;

  PUREKV_DEVICE void operator()() const {
    simt::shared<std::int32_t> const s = simt::shared_memory<std::int32_t>();
    std::int32_t const t = simt::thread_index();
    s.store(t, t);
    simt::sync_warp(simt::lane_index() < 16 ? 0x0000ffffu : 0xffff0000u);
    out[t] = s.load(t ^ 15);
  }
};

}  // namespace barrier_test

TEST_CASE("sync: what was written before can be read after") {
  using barrier_test::reverse_rows;
  SEEDED(random);
  constexpr std::int32_t rows = 7, n = reverse_rows::threads;
  test::array<std::int32_t> data(rows * n);
  // Twice: the simulated device runs it in two orders, and two reversals would hide one that does nothing.
  for (std::int32_t& x : data) x = random.between(0, 1000000);
  std::vector<std::int32_t> const before(data.begin(), data.end());
#if defined(__CUDACC__)
  test::run({}, n * 4, reverse_rows{data.data(), rows});
#else
  simt::device device;
  device.seed = random();
  REQUIRE(simt::launch({}, n * 4, &device, reverse_rows{data.data(), rows}).ok());
#endif
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t t = 0; t < n; ++t) REQUIRE(data[r * n + t] == before[r * n + n - 1 - t]);
}

TEST_CASE("named barriers: a buffer changes hands between warps") {
  constexpr std::int32_t rounds = 5;
  test::array<std::int32_t> out(rounds * 96, -1);
  test::run({}, 96 * 4, barrier_test::hand_over{out.data(), rounds});
  for (std::int32_t r = 0; r < rounds; ++r)
    for (std::int32_t t = 0; t < 96; ++t) REQUIRE(out[static_cast<std::size_t>(r * 96 + t)] == r * 1000 + 95 - t);
}

TEST_CASE("sync_warp: for the lanes of a mask") {
  test::array<std::int32_t> out(64, -1);
  test::run({}, 64 * 4, barrier_test::half_warps{out.data()});
  for (std::int32_t t = 0; t < 64; ++t) REQUIRE(out[static_cast<std::size_t>(t)] == (t ^ 15));
}
