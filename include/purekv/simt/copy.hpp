// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/shared.hpp>

#include <type_traits>
#if defined(__CUDACC__)
#include <vector_types.h>
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

#if defined(__CUDACC__)
namespace detail {

// The compiler would move a pack of small elements one by one.
template <std::size_t Bytes>
using word = std::conditional_t<Bytes == 16, uint4, std::conditional_t<Bytes == 8, uint2, unsigned>>;
template <class T>
inline constexpr bool is_word = (sizeof(T) == 16 || sizeof(T) == 8 || sizeof(T) == 4) && alignof(T) == sizeof(T);

}  // namespace detail
#endif

/// *from in global memory, as one instruction where T is a pack.
template <class T> PUREKV_DEVICE T load_global(T const* from, [[maybe_unused]] site here = site::caller()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
#if defined(__CUDACC__)
  if constexpr (detail::is_word<T>)
    return __builtin_bit_cast(T, *reinterpret_cast<detail::word<sizeof(T)> const*>(from));
#else
  detail::running->check_alignment(from, alignof(T), "an address in global memory", here);
#endif
  return *from;
}

template <class T> PUREKV_DEVICE void store_global(T* to, T value, [[maybe_unused]] site here = site::caller()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
#if defined(__CUDACC__)
  if constexpr (detail::is_word<T>) {
    *reinterpret_cast<detail::word<sizeof(T)>*>(to) = __builtin_bit_cast(detail::word<sizeof(T)>, value);
    return;
  }
#else
  detail::running->check_alignment(to, alignof(T), "an address in global memory", here);
#endif
  *to = value;
}

/// Starts to copy Bytes (4, 8 or 16) bytes from global to shared memory, both at a multiple of Bytes. Only the first
/// `given` bytes are read, the rest of the target gets zeros; with 0 the source is not touched. Until this thread has
/// waited for the copy nobody may use the target, and after that other threads need a barrier.
template <std::int32_t Bytes, class T>
PUREKV_DEVICE void cp_async(shared<T> to, void const* from, std::int32_t given = Bytes,
                            [[maybe_unused]] site here = site::caller()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp_async copies 4, 8 or 16 bytes");
#if defined(__CUDACC__)
  std::uint32_t const target = static_cast<std::uint32_t>(__cvta_generic_to_shared(to.data()));
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(given) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(from), "n"(Bytes), "r"(given)
                 : "memory");
#else
  detail::running->copy(to.data(), from, Bytes, static_cast<std::size_t>(given), here);
#endif
}

/// Makes a group of the copies that this thread has started since the last one.
PUREKV_DEVICE void cp_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  detail::running->commit();
#endif
}

/// Returns when all but the newest `Left` groups of this thread have arrived.
template <std::int32_t Left> PUREKV_DEVICE void cp_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
#else
  detail::running->wait_for_copies(Left);
#endif
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
