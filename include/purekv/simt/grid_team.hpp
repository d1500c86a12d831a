// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/barrier.hpp>
#include <purekv/simt/launch.hpp>
#include <purekv/team.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// The threads of all blocks of a launch as a Team, fewer than 2^31 of them: see launch_together().
struct grid_team {
  static constexpr bool interleaved = true;

  std::uint32_t* arrived;  // in global memory; bit 31 says which barriers, odd or even, all blocks have come to

  PUREKV_DEVICE std::int32_t rank() const { return block() * block_threads() + thread_index(); }
  PUREKV_DEVICE std::int32_t size() const { return blocks() * block_threads(); }

  /// Returns when every thread of every block has called it; what one wrote to global memory before, all may read
  /// after. All threads come, the lanes of a warp by the same call.
  PUREKV_DEVICE void sync([[maybe_unused]] site here = site::caller()) const {
#if defined(__CUDACC__)
    __syncthreads();
    if (thread_index() == 0) {
      // One barrier adds 2^31 in all, so the last block to come turns the bit, and the rest is 0 again. A release and
      // an acquire by one thread hold for its block, whose other threads are ordered by __syncthreads().
      std::uint32_t const add = block() == 0 ? 0x80000000u - static_cast<std::uint32_t>(blocks() - 1) : 1u;
      std::uint32_t before, now;
      asm volatile("atom.add.release.gpu.u32 %0, [%1], %2;" : "=r"(before) : "l"(arrived), "r"(add) : "memory");
      do {
        asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory");
      } while (((before ^ now) & 0x80000000u) == 0);
    }
    __syncthreads();
#else
    detail::running->barrier_of_grid("grid_team::sync", here);
#endif
  }

 private:
  PUREKV_DEVICE static std::int32_t block() {
    grid const i = block_index(), of = grid_size();
    return (i.z * of.y + i.y) * of.x + i.x;
  }
  PUREKV_DEVICE static std::int32_t blocks() {
    grid const of = grid_size();
    return of.x * of.y * of.z;
  }
};

static_assert(Team<grid_team>);

namespace detail {

struct no_block_has_arrived {
  static constexpr std::int32_t threads = 32;
  std::uint32_t* arrived;

  PUREKV_DEVICE void operator()() const {
    if (thread_index() == 0) *arrived = 0;
  }
};

}  // namespace detail

/// As launch(), with all blocks on the device at once, so that grid_team{arrived} can wait for all of them: at most
/// blocks_together(). arrived: one number in global memory, lent until the kernel has finished.
template <Kernel K>
status launch_together(grid size, std::size_t shared_bytes, stream on, K const& kernel, std::uint32_t* arrived) {
  if (status const s = launch({}, 0, on, detail::no_block_has_arrived{arrived}); !s.ok()) return s;
  return detail::launch<true>(size, shared_bytes, on, kernel);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
