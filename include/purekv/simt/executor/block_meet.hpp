// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/executor/block_report.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail {

// How the threads of a block wait for each other.

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

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
