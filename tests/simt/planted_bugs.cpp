// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/atomic.hpp>
#include <purekv/simt/copy.hpp>
#include <purekv/simt/launch.hpp>
#include <purekv/simt/tensor_core.hpp>
#include <purekv/simt/warp.hpp>

#include "support/random.hpp"

// Kernels with a bug each, and what the simulated device says of it. Beside each the same kernel without the bug.

using namespace purekv;
using simt::bug;

namespace {

template <std::int32_t Threads, class F> struct kernel {
  static constexpr std::int32_t threads = Threads;
  F body;
  void operator()() const { body(); }
};

template <std::int32_t Threads, class F> kernel<Threads, F> made_of(F body) { return {body}; }

/// Runs the body in two blocks of Threads threads with 1 KiB of shared memory, in the usual order, and in ten others,
/// which must find a bug of the same kind.
template <std::int32_t Threads, class F> simt::report found_in(F const& body) {
  simt::device device;
  auto const run = [&] {
    status const s = simt::launch({.x = 2}, 1024, &device, made_of<Threads>(body));
    CHECK(s.ok() == (device.found().kind == bug::none));
    return device.found();
  };
  simt::report const first = run();
  test::random random;
  for (int i = 0; i < 10; ++i) {
    device.seed = random();
    CAPTURE(device.seed);
    simt::report const other = run();
    INFO(other.text);
    CHECK(other.kind == first.kind);
  }
  return first;
}

void expect(simt::report const& found, bug kind, std::initializer_list<char const*> words = {}) {
  INFO(found.text);
  CHECK(found.kind == kind);
  for (std::string const word : words) {
    CAPTURE(word);
    CHECK(found.text.find(word) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("race: a neighbour's value is read without a barrier") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<float>();
      std::int32_t const t = simt::thread_index();
      s.store(t, 0);
      simt::sync();
      s.store(t, 1);
      if (fixed) simt::sync();
      (void)s.load((t + 32) % 64);
    };
  };
  expect(found_in<64>(body(false)), bug::race,
         {" writes shared bytes ", " read at planted_bugs.cpp:", "no barrier", "block 0: "});
  expect(found_in<64>(body(true)), bug::none);
}

TEST_CASE("race: within a warp only sync_warp orders, no shuffle does") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<half>();
      std::int32_t const t = simt::thread_index();
      s.store(t, half(1.0f));
      (void)simt::shuffle(t, 0);
      if (fixed) simt::sync_warp();
      (void)s.load(t ^ 1);
    };
  };
  expect(found_in<32>(body(false)), bug::race, {" reads shared bytes", " wrote at planted_bugs.cpp:"});
  expect(found_in<32>(body(true)), bug::none);
}

TEST_CASE("race: shared memory is filled again while others still read it") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<float>();
      std::int32_t const t = simt::thread_index();
      for (int round = 0; round < 3; ++round) {
        if (t == 5) s.store(0, 1);
        simt::sync();
        (void)s.load(0);
        if (fixed) simt::sync();
      }
    };
  };
  expect(found_in<64>(body(false)), bug::race, {"thread 5 writes", " read at"});
  expect(found_in<64>(body(true)), bug::none);
}

TEST_CASE("race: two threads write the same place") {
  auto const body = [](bool fixed) {
    return [=] {
      if (fixed ? simt::thread_index() == 3 : simt::thread_index() % 32 == 3) simt::shared_memory<float>().store(7, 1);
    };
  };
  expect(found_in<64>(body(false)), bug::race, {"thread 35 writes", "thread 3 wrote"});
  expect(found_in<64>(body(true)), bug::none);
}

TEST_CASE("race: halves of one word are places of their own") {
  expect(found_in<64>([] { simt::shared_memory<half>().store(simt::thread_index(), half(1.0f)); }), bug::none);
}

TEST_CASE("race: a named barrier orders only those who come") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<float>();
      std::int32_t const t = simt::thread_index();
      if (t == 0) s.store(0, 1);
      simt::sync();
      if (t < 64) {
        if (t == 0) s.store(0, 2);
        simt::sync(1, 64);
        (void)s.load(0);
      } else if (!fixed) {
        (void)s.load(0);
      }
    };
  };
  expect(found_in<96>(body(false)), bug::race);
  expect(found_in<96>(body(true)), bug::none);
}

TEST_CASE("race: who only arrives at a barrier has not waited for it") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<float>();
      std::int32_t const t = simt::thread_index();
      s.store(t, 0);
      simt::sync();
      if (t < 32) {
        s.store(t, 1);
        simt::arrive(2, 64);
        if (!fixed) (void)s.load(t + 32);
      } else {
        s.store(t, 2);
        simt::sync(2, 64);
        (void)s.load(t - 32);
      }
    };
  };
  expect(found_in<64>(body(false)), bug::race);
  expect(found_in<64>(body(true)), bug::none);
}

