// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/shared.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

// Whole numbers only: sums of floats in an order of chance would differ from run to run. None of these orders other
// accesses.

/// *at += value; what was there before. Global memory.
PUREKV_DEVICE std::uint32_t atomic_add(std::uint32_t* at, std::uint32_t value) {
#if defined(__CUDACC__)
  return ::atomicAdd(at, value);
#else
  std::uint32_t const before = *at;
  *at += value;
  return before;
#endif
}

/// The same in shared memory.
PUREKV_DEVICE std::uint32_t atomic_add(shared<std::uint32_t> at, std::uint32_t value,
                                       [[maybe_unused]] site here = site::caller()) {
#if !defined(__CUDACC__)
  detail::running->touch(detail::block::access::atomic, at.data(), 4, 4, here);
#endif
  return atomic_add(at.data(), value);
}

/// *at = max(*at, value); what was there before. Global memory.
PUREKV_DEVICE std::uint32_t atomic_max(std::uint32_t* at, std::uint32_t value) {
#if defined(__CUDACC__)
  return ::atomicMax(at, value);
#else
  std::uint32_t const before = *at;
  *at = before > value ? before : value;
  return before;
#endif
}

/// The same in shared memory.
PUREKV_DEVICE std::uint32_t atomic_max(shared<std::uint32_t> at, std::uint32_t value,
                                       [[maybe_unused]] site here = site::caller()) {
#if !defined(__CUDACC__)
  detail::running->touch(detail::block::access::atomic, at.data(), 4, 4, here);
#endif
  return atomic_max(at.data(), value);
}

/// *at = min(*at, value); what was there before. Global memory.
PUREKV_DEVICE std::uint32_t atomic_min(std::uint32_t* at, std::uint32_t value) {
#if defined(__CUDACC__)
  return ::atomicMin(at, value);
#else
  std::uint32_t const before = *at;
  *at = before < value ? before : value;
  return before;
#endif
}

/// The same in shared memory.
PUREKV_DEVICE std::uint32_t atomic_min(shared<std::uint32_t> at, std::uint32_t value,
                                       [[maybe_unused]] site here = site::caller()) {
#if !defined(__CUDACC__)
  detail::running->touch(detail::block::access::atomic, at.data(), 4, 4, here);
#endif
  return atomic_min(at.data(), value);
}

/// What this thread wrote to global memory before, other blocks see before what it writes after: between the results
/// of a block and the ticket that says they are there.
PUREKV_DEVICE void fence() {
#if defined(__CUDACC__)
  __threadfence();
#endif
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
