// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/launch.hpp>

#include "random.hpp"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <new>
#include <utility>
#include <vector>

/// One test source for the simulated device and, compiled by nvcc, for a real one.
namespace test {

/// Memory that kernels and the test can reach, aligned as a device aligns it.
template <class T> class array {
 public:
  explicit array(std::size_t size, T const& value = {}) : size_(size) {
#if defined(__CUDACC__)
    void* memory = nullptr;
    REQUIRE(cudaMallocManaged(&memory, std::max<std::size_t>(size * sizeof(T), 1)) == cudaSuccess);
#else
    void* memory = ::operator new (size * sizeof(T), std::align_val_t{256});
#endif
    data_ = static_cast<T*>(memory);
    for (std::size_t i = 0; i < size; ++i) ::new (static_cast<void*>(data_ + i)) T(value);
  }
  array(std::vector<T> const& from) : array(from.size()) { std::copy(from.begin(), from.end(), data_); }
  array(array const&) = delete;
  array& operator=(array const&) = delete;
  ~array() {
#if defined(__CUDACC__)
    cudaFree(data_);
#else
    ::operator delete (data_, std::align_val_t{256});
#endif
  }

  std::size_t size() const { return size_; }
  T* data() const { return data_; }
  T& operator[](std::size_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }

 private:
  std::size_t size_;
  T* data_;
};

/// How often run() launches a kernel.
#if defined(__CUDACC__)
inline constexpr std::int32_t launches = 1;
#else
inline constexpr std::int32_t launches = 2;
#endif

/// Launches, waits, and expects no error. On the simulated device: in the usual order, and in one that nobody chose.
template <class K> void run(purekv::simt::grid size, std::size_t shared_bytes, K const& kernel) {
#if defined(__CUDACC__)
  REQUIRE(purekv::simt::launch(size, shared_bytes, nullptr, kernel).ok());
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
#else
  purekv::simt::device device;
  for (std::uint64_t seed : {std::uint64_t{0}, random().seed()}) {
    CAPTURE(seed);
    device.seed = seed;
    purekv::status const s = purekv::simt::launch(size, shared_bytes, &device, kernel);
    INFO(device.found().text);
    REQUIRE(s.ok());
  }
#endif
}

}  // namespace test
