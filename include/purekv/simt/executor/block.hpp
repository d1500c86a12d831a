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

inline void block::start(grid const& shape, grid const& index, std::int32_t threads, std::size_t shared_bytes,
                         bool watch, std::uint64_t seed, void (*body)(void const*), void const* kernel) {
  // Poison that is a NaN in every element type, on memory as aligned as that of a device.
  constexpr std::size_t alignment = 1024;
  shared_memory_.assign(shared_bytes + alignment, static_cast<char>(0xff));
  shared_ = shared_memory_.data();
  shared_ += (alignment - reinterpret_cast<std::uintptr_t>(shared_) % alignment) % alignment;
  shared_bytes_ = shared_bytes;
  watch_ = watch;
  seed_ = seed;
  shape_ = shape;
  index_ = index;
  body_ = body;
  kernel_ = kernel;
  found_ = {};
  shadow_.begin(shared_bytes, time_);
  time_.begin(threads);
  for (barrier_state& b : barriers_) b = {};
  warps_.assign(at(threads / 32), {});
  threads_.assign(at(threads), {});
  stacks_.reserve(at(threads));
  for (warp_state& w : warps_) w.ready = 0xffffffffu;
  for (std::int32_t t = 0; t < threads; ++t) threads_[at(t)].flow.start(stacks_.fresh(at(t)), &block::fiber_main);
}

inline block::stop block::resume() {
  block* const outer = running;
  running = this;
  stop const at = schedule();
  running = outer;
  return at;
}

inline void block::fiber_main() {
  block& self = *running;
  fiber::entered(self.scheduler_);
  self.body_(self.kernel_);
  self.finish();
}

inline void block::finish() {
  warp_state& w = warp();
  for (gathering const& g : w.gatherings)
    if ((g.mask & bit()) != 0)
      fail(bug::divergence, g.at.where, [&] {
        return sentence(name_lanes(current_ / 32, g.arrived), " wait in ", g.at.operation, " for thread ", current_,
                        ", which has finished");
      });
  w.finished |= bit();
  threads_[at(current_)].flow.leave(scheduler_);
}

inline block::stop block::schedule() {
  for (;;) {
    bool progress = false, finished = true;
    for (std::size_t i = 0; i < warps_.size(); ++i) {
      // With a seed_, any warp may go first, and some go more often than others.
      std::size_t w = i;
      if (seed_ != 0) {
        seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
        w = static_cast<std::size_t>(seed_ >> 33) % warps_.size();
      }
      for (std::uint32_t ready = warps_[w].ready; ready != 0; ready = seed_ == 0 ? warps_[w].ready : 0) {
        std::int32_t const lane = __builtin_ctz(ready);
        warps_[w].ready &= ~(1u << lane);
        current_ = static_cast<std::int32_t>(w) * 32 + lane;
        scheduler_.switch_to(threads_[at(current_)].flow);
        if (found_.kind != bug::none) return stop::failed;
        progress = true;
      }
    }
    bool ready = false;
    for (warp_state const& w : warps_) {
      finished = finished && w.finished == 0xffffffffu;
      ready = ready || w.ready != 0;
    }
    if (finished) return stop::finished;
    if (!progress && !ready) {
      if (barriers_[grid_barrier].arrived == threads()) return stop::at_grid_barrier;
      record(bug::deadlock, {}, stuck());
      return stop::failed;
    }
  }
}

inline std::string block::name(grid const& index) const {
  std::string text = sentence("block ", index.x);
  if (shape_.y > 1 || shape_.z > 1) append(text, sentence(", ", index.y));
  if (shape_.z > 1) append(text, sentence(", ", index.z));
  return text;
}

inline void block::record(bug kind, site where, std::string const& what) {
  found_.kind = kind;
  found_.text = sentence(name(index_), ": ", what);
  if (where.line != 0) append(found_.text, sentence(" (", where, ")"));
}

template <class F> void block::fail(bug kind, site where, F const& what) {
  record(kind, where, what());
  threads_[at(current_)].flow.leave(scheduler_);
}

/// Who waits where, when nobody can go on.
inline std::string block::stuck() const {
  std::string text = "no thread can go on:";
  std::vector<std::int32_t> finished;
  struct group {
    place at;
    std::vector<std::int32_t> threads;
  };
  std::vector<group> groups;
  for (std::int32_t t = 0; t < threads(); ++t) {
    warp_state const& w = warps_[at(t / 32)];
    if ((w.finished >> (t % 32) & 1u) != 0) {
      finished.push_back(t);
      continue;
    }
    place here = w.barrier;
    for (gathering const& g : w.gatherings)
      if ((g.arrived >> (t % 32) & 1u) != 0) here = g.at;
    group* found = nullptr;
    for (group& g : groups)
      if (g.at == here) found = &g;
    if (found == nullptr) found = &groups.emplace_back(group{here, {}});
    found->threads.push_back(t);
  }
  for (group const& g : groups)
    append(text, sentence(" ", name_threads(g.threads), " wait in ", g.at.operation, " at ", g.at.where, ";"));
  if (!finished.empty()) append(text, sentence(" ", name_threads(finished), " have finished;"));
  for (std::int32_t id = 0; id <= barriers; ++id)
    if (barrier_state const& b = barriers_[id]; b.arrived > 0)
      append(text, sentence(" ", id == grid_barrier ? "the grid's barrier" : sentence("barrier ", id), " has seen ",
                            b.arrived, " of ", b.expected, " threads;"));
  text.pop_back();
  return text;
}

