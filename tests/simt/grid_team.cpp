// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/grid_team.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/cpu.hpp>
#include <purekv/simt/shared.hpp>

using namespace purekv;

namespace grid_team_test {

/// x <- the running sums of x, in phases that read what other blocks wrote in the phase before.
struct running_sums {
  static constexpr std::int32_t threads = 64;
  std::uint32_t* arrived;
  std::uint32_t* x;
  std::uint32_t* other;
  std::int32_t n;

  PUREKV_DEVICE void operator()() const {
    simt::grid_team const team{arrived};
    std::uint32_t const* from = x;
    std::uint32_t* to = other;
    for (std::int32_t reach = 1; reach < n; reach *= 2) {
      for_share(team, n, [&](std::int32_t i) { to[i] = from[i] + (i >= reach ? from[i - reach] : 0); });
      team.sync();
      std::uint32_t* const last = to;
      to = last == x ? other : x;
      from = last;
    }
    if (from != x) for_share(team, n, [&](std::int32_t i) { x[i] = from[i]; });
  }
};

struct elements {
  float const* x;
  PUREKV_HD float operator()(std::int32_t i) const { return x[i]; }
};

/// sum over a team, and what it says of itself.
struct sum_by_grid {
  static constexpr std::int32_t threads = 96;
  std::uint32_t* arrived;
  float const* x;
  std::int32_t n;
  float* scratch;
  float* out;           // [size]
  std::int32_t* ranks;  // [size]

  PUREKV_DEVICE void operator()() const {
    simt::grid_team const team{arrived};
    out[team.rank()] = sum(team, n, elements{x}, scratch);
    ranks[team.rank()] = team.size();
  }
};

/// Each block has shared memory of its own, which lasts beyond a barrier of the grid.
struct keep_shared {
  static constexpr std::int32_t threads = 32;
  std::uint32_t* arrived;
  std::int32_t* out;  // [blocks, 32]

  PUREKV_DEVICE void operator()() const {
    auto const mine = simt::shared_memory<std::int32_t>();
    std::int32_t const t = simt::thread_index(), b = simt::block_index().x;
    mine.store(t, b * 100 + t);
    simt::grid_team{arrived}.sync();
    out[b * threads + t] = mine.load(threads - 1 - t);
  }
};

template <class K> void run_together(simt::grid blocks, std::size_t shared_bytes, K kernel) {
  test::array<std::uint32_t> arrived(1, 0xdeadbeefu);
  kernel.arrived = arrived.data();
#if defined(__CUDACC__)
  REQUIRE(simt::launch_together(blocks, shared_bytes, nullptr, kernel, arrived.data()).ok());
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
#else
  simt::device device;
  device.seed = test::random()() % 4 == 0 ? 0 : test::random()();
  CAPTURE(device.seed);
  status const s = simt::launch_together(blocks, shared_bytes, &device, kernel, arrived.data());
  INFO(device.found().text);
  REQUIRE(s.ok());
#endif
}

}  // namespace grid_team_test

using namespace grid_team_test;

TEST_CASE("grid_team: phase after phase, blocks read what others wrote") {
  for (std::int32_t n : {0, 1, 2, 63, 64, 65, 1000, 3333})
    for (std::int32_t blocks : {1, 2, 5, 8}) {
      CAPTURE(n);
      CAPTURE(blocks);
      test::array<std::uint32_t> x(static_cast<std::size_t>(n)), other(static_cast<std::size_t>(n));
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<std::uint32_t>(i % 7 + 1);
      run_together({.x = blocks}, 0, running_sums{nullptr, x.data(), other.data(), n});
      bool right = true;
      std::uint32_t expected = 0;
      for (std::uint32_t i = 0; i < x.size(); ++i) right = right && x[i] == (expected += i % 7 + 1);
      CHECK(right);
    }
}

TEST_CASE("grid_team: sums have the same bits for a grid as for one thread") {
  SEEDED(random);
  simt::grid const blocks = {.x = 2, .y = 1, .z = 3};
  for (std::int32_t n : {0, 1, 1024, 5000}) {
    constexpr std::size_t threads = 6 * sum_by_grid::threads;
    test::array<float> x(static_cast<std::size_t>(n)), out(threads), scratch(static_cast<std::size_t>(sum_scratch(n)));
    test::array<std::int32_t> sizes(threads);
    for (float& y : x) y = random.normal();
    float const expected = sum(cpu{}, n, elements{x.data()}, scratch.data());
    run_together(blocks, 0, sum_by_grid{nullptr, x.data(), n, scratch.data(), out.data(), sizes.data()});
    for (float y : out) REQUIRE(std::memcmp(&y, &expected, 4) == 0);
    for (std::int32_t size : sizes) REQUIRE(size == static_cast<std::int32_t>(threads));
  }
}

TEST_CASE("grid_team: shared memory stays a block's own") {
  test::array<std::int32_t> out(6 * 32);
  run_together({.x = 6}, 32 * sizeof(std::int32_t), keep_shared{nullptr, out.data()});
  for (std::int32_t b = 0; b < 6; ++b)
    for (std::int32_t t = 0; t < 32; ++t) CHECK(out[static_cast<std::size_t>(b * 32 + t)] == b * 100 + 31 - t);
}