TEST_CASE("race: a counter is read while others still count") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<std::uint32_t>();
      if (simt::thread_index() == 0) s.store(0, 0);
      simt::sync();
      simt::atomic_add(s, 1);
      if (fixed) simt::sync();
      (void)s.load(0);
    };
  };
  expect(found_in<64>(body(false)), bug::race);
  expect(found_in<64>(body(true)), bug::none);
}

TEST_CASE("race: a counter counts on while a thread that one of the counting ones has waited for reads it") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<std::uint32_t>();
      std::int32_t const t = simt::thread_index();
      if (t == 0) s.store(0, 0);
      simt::sync();
      if (t == 0) (void)s.load(0);
      if (t < 2) simt::sync_warp(3u);
      if (t == 1) simt::atomic_add(s, 1);
      (void)simt::any(true);
      if (t == (fixed ? 1 : 2)) simt::atomic_add(s, 1);
    };
  };
  expect(found_in<32>(body(false)), bug::race, {"thread 2 changes", "thread 0 read at"});
  expect(found_in<32>(body(true)), bug::none);
}

TEST_CASE("race: ldmatrix reads what other lanes have just written") {
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<half>();
      std::int32_t const lane = simt::lane_index();
      for (std::int32_t i = 0; i < 8; ++i) s.store(lane * 8 + i, half(1.0f));
      if (fixed) simt::sync_warp();
      (void)simt::ldmatrix<4>(s + lane * 8);
    };
  };
  expect(found_in<32>(body(false)), bug::race, {"thread 1 reads shared bytes 4-5", "thread 0 wrote"});
  expect(found_in<32>(body(true)), bug::none);
}

TEST_CASE("uninitialised: shared memory that nobody has written") {
  expect(found_in<32>([] {
           auto const s = simt::shared_memory<float>();
           std::int32_t const t = simt::thread_index();
           if (t < 31) s.store(t, 1);
           simt::sync();
           (void)s.load(t);
         }),
         bug::uninitialised, {"thread 31 reads shared bytes 124-127"});
}

TEST_CASE("uninitialised: a counter that begins anywhere") {
  expect(found_in<32>([] { simt::atomic_add(simt::shared_memory<std::uint32_t>(), 1); }), bug::uninitialised,
         {"thread 0 changes shared bytes 0-3"});
}

TEST_CASE("uninitialised: what the block before has left is not this block's") {
  expect(found_in<32>([] {
           auto const s = simt::shared_memory<float>();
           if (simt::block_index().x == 0)
             s.store(simt::thread_index(), 1);
           else
             (void)s.load(simt::thread_index());
         }),
         bug::uninitialised, {"block 1: thread 0 reads"});
}

TEST_CASE("deadlock: a barrier that not all reach") {
  expect(found_in<128>([] {
           if (simt::warp_index() == 2) return;
           simt::sync();
         }),
         bug::deadlock,
         {"threads 0-63, 96-127 wait in sync at planted_bugs.cpp:", "barrier 0 has seen 96 of 128 threads",
          "threads 64-95 have finished"});
}

TEST_CASE("deadlock: two barriers wait for each other") {
  expect(found_in<64>([] {
           if (simt::warp_index() == 0) {
             simt::sync(1, 64);
             simt::sync(2, 64);
           } else {
             simt::sync(2, 64);
             simt::sync(1, 64);
           }
         }),
         bug::deadlock,
         {"threads 0-31 wait in sync at", "threads 32-63 wait in sync at", "barrier 1 has seen 32 of 64",
          "barrier 2 has seen 32 of 64"});
}

TEST_CASE("deadlock: a barrier of other threads than the others think, and one that does not exist") {
  expect(found_in<96>([] { simt::sync(1, simt::warp_index() == 0 ? 64 : 96); }), bug::deadlock, {"others to one of"});
  expect(found_in<32>([] { simt::sync(simt::thread_index() < 31 ? 1 : 2, 32); }), bug::divergence, {"barrier 2"});
  expect(found_in<96>([] { simt::sync(16, 96); }), bug::deadlock, {"barrier 16"});
  expect(found_in<96>([] { simt::sync(1, 33); }), bug::deadlock, {"of 33 threads"});
}

TEST_CASE("divergence: half a warp at a barrier") {
  expect(found_in<64>([] {
           if (simt::lane_index() < 16) simt::sync();
         }),
         bug::divergence, {"threads 0-15", "finished"});
  expect(found_in<64>([] {
           if (simt::lane_index() < 16)
             simt::sync();
           else
             simt::sync();
         }),
         bug::divergence, {"thread 16 is in sync, threads 0-15 in sync at"});
}

