// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/copy.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/simt/barrier.hpp>

using namespace purekv;

namespace copy_test {

/// Copies of Bytes bytes each, of which the source gives `given`; then out[i] = what arrived.
template <std::int32_t Bytes> struct copy_some {
  static constexpr std::int32_t threads = 64;
  unsigned char const* from;  // [threads, Bytes]
  std::int32_t const* given;  // [threads]
  unsigned char* out;         // [threads, Bytes]

  PUREKV_DEVICE void operator()() const {
    simt::shared<unsigned char> const s = simt::shared_memory<unsigned char>();
    std::int32_t const t = simt::thread_index(), other = threads - 1 - t;
    simt::cp_async<Bytes>(s + t * Bytes, given[t] == 0 ? nullptr : from + t * Bytes, given[t]);
    simt::cp_async_commit();
    simt::cp_async_wait<0>();
    simt::sync();
    for (std::int32_t i = 0; i < Bytes; ++i) out[other * Bytes + i] = s.load(other * Bytes + i);
  }
};

/// A ring of three buffers: while one is read, two copies are under way. out = sum of all rows.
struct ring {
  static constexpr std::int32_t threads = 32, buffers = 3;
  using four = simt::pack<std::int32_t, 4>;
  four const* from;  // [rows, threads]
  four* out;         // [threads]
  std::int32_t rows;

  PUREKV_DEVICE void operator()() const {
    simt::shared<four> const s = simt::shared_memory<four>();
    std::int32_t const t = simt::thread_index();
    auto const fetch = [&](std::int32_t row) {
      if (row < rows) simt::cp_async<16>(s + (row % buffers * threads + t), from + row * threads + t);
      simt::cp_async_commit();
    };
    four sum = {};
    for (std::int32_t r = 0; r < buffers - 1; ++r) fetch(r);
    for (std::int32_t r = 0; r < rows; ++r) {
      fetch(r + buffers - 1);
      simt::cp_async_wait<buffers - 1>();
      simt::sync();
      four const x = s.load(r % buffers * threads + (t + 1) % threads);
      for (std::int32_t i = 0; i < 4; ++i) sum.at[i] += x.at[i];
      simt::sync();
    }
    simt::store_global(out + t, sum);
  }
};

struct through_registers {
  static constexpr std::int32_t threads = 32;
  using four = simt::pack<float, 4>;
  four const* from;
  four* to;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const t = simt::thread_index();
    simt::store_global(to + t, simt::load_global(from + (t ^ 1)));
  }
};

/// What lies in the target of a copy before and after the wait.
struct peek {
  static constexpr std::int32_t threads = 32;
  float const* from;
  float *before, *after;
  PUREKV_DEVICE void operator()() const {
    simt::shared<float> const s = simt::shared_memory<float>() + simt::thread_index();
    s.store(0, 1);
    simt::cp_async<4>(s, from);
    simt::cp_async_commit();
    before[simt::thread_index()] = *s.data();
    simt::cp_async_wait<0>();
    after[simt::thread_index()] = s.load(0);
  }
};

template <std::int32_t Bytes> void check_copies(test::random& random) {
  constexpr std::size_t n = copy_some<Bytes>::threads * Bytes;
  test::array<unsigned char> from(n), out(n, 0xee);
  test::array<std::int32_t> given(copy_some<Bytes>::threads);
  for (unsigned char& x : from) x = static_cast<unsigned char>(random());
  for (std::int32_t& x : given) x = random.between(0, Bytes);
  given[0] = 0;
  given[1] = Bytes;
  test::run({}, n, copy_some<Bytes>{from.data(), given.data(), out.data()});
  for (std::size_t i = 0; i < n; ++i)
    REQUIRE(out[i] == (static_cast<std::int32_t>(i % Bytes) < given[i / Bytes] ? from[i] : 0));
}

}  // namespace copy_test

TEST_CASE("cp_async: 4, 8 and 16 bytes, fewer given, zeros for the rest") {
  SEEDED(random);
  copy_test::check_copies<4>(random);
  copy_test::check_copies<8>(random);
  copy_test::check_copies<16>(random);
}

TEST_CASE("cp_async: groups arrive in order") {
  SEEDED(random);
  using copy_test::ring;
  for (std::int32_t rows : {0, 1, 2, 3, 11}) {
    test::array<ring::four> from(static_cast<std::size_t>(rows * ring::threads)), out(ring::threads);
    for (ring::four& x : from)
      for (std::int32_t& y : x.at) y = random.between(-1000, 1000);
    test::run({}, ring::buffers * ring::threads * 16, ring{from.data(), out.data(), rows});
    for (std::size_t t = 0; t < ring::threads; ++t)
      for (std::size_t i = 0; i < 4; ++i) {
        std::int32_t sum = 0;
        for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
          sum += from[r * ring::threads + (t + 1) % ring::threads].at[i];
        REQUIRE(out[t].at[i] == sum);
      }
  }
}

#if !defined(__CUDACC__)
TEST_CASE("cp_async: nothing has arrived before the wait") {
  float const from = 2;
  std::vector<float> before(32), after(32);
  test::run({}, 128, copy_test::peek{&from, before.data(), after.data()});
  CHECK(before == std::vector<float>(32, 1));
  CHECK(after == std::vector<float>(32, 2));
}
#endif

TEST_CASE("global memory: 16 bytes through registers") {
  SEEDED(random);
  using copy_test::through_registers;
  test::array<through_registers::four> from(32), to(32);
  for (through_registers::four& x : from)
    for (float& y : x.at) y = random.normal();
  test::run({}, 0, through_registers{from.data(), to.data()});
  for (std::size_t t = 0; t < 32; ++t) REQUIRE(std::memcmp(&to[t], &from[t ^ 1], 16) == 0);
}
