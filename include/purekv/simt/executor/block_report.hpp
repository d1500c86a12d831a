// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/executor/block.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail {

// What a block says of a bug.

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

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