TEST_CASE("divergence: a warp-wide operation in a branch") {
  expect(found_in<64>([] {
           if (simt::lane_index() != 3) (void)simt::warp_sum(1.0f);
         }),
         bug::divergence, {"thread 3", "finished"});
  expect(found_in<32>([] {
           if (simt::lane_index() < 8)
             (void)simt::shuffle(1, 0);
           else
             simt::sync();
         }),
         bug::divergence, {"thread 8 is in sync, threads 0-7 in shuffle at"});
  expect(found_in<32>([] {
           simt::c_fragment c = {};
           if (simt::lane_index() < 8)
             c = simt::mma<half>({}, {}, c);
           else
             c = simt::mma<half>({}, {}, c);
         }),
         bug::divergence, {"in mma"});
}

TEST_CASE("divergence: masks") {
  // Each half of the warp for itself is fine, and some lanes may meet before all do.
  expect(found_in<32>([] {
           if (simt::lane_index() % 3 == 0) (void)simt::shuffle(1, 0, 0x49249249u);
           (void)simt::any(true);
         }),
         bug::none);
  expect(found_in<32>([] { (void)simt::ballot(true, simt::lane_index() < 16 ? 0x0000ffffu : 0xffff0000u); }),
         bug::none);
  expect(found_in<32>([] { (void)simt::ballot(true, simt::lane_index() < 16 ? 0x0001ffffu : 0xffff0000u); }),
         bug::divergence);
  expect(found_in<32>([] { (void)simt::ballot(true, 0x0000ffffu); }), bug::divergence,
         {"thread 16 is not in the mask"});
  expect(found_in<32>([] {
           if (simt::lane_index() < 16) (void)simt::shuffle_xor(1, 16, 0x0000ffffu);
         }),
         bug::divergence, {"takes no part"});
}

TEST_CASE("in flight: a copy is read before it has been waited for") {
  static float const source[64 * 4] = {};
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<float>();
      std::int32_t const t = simt::thread_index();
      for (std::int32_t i = 0; i < 4; ++i) simt::cp_async<4>(s + (t * 4 + i), source + t * 4 + i);
      simt::cp_async_commit();
      if (fixed) simt::cp_async_wait<0>();
      (void)s.load(t * 4);
    };
  };
  expect(found_in<64>(body(false)), bug::in_flight,
         {"thread 0 reads shared bytes 0-3", "cp.async of thread 0 at planted_bugs.cpp:"});
  expect(found_in<64>(body(true)), bug::none);
}

TEST_CASE("in flight: the newest group is not what was waited for") {
  static float const source[2] = {};
  auto const body = [](std::int32_t read) {
    return [=] {
      auto const s = simt::shared_memory<float>() + simt::thread_index() * 2;
      for (std::int32_t i = 0; i < 2; ++i) {
        simt::cp_async<4>(s + i, source + i);
        simt::cp_async_commit();
      }
      simt::cp_async_wait<1>();
      (void)s.load(read);
    };
  };
  expect(found_in<32>(body(1)), bug::in_flight);
  expect(found_in<32>(body(0)), bug::none);
}

TEST_CASE("in flight: a copy that belongs to no group is not waited for") {
  static float const source = 0;
  expect(found_in<32>([] {
           auto const s = simt::shared_memory<float>() + simt::thread_index();
           simt::cp_async<4>(s, &source);
           simt::cp_async_wait<0>();
           (void)s.load(0);
         }),
         bug::in_flight);
}

TEST_CASE("in flight: the target is written meanwhile") {
  static float const source = 0;
  expect(found_in<32>([] {
           auto const s = simt::shared_memory<float>() + simt::thread_index();
           simt::cp_async<4>(s, &source);
           s.store(0, 1);
         }),
         bug::in_flight, {"writes"});
  expect(found_in<32>([] {
           auto const s = simt::shared_memory<float>() + simt::thread_index();
           simt::cp_async<4>(s, &source);
           simt::cp_async<4>(s, &source);
         }),
         bug::in_flight, {"copies to"});
}

TEST_CASE("race: a copy that only its own thread has waited for") {
  static float const source[32] = {};
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<float>();
      std::int32_t const t = simt::thread_index();
      simt::cp_async<4>(s + t, source + t);
      simt::cp_async_commit();
      simt::sync_warp();
      simt::cp_async_wait<0>();
      (void)simt::any(true);  // all lanes have waited, but memory is not in order for the others
      if (fixed) simt::sync_warp();
      (void)s.load(t ^ 1);
    };
  };
  expect(found_in<32>(body(false)), bug::race, {" reads shared bytes", " wrote at planted_bugs.cpp:"});
  expect(found_in<32>(body(true)), bug::none);
}

