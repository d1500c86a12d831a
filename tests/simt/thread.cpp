// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/thread.hpp>
// The header under test comes first.
#include "support/simt.hpp"

using namespace purekv;

namespace thread_test {

struct write_indices {
  static constexpr std::int32_t threads = 96;
  std::int32_t* out;  // [grid.z, grid.y, grid.x, threads, 6]

  PUREKV_DEVICE void operator()() const {
    simt::grid const block = simt::block_index(), size = simt::grid_size();
    std::int32_t const number = (block.z * size.y + block.y) * size.x + block.x;
    std::int32_t* const here = out + (number * threads + simt::thread_index()) * 6;
    here[0] = simt::lane_index();
    here[1] = simt::warp_index();
    here[2] = block.x;
    here[3] = block.y;
    here[4] = block.z;
    here[5] = simt::block_threads();
  }
};

}  // namespace thread_test

TEST_CASE("thread: every thread of every block runs once and knows where it is") {
  using thread_test::write_indices;
  constexpr std::int32_t x = 3, y = 2, z = 4;
  test::array<std::int32_t> out(x * y * z * write_indices::threads * 6, -1);
  test::run({x, y, z}, 0, write_indices{out.data()});
  std::size_t i = 0;
  for (std::int32_t k = 0; k < z; ++k)
    for (std::int32_t j = 0; j < y; ++j)
      for (std::int32_t h = 0; h < x; ++h)
        for (std::int32_t t = 0; t < write_indices::threads; ++t)
          for (std::int32_t expected : {t % 32, t / 32, h, j, k, write_indices::threads}) REQUIRE(out[i++] == expected);
}
