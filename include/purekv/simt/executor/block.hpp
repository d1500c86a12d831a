// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/executor/fiber.hpp>
#include <purekv/simt/executor/shadow.hpp>
#include <purekv/simt/index.hpp>

#include <cstring>
#include <vector>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail {

/// One thread block at a time, its threads as fibers on the calling thread. A fiber runs until it has to wait for
/// others: at a barrier or in a warp-wide operation. The first bug ends the block: all fibers are abandoned.
class block {
 public:
  static constexpr std::int32_t barriers = 16;

  /// Will run body(kernel) by `threads` threads, a multiple of 32.
  void start(grid const& shape, grid const& index, std::int32_t threads, std::size_t shared_bytes, bool watch,
             std::uint64_t seed, void (*body)(void const*), void const* kernel);

  /// Runs until no thread can go on: all have finished, or all wait for the other blocks of the grid. failed: the block
  /// has a bug, see found().
  enum class stop { finished, at_grid_barrier, failed };
  stop resume();

  /// All blocks have come to the barrier of the grid: the next resume() goes on behind it.
  void release() { release(barriers_[grid_barrier]); }

  /// This block waits for others, which have finished: a bug.
  void fail_waiting(grid const& finished);

  report const& found() const { return found_; }

  // What the intrinsics ask for.
  std::int32_t thread() const { return current_; }
  std::int32_t threads() const { return static_cast<std::int32_t>(threads_.size()); }
  grid const& shape() const { return shape_; }
  grid const& index() const { return index_; }
  char* shared() { return shared_; }

  /// The lanes of a warp come to barrier `id` of so many threads together. With `wait`, returns when all have come.
  void barrier(std::int32_t id, std::int32_t threads, bool wait, char const* operation, site where);

  /// Returns when all threads of all blocks have come.
  void barrier_of_grid(char const* operation, site where) { meet(grid_barrier, threads(), true, operation, where); }

  /// Returns when all lanes of `mask` have called it with the same operation, mask and site. The last one calls
  /// f(slots): [32] what each lane has passed as `mine`.
  template <class Slot, class F>
  void together(std::uint32_t mask, char const* operation, site where, Slot& mine, F const& f);

  /// As together, and what a lane of the mask wrote before, all of them may read after.
  void sync_warp(std::uint32_t mask, site where);

  enum class access { read, write, atomic };

  /// Checks an access by `thread` to shared memory.
  void touch(access how, std::int32_t thread, void const* address, std::size_t bytes, std::size_t alignment,
             site where);
  void touch(access how, void const* address, std::size_t bytes, std::size_t alignment, site where) {
    touch(how, current_, address, bytes, alignment, where);
  }
  void check_alignment(void const* address, std::size_t alignment, char const* what, site where);

  /// A copy of `bytes` bytes, of which the source gives `given` and zeros the rest. It lands when it is waited for.
  void copy(void* to, void const* from, std::size_t bytes, std::size_t given, site where);
  void commit() { ++threads_[at(current_)].groups; }
  void wait_for_copies(std::uint64_t groups_left);

  /// Ends the block. what() makes the text, so that nothing that owns memory is left on the abandoned stack.
  template <class F> [[noreturn]] void fail(bug kind, site where, F const& what);

 private:
  struct pending_copy {
    std::uint64_t group;
    std::size_t offset, bytes;
    char data[16];
  };
  struct thread_state {
    fiber flow;
    std::uint64_t groups = 0;          // committed so far
    std::vector<pending_copy> copies;  // ascending groups
  };
  struct place {
    char const* operation = "";
    site where;
    friend bool operator==(place const& a, place const& b) {
      return a.where == b.where && std::strcmp(a.operation, b.operation) == 0;
    }
  };
  /// Lanes that wait for each other in a warp-wide operation.
  struct gathering {
    std::uint32_t mask, arrived;
    place at;
  };
  struct warp_state {
    std::uint32_t ready = 0, finished = 0;
    place barrier;  // where all its lanes wait, if line is not 0
    void* slots[32] = {};
    std::vector<gathering> gatherings;
  };
  struct barrier_state {
    std::int32_t expected = 0, arrived = 0;  // threads
    std::vector<std::int32_t> waiting;       // warps
    std::vector<clocks::time> meeting;
  };

  static constexpr std::int32_t grid_barrier = barriers;  // behind those of the block

  static std::size_t at(std::int32_t i) { return static_cast<std::size_t>(i); }
  warp_state& warp() { return warps_[at(current_ / 32)]; }
  std::uint32_t bit() const { return 1u << (current_ % 32); }

  static void fiber_main();
  [[noreturn]] void finish();
  stop schedule();
  void meet(std::int32_t id, std::int32_t threads, bool wait, char const* operation, site where);
  void release(barrier_state& b);
  void yield() { threads_[at(current_)].flow.switch_to(scheduler_); }
  void check_lanes(std::uint32_t mask, place here);
  void check_bounds(std::ptrdiff_t offset, std::size_t bytes, char const* does, std::int32_t thread, site where);
  void accept(shadow::finding const& f, char const* does, std::int32_t thread, std::size_t offset, std::size_t bytes,
              site where);
  std::string stuck() const;
  std::string name(grid const& index) const;
  void record(bug kind, site where, std::string const& what);

  grid shape_, index_;
  std::int32_t current_ = 0;
  std::vector<thread_state> threads_;
  std::vector<warp_state> warps_;
  barrier_state barriers_[barriers + 1];
  stacks stacks_;
  fiber scheduler_;
  std::vector<char> shared_memory_;
  char* shared_ = nullptr;
  std::size_t shared_bytes_ = 0;
  bool watch_ = true;
  std::uint64_t seed_ = 0;
  clocks time_;
  shadow shadow_;
  std::vector<clocks::time> warp_meeting_;
  void (*body_)(void const*) = nullptr;
  void const* kernel_ = nullptr;
  report found_;
};

/// The block that this thread is running.
inline thread_local block* running = nullptr;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
