// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/atomic.hpp>
#include <purekv/simt/barrier.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Whether this is the last of `blocks` blocks to come here, which then sees what the others wrote to global memory
/// before. All threads of a block come. ticket : 0 before the first block and after the last one. flag : [1].
PUREKV_DEVICE bool last_block(std::uint32_t* ticket, std::uint32_t blocks, simt::shared<std::uint32_t> flag) {
  simt::fence();
  simt::sync();
  if (simt::thread_index() == 0) {
    bool const last = simt::atomic_add(ticket, 1) == blocks - 1;
    if (last) *ticket = 0;
    simt::fence();
    flag.store(0, last);
  }
  simt::sync();
  return flag.load(0) != 0;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