TEST_CASE("in flight: a barrier before the wait does not help the others") {
  static float const source[32] = {};
  expect(found_in<32>([] {
           auto const s = simt::shared_memory<float>();
           std::int32_t const t = simt::thread_index();
           simt::cp_async<4>(s + t, source + t);
           simt::cp_async_commit();
           simt::sync();
           if (t == 0) (void)s.load(31);
           simt::sync();
           simt::cp_async_wait<0>();
         }),
         bug::in_flight, {"thread 0 reads", "thread 31"});
}

TEST_CASE("race: a copy into what others still read") {
  static float const source = 0;
  auto const body = [](bool fixed) {
    return [=] {
      auto const s = simt::shared_memory<float>();
      if (simt::thread_index() == 0) s.store(0, 1);
      simt::sync();
      (void)s.load(0);
      if (fixed) simt::sync();
      if (simt::thread_index() == 40) simt::cp_async<4>(s, &source);
    };
  };
  expect(found_in<64>(body(false)), bug::race, {"thread 40 copies to"});
  expect(found_in<64>(body(true)), bug::none);
}

TEST_CASE("out of bounds: beyond the shared memory of the launch") {
  auto const s = [] { return simt::shared_memory<float>(); };
  expect(found_in<32>([=] { s().store(256, 1); }), bug::out_of_bounds, {"thread 0 writes 4 bytes at 1024 of 1024"});
  expect(found_in<32>([=] { (void)s().load(-1); }), bug::out_of_bounds, {"reads 4 bytes at -4"});
  expect(found_in<32>([=] { simt::atomic_add(simt::shared_memory<std::uint32_t>(1024), 1); }), bug::out_of_bounds,
         {"changes"});
  static simt::pack<float, 4> const source = {};
  expect(found_in<32>([=] { simt::cp_async<16>(s() + 253, &source); }), bug::out_of_bounds,
         {"copies 16 bytes at 1012"});
  expect(found_in<32>([=] { (void)simt::ldmatrix<1>(simt::shared_memory<half>(1024)); }), bug::out_of_bounds);
  expect(found_in<32>([=] { s().store(255, static_cast<float>(simt::thread_index())); }), bug::race);
}

TEST_CASE("misaligned: shared memory, global memory, copies and rows of ldmatrix") {
  using four = simt::pack<float, 4>;
  static four const source[2] = {};
  static char const* const bytes = reinterpret_cast<char const*>(source);
  expect(found_in<32>([] { simt::shared_memory<float>(2).store(0, 1); }), bug::misaligned, {"not a multiple of 4"});
  expect(found_in<32>([] { simt::shared_memory<four>(8).store(0, {}); }), bug::misaligned, {"not a multiple of 16"});
  expect(found_in<32>([] { (void)simt::load_global(reinterpret_cast<four const*>(bytes + 8)); }), bug::misaligned,
         {"global memory is not a multiple of 16"});
  expect(found_in<32>([] { simt::store_global(reinterpret_cast<four*>(const_cast<char*>(bytes) + 4), four{}); }),
         bug::misaligned, {"global memory"});
  expect(found_in<32>([] { simt::cp_async<16>(simt::shared_memory<float>(8), bytes); }), bug::misaligned,
         {"the target"});
  expect(found_in<32>([] { simt::cp_async<8>(simt::shared_memory<float>(8), bytes + 4); }), bug::misaligned,
         {"the source"});
  expect(found_in<32>([] { (void)simt::ldmatrix<1>(simt::shared_memory<half>(8)); }), bug::misaligned, {"ldmatrix"});
}

TEST_CASE("a device goes on after a bug") {
  simt::device device;
  auto const run = [&](bool wrong) {
    auto const body = [=] {
      if (wrong && simt::thread_index() == 7) simt::sync();
    };
    return simt::launch({}, 0, &device, made_of<32>(body));
  };
  for (int i = 0; i < 3; ++i) {
    CHECK(run(true).code == errc::launch_failed);
    CHECK(device.found().kind == bug::divergence);
    CHECK(run(false).ok());
    CHECK(device.found().kind == bug::none);
    CHECK(device.found().text.empty());
  }
}

TEST_CASE("a device that does not watch still finds what needs no shadow") {
  simt::device device;
  device.watch = false;
  auto const racing = [] { (void)simt::shared_memory<float>().load(0); };
  CHECK(simt::launch({}, 64, &device, made_of<32>(racing)).ok());
  auto const outside = [] { (void)simt::shared_memory<float>().load(16); };
  CHECK(!simt::launch({}, 64, &device, made_of<32>(outside)).ok());
  CHECK(device.found().kind == bug::out_of_bounds);
}
