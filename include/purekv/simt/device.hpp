// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/executor/block_meet.hpp>
#include <purekv/simt/executor/block_memory.hpp>
#include <purekv/simt/executor/block_run.hpp>

#include <deque>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// A GPU that is not there: runs kernels on the calling thread, every thread of a block as a fiber, with the lane
/// layouts and the rounding of the hardware, and looks for bugs on the way. For the tests of kernels. Blocks run one
/// after another (one that waits for another one never ends), unless they are launched together. It does not watch
/// global memory, which the address sanitizer does.
class device {
 public:
  /// Look for races, uninitialised reads and copies that are not waited for. Costs time, most of it at the barriers of
  /// large blocks, and memory: up to 2 bytes per thread and byte of shared memory.
  bool watch = true;
  /// Not 0: blocks and warps run in an order drawn from it, instead of ascending.
  std::uint64_t seed = 0;
  std::int32_t max_shared_bytes = 227 * 1024;
  std::int32_t max_blocks_together = 8;

  /// The bug that ended the last launch, if any.
  report const& found() const { return found_; }

  /// Runs all blocks of K::threads threads; false: found() says why not.
  template <class K> bool run(grid size, std::size_t shared_bytes, K const& kernel) {
    begin(1);
    detail::block& block = blocks_.front();
    for (std::int64_t i = 0; i < count(size); ++i) {
      start(block, size, index_of(drawn(i, count(size), seed), size), shared_bytes, kernel);
      if (block.resume() == detail::block::stop::failed) return fail(block);
    }
    return true;
  }

  /// The same side by side: from one barrier of the grid to the next, block after block.
  template <class K> bool run_together(grid size, std::size_t shared_bytes, K const& kernel) {
    using stop = detail::block::stop;
    std::int64_t const n = count(size);
    begin(n);
    for (std::int64_t i = 0; i < n; ++i) start(at(i), size, index_of(i, size), shared_bytes, kernel);
    for (std::uint64_t order = seed;; order = seed == 0 ? 0 : order * 6364136223846793005u + 1442695040888963407u) {
      std::int64_t waiting = -1, finished = -1;
      for (std::int64_t i = 0; i < n; ++i) {
        std::int64_t const b = drawn(i, n, order >> 16);
        stop const s = at(b).resume();
        if (s == stop::failed) return fail(at(b));
        (s == stop::finished ? finished : waiting) = b;
      }
      if (waiting < 0) return true;
      if (finished >= 0) {
        at(waiting).fail_waiting(index_of(finished, size));
        return fail(at(waiting));
      }
      for (std::int64_t i = 0; i < n; ++i) at(i).release();
    }
  }

 private:
  static std::int64_t count(grid size) { return std::int64_t{size.x} * size.y * size.z; }
  static grid index_of(std::int64_t i, grid size) {
    return {static_cast<std::int32_t>(i % size.x), static_cast<std::int32_t>(i / size.x % size.y),
            static_cast<std::int32_t>(i / size.x / size.y)};
  }
  /// A rotation and a direction find a block that counts on another one having run.
  static std::int64_t drawn(std::int64_t i, std::int64_t n, std::uint64_t from) {
    std::int64_t const rotated = (i + static_cast<std::int64_t>(from % static_cast<std::uint64_t>(n))) % n;
    return from % 2 != 0 ? n - 1 - rotated : rotated;
  }

  detail::block& at(std::int64_t i) { return blocks_[static_cast<std::size_t>(i)]; }
  void begin(std::int64_t n) {
    found_ = {};
    if (blocks_.size() < static_cast<std::size_t>(n)) blocks_.resize(static_cast<std::size_t>(n));
  }
  template <class K>
  void start(detail::block& block, grid size, grid index, std::size_t shared_bytes, K const& kernel) const {
    auto const body = [](void const* k) { (*static_cast<K const*>(k))(); };
    block.start(size, index, K::threads, shared_bytes, watch, seed, body, &kernel);
  }
  bool fail(detail::block const& block) {
    found_ = block.found();
    return false;
  }

  std::deque<detail::block> blocks_;  // with their stacks, for the next launch
  report found_;
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