TEST_CASE("launch_together: as many blocks as fit, and no more") {
  std::int32_t multiprocessors = 4;
#if defined(__CUDACC__)
  REQUIRE(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess);
  simt::stream const stream = nullptr;
#else
  simt::device device;
  simt::stream const stream = &device;
#endif
  std::int32_t const fit = simt::blocks_together<keep_shared>(multiprocessors, 128);
  REQUIRE(fit >= multiprocessors);
  test::array<std::int32_t> out(static_cast<std::size_t>(fit + 1) * 32, -1);
  test::array<std::uint32_t> arrived(1);
  keep_shared const kernel{arrived.data(), out.data()};
  CHECK(simt::launch_together({.x = fit + 1}, 128, stream, kernel, arrived.data()).code == errc::launch_failed);
#if defined(__CUDACC__)
  (void)cudaGetLastError();
#endif
  for (std::int32_t x : out) REQUIRE(x == -1);
  run_together({.x = fit}, 128, keep_shared{nullptr, out.data()});
  for (std::int32_t b = 0; b < fit; ++b) CHECK(out[static_cast<std::size_t>(b * 32)] == b * 100 + 31);
  CHECK(simt::launch_together({.x = 0}, 128, stream, kernel, arrived.data()).ok());
  CHECK(simt::launch_together({.x = -1}, 128, stream, kernel, arrived.data()).code == errc::bad_shape);
  CHECK(simt::blocks_together<keep_shared>(multiprocessors, std::size_t{1} << 30) == 0);
#if defined(__CUDACC__)
  (void)cudaGetLastError();
#endif
}

#if !defined(__CUDACC__)
namespace grid_team_test {

template <class F> struct planted {
  static constexpr std::int32_t threads = 64;
  F body;
  void operator()() const { body(); }
};

/// What the simulated device says of four blocks, in the usual order, and in ten others the same kind of bug.
template <class F> std::string found_in(F const& body, simt::bug kind) {
  simt::device device;
  auto const run = [&] {
    std::uint32_t arrived = 0;
    status const s = simt::launch_together({.x = 4}, 1024, &device, planted<F>{body}, &arrived);
    INFO(device.found().text);
    CHECK(device.found().kind == kind);
    CHECK(s.ok() == (kind == simt::bug::none));
    return device.found().text;
  };
  std::string const first = run();
  test::random random;
  for (int i = 0; i < 10; ++i) {
    device.seed = random();
    CAPTURE(device.seed);
    run();
  }
  return first;
}

void expect(std::string const& text, std::initializer_list<char const*> words) {
  INFO(text);
  for (std::string const word : words) {
    CAPTURE(word);
    CHECK(text.find(word) != std::string::npos);
  }
}

}  // namespace grid_team_test

TEST_CASE("deadlock: a block goes, and the others wait for it at the barrier of the grid") {
  auto const body = [](bool fixed) {
    return [=] {
      simt::grid_team{nullptr}.sync();
      if (!fixed && simt::block_index().x == 2) return;
      simt::grid_team{nullptr}.sync();
    };
  };
  expect(
      found_in(body(false), simt::bug::deadlock),
      {"block 3: no thread can go on: threads 0-63 wait in grid_team::sync at grid_team.cpp:", "block 2 has finished"});
  found_in(body(true), simt::bug::none);
}

TEST_CASE("deadlock: some warps of a block do not come to the barrier of the grid") {
  expect(found_in(
             [] {
               if (simt::block_index().x != 1 || simt::warp_index() == 0) simt::grid_team{nullptr}.sync();
             },
             simt::bug::deadlock),
         {"block 1: no thread can go on: threads 0-31 wait in grid_team::sync", "threads 32-63 have finished",
          "the grid's barrier has seen 32 of 64 threads"});
  expect(found_in(
             [] {
               if (simt::block_index().x != 1 || simt::warp_index() == 0)
                 simt::grid_team{nullptr}.sync();
               else
                 simt::sync();
             },
             simt::bug::deadlock),
         {"block 1: no thread can go on: threads 0-31 wait in grid_team::sync", "threads 32-63 wait in sync at",
          "barrier 0 has seen 32 of 64 threads"});
}

TEST_CASE("divergence: lanes of a warp do not come to the barrier of the grid together") {
  found_in(
      [] {
        if (simt::lane_index() < 16)
          simt::grid_team{nullptr}.sync();
        else
          simt::sync();
      },
      simt::bug::divergence);
}

TEST_CASE("race: between threads of a block the barrier of the grid orders as sync does") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<float>();
      std::int32_t const t = simt::thread_index();
      s.store(t, 1);
      if (fixed) simt::grid_team{nullptr}.sync();
      (void)s.load((t + 32) % 64);
      simt::grid_team{nullptr}.sync();
    };
  };
  auto const code = [&](bool fixed) {
    simt::device device;
    std::uint32_t arrived = 0;
    (void)simt::launch_together({.x = 4}, 1024, &device, planted<decltype(body(true))>{body(fixed)}, &arrived);
    return device.found().kind;
  };
  CHECK(code(false) != simt::bug::none);
  CHECK(code(true) == simt::bug::none);
}
#endif
