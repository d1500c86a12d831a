// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/index.hpp>
#include <purekv/status.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>
#if defined(__CUDACC__)
#include <cuda_runtime_api.h>
#else
#include <purekv/simt/device.hpp>
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// A value that holds the parameters of a kernel, copied to the device, and whose operator() every thread of every
/// block calls. `threads`, of a block, is static: a multiple of 32, at most 1024.
///
///   struct scale {
///     static constexpr std::int32_t threads = 128;
///     float* x;
///     std::int32_t n;
///     PUREKV_DEVICE void operator()() const {
///       std::int32_t const i = simt::block_index().x * threads + simt::thread_index();
///       if (i < n) x[i] *= 2;
///     }
///   };
///   simt::launch({.x = (n + scale::threads - 1) / scale::threads}, 0, stream, scale{x, n});
///
/// `min_blocks`, static, if it is there: how many blocks a multiprocessor shall be able to hold.
template <class K>
concept Kernel = std::is_trivially_copyable_v<K> && requires(K const& k) {
  { K::threads } -> std::convertible_to<std::int32_t>;
};

namespace detail {

template <class K> constexpr std::int32_t min_blocks() {
  if constexpr (requires { K::min_blocks; })
    return K::min_blocks;
  else
    return 1;
}

#if defined(__CUDACC__)
template <class K>
__global__ void __launch_bounds__(K::threads, min_blocks<K>()) entry(__grid_constant__ K const kernel) {
  kernel();
}
#endif

}  // namespace detail

#if defined(__CUDACC__)
using stream = cudaStream_t;
#else
/// The simulated device takes the place of a stream: launches run at once, and it knows what was wrong with the last.
using stream = device*;
#endif

namespace detail {

#if defined(__CUDACC__)
template <class K> bool allow_shared(std::size_t bytes) {
  return bytes <= 48 * 1024 || cudaFuncSetAttribute(entry<K>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    static_cast<int>(bytes)) == cudaSuccess;
}
#endif

/// Together: all blocks are on the device at once.
template <bool Together, Kernel K>
status launch(grid size, std::size_t shared_bytes, [[maybe_unused]] stream on, K const& kernel) {
  static_assert(K::threads > 0 && K::threads <= 1024 && K::threads % 32 == 0,
                "launch: a block has a multiple of 32 threads, at most 1024");
  if (size.x < 0 || size.y < 0 || size.z < 0 || size.y > 65535 || size.z > 65535)
    return {errc::bad_shape, "launch: a grid has at most 65535 blocks in y and z, and none of its sizes is negative"};
  if (size.x == 0 || size.y == 0 || size.z == 0) return {};
#if defined(__CUDACC__)
  if (!allow_shared<K>(shared_bytes))
    return {errc::launch_failed, "launch: more shared memory than the device gives to a block"};
  void* parameters[] = {const_cast<K*>(&kernel)};
  dim3 const blocks(static_cast<unsigned>(size.x), static_cast<unsigned>(size.y), static_cast<unsigned>(size.z));
  auto const start = Together ? cudaLaunchCooperativeKernel<void(K)> : cudaLaunchKernel<void(K)>;
  if (start(entry<K>, blocks, dim3(K::threads), parameters, shared_bytes, on) != cudaSuccess)
    return {errc::launch_failed, "launch: the device refused the kernel; cudaGetLastError says why"};
#else
  if (on == nullptr) return {errc::null_data, "launch: no device"};
  if (shared_bytes > static_cast<std::size_t>(on->max_shared_bytes))
    return {errc::launch_failed, "launch: more shared memory than the device gives to a block"};
  if (Together && std::int64_t{size.x} * size.y * size.z > on->max_blocks_together)
    return {errc::launch_failed, "launch: more blocks together than fit on the device"};
  if (!(Together ? on->run_together(size, shared_bytes, kernel) : on->run(size, shared_bytes, kernel)))
    return {errc::launch_failed, "launch: the kernel has a bug; the device's found() says which"};
#endif
  return {};
}

}  // namespace detail

/// Puts a kernel with so many blocks of K::threads threads and so many bytes of shared memory each into the stream. An
/// empty grid is no launch. An error leaves everything as it was; on the simulated device a kernel with a bug
/// has stopped where it was found.
template <Kernel K> status launch(grid size, std::size_t shared_bytes, stream on, K const& kernel) {
  return detail::launch<false>(size, shared_bytes, on, kernel);
}

/// How many blocks of a kernel the current device, which has so many multiprocessors, runs at once. 0: not one, or the
/// runtime does not say.
template <Kernel K> std::int32_t blocks_together(std::int32_t multiprocessors, std::size_t shared_bytes) {
#if defined(__CUDACC__)
  int of_each = 0;
  if (!detail::allow_shared<K>(shared_bytes) ||
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_each, detail::entry<K>, K::threads, shared_bytes) !=
          cudaSuccess)
    return 0;
#else
  std::int32_t const of_each = shared_bytes > 227 * 1024 ? 0 : shared_bytes > 113 * 1024 ? 1 : 2;
#endif
  return multiprocessors * of_each;
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
