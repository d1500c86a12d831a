// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/shared.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/float16.hpp>
#include <purekv/simt/barrier.hpp>

using namespace purekv;

namespace shared_test {

/// Two arrays of different types behind each other, one of them seen as packs.
struct carve {
  static constexpr std::int32_t threads = 32;
  static constexpr std::int32_t bytes = 32 * 8 * 2 + 32 * 4;
  float* out;             // [threads]
  std::uint64_t* places;  // [2] the shared addresses, modulo 1024
  using eight = simt::pack<bfloat16, 8>;

  PUREKV_DEVICE void operator()() const {
    simt::shared<bfloat16> const x = simt::shared_memory<bfloat16>();
    simt::shared<float> const y = simt::shared_memory<float>(32 * 8 * 2);
    std::int32_t const t = simt::thread_index();
    for (std::int32_t i = 0; i < 8; ++i) (x + t * 8).store(i, bfloat16(static_cast<float>(t * 8 + i)));
    y.store(31 - t, static_cast<float>(t));
    simt::sync();
    eight const row = x.as<eight>().load((t + 1) % 32);
    float sum = 0;
    for (std::int32_t i = 0; i < 8; ++i) sum += static_cast<float>(row.at[i]);
    out[t] = sum * 1000 + y.load(t);
    if (t == 0) places[0] = reinterpret_cast<std::uint64_t>(x.data()) % 1024;
    if (t == 0) places[1] = reinterpret_cast<std::uint64_t>(y.data()) % 1024;
  }
};

}  // namespace shared_test

TEST_CASE("shared memory: carved, offset, and seen as packs") {
  test::array<float> out(32);
  test::array<std::uint64_t> places(2);
  test::run({}, shared_test::carve::bytes, shared_test::carve{out.data(), places.data()});
  for (std::int32_t t = 0; t < 32; ++t) {
    std::int32_t const row = (t + 1) % 32;  // all below 256, exact in bfloat16
    CHECK(static_cast<std::int32_t>(out[static_cast<std::size_t>(t)]) == (row * 64 + 28) * 1000 + 31 - t);
  }
  CHECK(places[1] - places[0] == 512);
#if !defined(__CUDACC__)
  CHECK(places[0] == 0);
#endif
}
