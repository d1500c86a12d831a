// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/atomic.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/simt/barrier.hpp>

using namespace purekv;

namespace atomic_test {

/// Counts in shared memory, adds to global memory; the block that comes last writes what all have counted.
struct histogram {
  static constexpr std::int32_t threads = 96, bins = 64;
  std::uint32_t const* data;  // [n]
  std::int32_t n;
  std::uint32_t* count;     // [bins], zero before
  std::uint32_t* largest;   // zero before
  std::uint32_t* smallest;  // all ones before
  std::uint32_t* done;      // zero before
  std::uint32_t* result;    // [bins]

  PUREKV_DEVICE void operator()() const {
    simt::shared<std::uint32_t> const mine = simt::shared_memory<std::uint32_t>();
    std::int32_t const t = simt::thread_index();
    for (std::int32_t i = t; i < bins + 3; i += threads) mine.store(i, i < bins + 2 ? 0 : ~0u);
    simt::sync();
    for (std::int32_t i = simt::block_index().x * threads + t; i < n; i += simt::grid_size().x * threads) {
      simt::atomic_add(mine + static_cast<std::int32_t>(data[i] % bins), 1);
      simt::atomic_max(mine + bins, data[i]);
      simt::atomic_min(mine + bins + 2, data[i]);
    }
    simt::sync();
    for (std::int32_t i = t; i < bins; i += threads) simt::atomic_add(count + i, mine.load(i));
    if (t == 0) simt::atomic_max(largest, mine.load(bins));
    if (t == 0) simt::atomic_min(smallest, mine.load(bins + 2));
    simt::fence();
    simt::sync();
    if (t == 0) mine.store(bins + 1, simt::atomic_add(done, 1));
    simt::sync();
    if (mine.load(bins + 1) + 1 == static_cast<std::uint32_t>(simt::grid_size().x))
      for (std::int32_t i = t; i < bins; i += threads) result[i] = simt::atomic_add(count + i, 0);
  }
};

}  // namespace atomic_test

TEST_CASE("atomics: a histogram of many blocks, and the last one knows that it is the last") {
  SEEDED(random);
  using atomic_test::histogram;
  for (std::int32_t n : {0, 1, 1000}) {
    test::array<std::uint32_t> data(static_cast<std::size_t>(n));
    std::vector<std::uint32_t> expected(histogram::bins, 0);
    std::uint32_t largest = 0, smallest = ~0u;
    for (std::uint32_t& x : data) {
      x = static_cast<std::uint32_t>(random());
      ++expected[x % histogram::bins];
      largest = std::max(largest, x);
      smallest = std::min(smallest, x);
    }
    test::array<std::uint32_t> count(histogram::bins, 0), seen(1, 0), least(1, ~0u), done(1, 0),
        result(histogram::bins, 77);
#if defined(__CUDACC__)
    test::run({5, 1, 1}, (histogram::bins + 3) * 4,
              histogram{data.data(), n, count.data(), seen.data(), least.data(), done.data(), result.data()});
#else
    simt::device device;
    device.seed = random();
    REQUIRE(simt::launch({5, 1, 1}, (histogram::bins + 3) * 4, &device,
                         histogram{data.data(), n, count.data(), seen.data(), least.data(), done.data(), result.data()})
                .ok());
#endif
    CHECK(std::vector<std::uint32_t>(result.begin(), result.end()) == expected);
    CHECK(seen[0] == largest);
    CHECK(least[0] == smallest);
    CHECK(done[0] == 5);
  }
}
