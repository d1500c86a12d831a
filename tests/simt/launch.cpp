// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/launch.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/simt/atomic.hpp>

using namespace purekv;

namespace launch_test {

struct count {
  static constexpr std::int32_t threads = 64;
  static constexpr std::int32_t min_blocks = 2;
  std::uint32_t* threads_run;
  std::uint32_t step;

  PUREKV_DEVICE void operator()() const { simt::atomic_add(threads_run, step); }
};

struct no_threads {
  PUREKV_DEVICE void operator()() const {}
};

struct owns_memory {
  static constexpr std::int32_t threads = 32;
  std::vector<int> memory;
};

}  // namespace launch_test

using launch_test::count;

TEST_CASE("launch: parameters travel with the kernel") {
  test::array<std::uint32_t> ran(1, 0);
  test::run({5, 3, 2}, 0, count{ran.data(), 2});
  CHECK(ran[0] == 5 * 3 * 2 * 64 * 2 * test::launches);
}

TEST_CASE("launch: a kernel is a value that says how many threads a block has") {
  static_assert(simt::Kernel<count>);
  static_assert(!simt::Kernel<launch_test::no_threads>);
  static_assert(!simt::Kernel<launch_test::owns_memory>);
}

TEST_CASE("launch: what the device cannot do is refused and nothing runs") {
  test::array<std::uint32_t> ran(1, 0);
  count const kernel = {ran.data(), 1};
#if defined(__CUDACC__)
  simt::stream const on = nullptr;
#else
  simt::device device;
  simt::stream const on = &device;
  CHECK(simt::launch({}, 0, nullptr, kernel).code == errc::null_data);
#endif
  for (simt::grid const size : {simt::grid{-1, 1, 1}, simt::grid{1, -1, 1}, simt::grid{1, 1, -1},
                                simt::grid{1, 65536, 1}, simt::grid{1, 1, 65536}}) {
    status const s = simt::launch(size, 0, on, kernel);
    CHECK(s.code == errc::bad_shape);
    CHECK(std::string(s.message).find("launch: a grid has at most 65535") == 0);
  }
  status const s = simt::launch({}, 228 * 1024, on, kernel);
  CHECK(s.code == errc::launch_failed);
  CHECK(std::string(s.message).find("launch: more shared memory") == 0);
  for (simt::grid const size : {simt::grid{0, 1, 1}, simt::grid{1, 0, 1}, simt::grid{1, 1, 0}})
    CHECK(simt::launch(size, 0, on, kernel).ok());
  CHECK(ran[0] == 0);
}
