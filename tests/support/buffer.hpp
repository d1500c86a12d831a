// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>
#if defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdlib>
#endif

namespace fixtures {

// Memory that a test and the device both reach.
#if defined(__CUDACC__)
template <class T> struct managed_allocator {
  using value_type = T;
  managed_allocator() = default;
  template <class U> managed_allocator(managed_allocator<U> const&) {}

  T* allocate(std::size_t count) {
    void* memory = nullptr;
    if (cudaMallocManaged(&memory, count * sizeof(T)) != cudaSuccess) std::abort();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { cudaFree(memory); }
  template <class U> bool operator==(managed_allocator<U> const&) const { return true; }
};

template <class T> using buffer = std::vector<T, managed_allocator<T>>;
#else
template <class T> using buffer = std::vector<T>;
#endif

}  // namespace fixtures