inline void block::fail_waiting(grid const& finished) {
  record(bug::deadlock, {}, sentence(stuck(), "; ", name(finished), " has finished"));
}

/// Lanes that an operation names must not have finished, nor wait for this one in another operation.
inline void block::check_lanes(std::uint32_t mask, place here) {
  warp_state const& w = warp();
  std::int32_t const number = current_ / 32;
  if (std::uint32_t const gone = mask & w.finished; gone != 0)
    fail(bug::divergence, here.where, [&] {
      return sentence("thread ", current_, " is in ", here.operation, ", ", name_lanes(number, gone), " finished");
    });
  for (gathering const& g : w.gatherings)
    if ((g.arrived & mask) != 0 && (g.mask & bit()) != 0)
      fail(bug::divergence, here.where, [&] {
        return sentence("thread ", current_, " is in ", here.operation, ", ", name_lanes(number, g.arrived), " in ",
                        g.at.operation, " at ", g.at.where);
      });
}

inline void block::barrier(std::int32_t id, std::int32_t threads, bool wait, char const* operation, site where) {
  if (id < 0 || id >= barriers || threads < 32 || threads % 32 != 0 || threads > this->threads())
    fail(bug::deadlock, where, [&] {
      return sentence("barrier ", id, " of ", threads, " threads: the number must be less than 16, the threads a ",
                      "multiple of 32 and no more than the block's");
    });
  meet(id, threads, wait, operation, where);
}

inline void block::meet(std::int32_t id, std::int32_t threads, bool wait, char const* operation, site where) {
  // A warp comes to a barrier as one.
  struct slot {
    std::int32_t id, threads;
  } mine = {id, threads};
  warp_state& w = warp();
  together(0xffffffffu, operation, where, mine, [&](slot* const* lanes) {
    barrier_state& b = barriers_[id];
    for (int lane = 0; lane < 32; ++lane)
      if (lanes[lane]->id != id || lanes[lane]->threads != threads)
        fail(bug::divergence, where, [&] {
          return sentence("thread ", current_, " is at barrier ", id, " of ", threads, " threads, lane ", lane, " at ",
                          lanes[lane]->id, " of ", lanes[lane]->threads);
        });
    if (b.arrived > 0 && b.expected != threads)
      fail(bug::deadlock, where, [&] {
        return sentence("thread ", current_, " comes to barrier ", id, " of ", threads, " threads, others to one of ",
                        b.expected);
      });
    b.expected = threads;
    b.arrived += 32;
    std::int32_t const first = current_ / 32 * 32;
    for (std::int32_t t = first; watch_ && t < first + 32; ++t) time_.give(t, b.meeting);
    if (wait) b.waiting.push_back(current_ / 32);
    if (b.arrived < threads || id == grid_barrier) {
      if (!wait) return;
      w.ready = 0;
      w.barrier = {operation, where};
      return;
    }
    release(b);
    if (wait) w.ready = ~bit();  // this lane is running
  });
  // The lane that came last goes on in together(); only it can find its warp waiting here.
  if (wait && w.barrier.where.line != 0) yield();
}

inline void block::release(barrier_state& b) {
  for (std::int32_t const warp : b.waiting) {
    for (std::int32_t t = warp * 32; watch_ && t < warp * 32 + 32; ++t) time_.take(t, b.meeting);
    warps_[at(warp)].ready = 0xffffffffu;
    warps_[at(warp)].barrier = {};
  }
  b.expected = b.arrived = 0;
  b.waiting.clear();
  b.meeting.clear();
}

