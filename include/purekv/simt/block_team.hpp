// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/barrier.hpp>
#include <purekv/team.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// The threads of a block as a Team: the body of a policy runs in it as it does on the threads of a CPU.
struct block_team {
  static constexpr bool interleaved = true;

  PUREKV_DEVICE std::int32_t rank() const { return thread_index(); }
  PUREKV_DEVICE std::int32_t size() const { return block_threads(); }
  PUREKV_DEVICE void sync(site here = site::caller()) const { simt::sync(here); }
};

static_assert(Team<block_team>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
