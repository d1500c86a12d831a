// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/executor/block.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// A GPU that is not there: runs kernels on the calling thread, block after block, every thread of a block as a fiber,
/// with the lane layouts and the rounding of the hardware, and looks for bugs on the way. For the tests of kernels.
/// What it does not do: run blocks side by side (a block that waits for another one never ends), or watch global
/// memory, which the address sanitizer does.
class device {
 public:
  /// Look for races, uninitialised reads and copies that are not waited for. Costs time, most of it at the barriers of
  /// large blocks, and memory: up to 2 bytes per thread and byte of shared memory.
  bool watch = true;
  /// Not 0: blocks and warps run in an order drawn from it, instead of ascending.
  std::uint64_t seed = 0;
  std::int32_t max_shared_bytes = 227 * 1024;

  /// The bug that ended the last launch, if any.
  report const& found() const { return block_.found(); }

  /// Runs all blocks of K::threads threads; false: found() says why not.
  template <class K> bool run(grid size, std::size_t shared_bytes, K const& kernel) {
    auto const body = [](void const* k) { (*static_cast<K const*>(k))(); };
    std::int64_t const blocks = std::int64_t{size.x} * size.y * size.z;
    for (std::int64_t i = 0; i < blocks; ++i) {
      // A rotation and a direction find a block that counts on another one having run.
      std::int64_t at = (i + static_cast<std::int64_t>(seed % static_cast<std::uint64_t>(blocks))) % blocks;
      if (seed % 2 != 0) at = blocks - 1 - at;
      grid const index = {static_cast<std::int32_t>(at % size.x), static_cast<std::int32_t>(at / size.x % size.y),
                          static_cast<std::int32_t>(at / size.x / size.y)};
      if (!block_.run(size, index, K::threads, shared_bytes, watch, seed, body, &kernel)) return false;
    }
    return true;
  }

 private:
  detail::block block_;
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
