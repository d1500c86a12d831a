// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/gpu.cuh>
#include <purekv/simt/copy.hpp>
#include <purekv/view.hpp>

#include <cstdio>
#include <cstdlib>

/// The GPU of a benchmark, memory on it, and numbers to fill it with.
namespace bench {

inline void must(cudaError_t e) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(e));
  std::exit(1);
}

inline void must(purekv::status const& s) {
  if (s.ok()) return;
  std::fprintf(stderr, "%s (%s)\n", s.message, cudaGetErrorString(cudaGetLastError()));
  std::exit(1);
}

/// Device 0 and a stream of it.
inline purekv::gpu const& device() {
  static purekv::gpu const exec = [] {
    purekv::gpu g;
    must(purekv::query(0, g.device));
    must(cudaStreamCreateWithFlags(&g.stream, cudaStreamNonBlocking));
    return g;
  }();
  return exec;
}

inline void wait() { must(cudaStreamSynchronize(device().stream)); }

/// managed: for small problems, whose results the CPU checks.
enum class memory { device, managed };

/// n elements; null if the device has no room for them.
template <class T> class array {
 public:
  array() = default;
  explicit array(std::int64_t n, memory where = memory::device) : size_(n) {
    std::size_t const bytes = static_cast<std::size_t>(n > 0 ? n : 1) * sizeof(T);
    void* data = nullptr;
    if ((where == memory::device ? cudaMalloc(&data, bytes) : cudaMallocManaged(&data, bytes)) == cudaSuccess)
      data_ = static_cast<T*>(data);
    else
      (void)cudaGetLastError();
  }
  array(array&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
  array& operator=(array&& other) noexcept {
    T* const mine = data_;
    data_ = other.data_;
    size_ = other.size_;
    other.data_ = mine;
    return *this;
  }
  ~array() { cudaFree(data_); }

  T* data() const { return data_; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  std::int64_t size() const { return size_; }
  std::int64_t bytes() const { return size_ * static_cast<std::int64_t>(sizeof(T)); }
  T& operator[](std::int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

inline purekv::workspace workspace_of(array<std::byte> const& a) {
  return {a.data(), static_cast<std::size_t>(a.size())};
}

PUREKV_HD inline std::uint64_t hash(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// out[i] = f(i) for a function object F of device code.
template <class T, class F> struct fill_kernel {
  static constexpr std::int32_t threads = 256;
  T* out;
  std::int64_t n;
  F f;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const step = std::int64_t{purekv::simt::grid_size().x} * threads;
    for (std::int64_t i = std::int64_t{purekv::simt::block_index().x} * threads + purekv::simt::thread_index(); i < n;
         i += step)
      out[i] = f(i);
  }
};

template <class T, class F> void fill(array<T> const& out, F const& f) {
  std::int64_t const blocks = (out.size() + 255) / 256;
  must(purekv::simt::launch({.x = static_cast<std::int32_t>(blocks < 65536 ? blocks : 65536)}, 0, device().stream,
                            fill_kernel<T, F>{out.data(), out.size(), f}));
}

/// Mean 0, variance 1, nearly normal: a sum of four uniform numbers.
template <class T> struct normal {
  std::uint64_t seed;
  PUREKV_DEVICE T operator()(std::int64_t i) const {
    std::uint64_t const x = hash(static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u + seed);
    float sum = 0;
    for (int part = 0; part < 4; ++part) sum += static_cast<float>((x >> (16 * part)) & 0xffff) * 0x1p-16f;
    return T((sum - 2) * 1.7320508f);
  }
};

/// 0, 1, .., period - 1, 0, ..
struct counting {
  std::int32_t period;
  PUREKV_DEVICE std::int32_t operator()(std::int64_t i) const { return static_cast<std::int32_t>(i % period); }
};

template <class T> struct constant {
  T value;
  PUREKV_DEVICE T operator()(std::int64_t) const { return value; }
};

}  // namespace bench
