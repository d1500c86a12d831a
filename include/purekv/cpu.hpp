// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/team.hpp>

namespace purekv::inline v0_1 {

/// Runs an operation on the caller's threads: all `ranks` threads make the same call, each with its own `index`, the
/// same arguments and the same workspace, and all get the same status. `barrier(context)` returns when every rank has
/// called it, and makes the ranks' writes visible to each other; one rank needs none. Results do not depend on ranks.
struct cpu {
  std::int32_t index = 0;
  std::int32_t ranks = 1;
  void (*barrier)(void*) = nullptr;
  void* context = nullptr;

  PUREKV_INLINE std::int32_t rank() const { return index; }
  PUREKV_INLINE std::int32_t size() const { return ranks; }
  PUREKV_INLINE void sync() const {
    if (ranks > 1) barrier(context);
  }
};

static_assert(Team<cpu>);

}  // namespace purekv::inline v0_1
