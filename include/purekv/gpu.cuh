// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/launch.hpp>

namespace purekv::inline v0_1 {

/// What launches need to know of a device.
struct gpu_properties {
  std::int32_t device = 0;
  std::int32_t multiprocessors = 0;
  std::int32_t shared_bytes = 0;      // that one block may have
  std::int32_t major = 0, minor = 0;  // compute capability
  bool reads_host_memory = false;     // any of it, as where GPU and CPU share their page tables
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Puts an operation into the caller's stream: it returns once it is there, and nothing is allocated, synchronised or
/// launched elsewhere, so that all of it can be captured in a graph. The calls are those of `cpu`, and the results,
/// within what docs/numerics.md says. All data lie in memory that the device reaches, tables, positions and lengths
/// among them; the host looks at sizes, strides, pointers and options only. What it cannot see is a precondition, which
/// `validate` checks on the device.
struct gpu {
  simt::stream stream{};
  gpu_properties device{};
};

/// The properties of a device, to be asked once; without nvcc, those of the simulated one, which is small, so that
/// small problems have several waves of blocks.
inline status query(std::int32_t device, gpu_properties& out) {
#if defined(__CUDACC__)
  gpu_properties p{.device = device};
  int pageable = 0;
  auto const ask = [&](int& value, cudaDeviceAttr attribute) {
    return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess;
  };
  if (!ask(p.multiprocessors, cudaDevAttrMultiProcessorCount) ||
      !ask(p.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin) ||
      !ask(p.major, cudaDevAttrComputeCapabilityMajor) || !ask(p.minor, cudaDevAttrComputeCapabilityMinor) ||
      !ask(pageable, cudaDevAttrPageableMemoryAccess))
    return {errc::unsupported_device, "query: the runtime knows no such device; cudaGetLastError says why"};
  p.reads_host_memory = pageable != 0;
  out = p;
#else
  if (device != 0) return {errc::unsupported_device, "query: there is one simulated device, number 0"};
  out = {
      .device = 0, .multiprocessors = 4, .shared_bytes = 99 * 1024, .major = 8, .minor = 0, .reads_host_memory = true};
#endif
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
