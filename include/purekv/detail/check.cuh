// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/check.hpp>
#include <purekv/gpu.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Whether the kernels run on this device, and the stream is one of it.
inline status check_gpu(gpu const& exec) {
  if (exec.device.multiprocessors <= 0)
    return {errc::unsupported_device, "gpu: its properties are empty; ask query() for them"};
  if (exec.device.major < 8)
    return {errc::unsupported_device, "gpu: the kernels need compute capability 8.0 or higher"};
#if defined(__CUDACC__)
  int of_stream = exec.device.device;
  if (cudaStreamGetDevice(exec.stream, &of_stream) != cudaSuccess || of_stream != exec.device.device)
    return {errc::unsupported_device, "gpu: the stream belongs to another device, or is none"};
  int current = 0;
  if (cudaGetDevice(&current) != cudaSuccess || current != exec.device.device)
    return {errc::unsupported_device, "gpu: the current device is another one; call cudaSetDevice"};
#else
  if (exec.stream == nullptr) return {errc::unsupported_device, "gpu: no simulated device"};
#endif
  return {};
}

/// Whether the device reaches what these point to, as far as the runtime can tell; null points to nothing.
template <class... T> status check_reachable([[maybe_unused]] gpu const& exec, [[maybe_unused]] T const*... data) {
#if defined(__CUDACC__)
  auto const reachable = [&](void const* p) {
    cudaPointerAttributes found{};
    return p == nullptr || exec.device.reads_host_memory ||
           (cudaPointerGetAttributes(&found, p) == cudaSuccess && found.devicePointer != nullptr);
  };
  if (!(reachable(data) && ...))
    return {errc::bad_pointer, "gpu: a pointer is to memory of the host that the device does not reach"};
#endif
  return {};
}

template <Cache C> status check_reachable_cache(gpu const& exec, C const& cache) {
  if (status const s = check_reachable(exec, cache.keys, cache.values, cache.positions); !s.ok()) return s;
  if constexpr (requires { cache.lengths; })
    return check_reachable(exec, cache.lengths);
  else if constexpr (requires { cache.extents; })
    return check_reachable(exec, cache.extents);
  else
    return {};
}

/// Whether every row begins at a multiple of 16 bytes: `strides`, in elements, where there is more than one.
template <class T, class... Strides> bool aligned16(T const* data, Strides... strides) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
         ((static_cast<std::uint64_t>(strides) * sizeof(T) % 16 == 0) && ...);
}

template <class T> bool aligned16(rows_view<T> const& rows) {
  return rows.tokens == 0 ||
         (aligned16(rows.data, rows.heads > 1 ? rows.head_stride : 0, rows.tokens > 1 ? rows.token_stride : 0));
}

template <class T> bool aligned16(contiguous_cache<T> const& c) {
  auto const used = [](std::int32_t count, std::ptrdiff_t stride) { return count > 1 ? stride : std::ptrdiff_t{0}; };
  auto const rows = [&](T const* data, std::ptrdiff_t sequence, std::ptrdiff_t head, std::ptrdiff_t token) {
    return aligned16(data, used(c.sequences, sequence), used(c.kv_heads, head), used(c.tokens, token));
  };
  return rows(c.keys, c.sequence_stride, c.head_stride, c.token_stride) &&
         (c.value_dim == 0 ? rows(c.values, c.sequence_stride, c.head_stride, c.token_stride)
                           : rows(c.values, c.value_sequence_stride, c.value_head_stride, c.value_token_stride));
}

template <class T> bool aligned16(ragged_cache<T> const& c) {
  std::ptrdiff_t const stride = c.slots > 1 ? c.token_stride : 0;
  std::ptrdiff_t const value_stride = c.slots > 1 && c.value_dim != 0 ? c.value_token_stride : stride;
  return aligned16(c.keys, stride) && aligned16(c.values, value_stride);
}

/// What the tensor cores read: rows of whole 16-byte packs, of `widest` elements at most.
template <class T, Cache C> status check_operands(query_view<T> const& q, C const& cache, std::int32_t widest) {
  static_assert(std::is_same_v<T, typename C::element> && !std::is_same_v<T, float>,
                "gpu: queries, keys and values must be all half or all bfloat16");
  if (cache.dim % 8 != 0 || value_dim_of(cache) % 8 != 0)
    return {errc::bad_shape, "gpu: dims of keys and values must be multiples of 8"};
  if (cache.dim > widest || value_dim_of(cache) > widest)
    return {errc::bad_shape, "gpu: dims of keys and values are wider than the kernels"};
  if (!aligned16(q.rows)) return {errc::bad_pointer, "gpu: a row of queries does not begin at a multiple of 16 bytes"};
  if (!aligned16(cache))
    return {errc::bad_pointer, "gpu: a row of keys or values does not begin at a multiple of 16 bytes"};
  return {};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
