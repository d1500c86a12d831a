// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/pack.hpp>
#include <purekv/simt/thread.hpp>

#include <cstddef>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// A pointer into the shared memory of the block. Reads and writes are spelled out, so that the simulated device sees
/// every one of them.
template <class T> class shared {
 public:
  PUREKV_DEVICE explicit shared(T* at) : at_(at) {}

  PUREKV_DEVICE T load(std::int32_t i, [[maybe_unused]] site here = site::caller()) const {
#if !defined(__CUDACC__)
    detail::running->touch(detail::block::access::read, at_ + i, sizeof(T), alignof(T), here);
#endif
    return at_[i];
  }

  PUREKV_DEVICE void store(std::int32_t i, T value, [[maybe_unused]] site here = site::caller()) const {
#if !defined(__CUDACC__)
    detail::running->touch(detail::block::access::write, at_ + i, sizeof(T), alignof(T), here);
#endif
    at_[i] = value;
  }

  PUREKV_DEVICE shared operator+(std::int32_t n) const { return shared(at_ + n); }

  /// The same place seen as another type.
  template <class U> PUREKV_DEVICE shared<U> as() const { return shared<U>(reinterpret_cast<U*>(at_)); }

  /// The plain pointer, whose use nobody watches.
  PUREKV_DEVICE T* data() const { return at_; }

 private:
  T* at_;
};

#if defined(__CUDACC__)
namespace detail {
extern __shared__ __align__(1024) char launch_memory[];
}
#endif

/// The shared memory of the launch from byte `offset` on. It begins at a multiple of 1024 bytes, with unknown contents.
template <class T> PUREKV_DEVICE shared<T> shared_memory(std::int32_t offset = 0) {
#if defined(__CUDACC__)
  return shared<T>(reinterpret_cast<T*>(detail::launch_memory + offset));
#else
  return shared<T>(reinterpret_cast<T*>(detail::running->shared() + offset));
#endif
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
