// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/executor/block_report.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail {

// How a block runs: one fiber after the other.

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

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