template <class Slot, class F>
void block::together(std::uint32_t mask, char const* operation, site where, Slot& mine, F const& f) {
  warp_state& w = warp();
  if ((mask & bit()) == 0)
    fail(bug::divergence, where,
         [&] { return sentence("thread ", current_, " is not in the mask of its own ", operation); });
  place const here = {operation, where};
  std::size_t i = 0;
  while (i < w.gatherings.size() && !(w.gatherings[i].mask == mask && w.gatherings[i].at == here)) ++i;
  if (i == w.gatherings.size()) {
    check_lanes(mask, here);
    w.gatherings.push_back({mask, 0, here});
  }
  w.slots[current_ % 32] = &mine;
  w.gatherings[i].arrived |= bit();
  if (w.gatherings[i].arrived != mask) {
    yield();
    return;
  }
  w.gatherings.erase(w.gatherings.begin() + static_cast<std::ptrdiff_t>(i));
  w.ready |= mask & ~bit();
  Slot* slots[32];
  for (std::uint32_t lane = 0; lane < 32; ++lane)
    slots[lane] = (mask >> lane & 1u) != 0 ? static_cast<Slot*>(w.slots[lane]) : nullptr;
  f(static_cast<Slot* const*>(slots));
}

inline void block::sync_warp(std::uint32_t mask, site where) {
  std::int32_t mine = current_;
  together(mask, "sync_warp", where, mine, [&](std::int32_t* const* lanes) {
    if (!watch_) return;
    warp_meeting_.clear();
    for (int lane = 0; lane < 32; ++lane)
      if (lanes[lane] != nullptr) time_.give(*lanes[lane], warp_meeting_);
    for (int lane = 0; lane < 32; ++lane)
      if (lanes[lane] != nullptr) time_.take(*lanes[lane], warp_meeting_);
  });
}

inline void block::check_alignment(void const* address, std::size_t alignment, char const* what, site where) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment == 0) return;
  fail(bug::misaligned, where,
       [&] { return sentence("thread ", current_, ": ", what, " is not a multiple of ", alignment, " bytes"); });
}

inline void block::check_bounds(std::ptrdiff_t offset, std::size_t bytes, char const* does, std::int32_t thread,
                                site where) {
  if (offset >= 0 && static_cast<std::size_t>(offset) + bytes <= shared_bytes_) return;
  fail(bug::out_of_bounds, where, [&] {
    return sentence("thread ", thread, " ", does, " ", bytes, " bytes at ", offset, " of ", shared_bytes_,
                    " bytes of shared memory");
  });
}

inline void block::touch(access how, std::int32_t thread, void const* address, std::size_t bytes, std::size_t alignment,
                         site where) {
  std::ptrdiff_t const offset = static_cast<char const*>(address) - shared_;
  std::size_t const begin = static_cast<std::size_t>(offset);
  char const* const does = how == access::read ? "reads" : how == access::write ? "writes" : "changes";
  check_bounds(offset, bytes, does, thread, where);
  check_alignment(address, alignment, "an address in shared memory", where);
  if (!watch_) return;
  accept(how == access::read    ? shadow_.read(time_, thread, begin, bytes, where)
         : how == access::write ? shadow_.write(time_, thread, begin, bytes, where)
                                : shadow_.atomic(time_, thread, begin, bytes, where),
         does, thread, begin, bytes, where);
}

inline void block::accept(shadow::finding const& f, char const* does, std::int32_t thread, std::size_t offset,
                          std::size_t bytes, site where) {
  if (f.kind == bug::none) return;
  fail(f.kind, where, [&] {
    std::string const text = sentence("thread ", thread, " ", does, " shared bytes ", offset, "-", offset + bytes - 1);
    if (f.kind == bug::uninitialised) return sentence(text, ", which this block has not written");
    if (f.kind == bug::in_flight)
      return sentence(text, ", where the cp.async of thread ", f.other, " at ", f.where, " has not been waited for");
    return sentence(text, ", which thread ", f.other, " ", f.what, " at ", f.where, ", with no barrier between");
  });
}

inline void block::copy(void* to, void const* from, std::size_t bytes, std::size_t given, site where) {
  std::ptrdiff_t const offset = static_cast<char const*>(to) - shared_;
  std::size_t const begin = static_cast<std::size_t>(offset);
  check_alignment(from, bytes, "the source of a cp.async", where);
  check_bounds(offset, bytes, "copies", current_, where);
  check_alignment(to, bytes, "the target of a cp.async", where);
  if (watch_) accept(shadow_.issue(time_, current_, begin, bytes, where), "copies to", current_, begin, bytes, where);
  thread_state& self = threads_[at(current_)];
  pending_copy& c = self.copies.emplace_back(pending_copy{self.groups, begin, bytes, {}});
  if (given > 0) std::memcpy(c.data, from, given < bytes ? given : bytes);
}

inline void block::wait_for_copies(std::uint64_t groups_left) {
  thread_state& self = threads_[at(current_)];
  std::size_t done = 0;
  for (; done < self.copies.size() && self.copies[done].group + groups_left < self.groups; ++done) {
    pending_copy const& c = self.copies[done];
    std::memcpy(shared_ + c.offset, c.data, c.bytes);
    if (watch_) shadow_.land(time_, current_, c.offset, c.bytes);
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
