// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device.cuh"

#include <algorithm>
#include <vector>
#if defined(PUREKV_BENCH_CUBLAS)
#include <cublas_v2.h>
#endif

/// What this GPU can do, measured where and when it is asked for.
namespace bench {

/// Seconds that `work` takes on the device.
template <class F> double seconds(F const& work) {
  struct event {
    cudaEvent_t handle{};
    event() { must(cudaEventCreate(&handle)); }
    ~event() { cudaEventDestroy(handle); }
  };
  static event const before, after;
  must(cudaEventRecord(before.handle, device().stream));
  work();
  must(cudaEventRecord(after.handle, device().stream));
  must(cudaEventSynchronize(after.handle));
  float milliseconds = 0;
  must(cudaEventElapsedTime(&milliseconds, before.handle, after.handle));
  return 1e-3 * static_cast<double>(milliseconds);
}

inline double median(std::vector<double> all) {
  if (all.empty()) return 0;
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2), all.end());
  return all[all.size() / 2];
}

inline std::int64_t l2_bytes() {
  static std::int64_t const bytes = [] {
    int n = 0;
    must(cudaDeviceGetAttribute(&n, cudaDevAttrL2CacheSize, device().device.device));
    return std::max<std::int64_t>(n, 8 << 20);
  }();
  return bytes;
}

/// Reads memory once, in order; the sums go nowhere, unless by a chance that does not come.
struct read_kernel {
  static constexpr std::int32_t threads = 512, words = 8;
  using word = purekv::simt::pack<std::uint32_t, 4>;
  word const* in;
  std::int64_t n;
  std::uint32_t* out;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const step = std::int64_t{purekv::simt::grid_size().x} * threads * words;
    std::int64_t const mine =
        std::int64_t{purekv::simt::block_index().x} * threads * words + purekv::simt::thread_index();
    std::uint32_t sum = 0;
    for (std::int64_t i = mine; i + (words - 1) * threads < n; i += step) {
      word w[words];
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < words; ++j) w[j] = purekv::simt::load_global(in + i + j * threads);
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < words; ++j) sum += w[j].at[0] ^ w[j].at[1] ^ w[j].at[2] ^ w[j].at[3];
    }
    if (sum == 0x9e3779b9u) *out = sum;
  }
};

/// Reads `bytes` of memory of its own: what the L2 held is gone, and nothing waits to be written.
class reader {
 public:
  explicit reader(std::int64_t bytes) : memory_(bytes / 16), out_(1) {
    if (memory_.data() == nullptr) must(cudaErrorMemoryAllocation);
    fill(out_, constant<std::uint32_t>{0});
    must(cudaMemsetAsync(memory_.data(), 1, static_cast<std::size_t>(memory_.bytes()), device().stream));
  }
  void operator()() const {
    must(purekv::simt::launch({.x = 4 * device().device.multiprocessors}, 0, device().stream,
                              read_kernel{memory_.data(), memory_.size(), out_.data()}));
  }
  std::int64_t bytes() const { return memory_.bytes(); }

 private:
  array<read_kernel::word> memory_;
  array<std::uint32_t> out_;
};

inline void clear_l2() {
  static reader const all(2 * l2_bytes());
  all();
}

template <class F> double best_rate(double work, F const& f) {
  double best = 0;
  for (int i = 0; i < 8; ++i) best = std::max(best, work / seconds(f));
  return best;
}

/// Bytes per second that are read.
inline double read_bandwidth() {
  static reader const all(std::max<std::int64_t>(16 * l2_bytes(), std::int64_t{1} << 30));
  return best_rate(static_cast<double>(all.bytes()), [] { all(); });
}

/// Bytes per second that are read and written, both counted.
inline double copy_bandwidth() {
  std::int64_t const n = std::max<std::int64_t>(8 * l2_bytes(), std::int64_t{1} << 29);
  static array<std::byte> const from(n), to(n);
  return best_rate(2.0 * static_cast<double>(n), [&] {
    must(cudaMemcpyAsync(to.data(), from.data(), static_cast<std::size_t>(n), cudaMemcpyDeviceToDevice,
                         device().stream));
  });
}

/// Operations per second of a product of 8192 x 8192 matrices of bfloat16 by cuBLAS; 0 where this was built without.
inline double multiply_rate() {
#if defined(PUREKV_BENCH_CUBLAS)
  auto const right = [](cublasStatus_t s) {
    if (s == CUBLAS_STATUS_SUCCESS) return;
    std::fprintf(stderr, "cuBLAS: %s\n", cublasGetStatusString(s));
    std::exit(1);
  };
  constexpr int n = 8192;
  struct operands {
    array<purekv::bfloat16> a{std::int64_t{n} * n}, b{std::int64_t{n} * n}, c{std::int64_t{n} * n};
    cublasHandle_t handle{};
  };
  static operands const* const m = [&] {
    auto* const made = new operands;  // lives as long as the program
    fill(made->a, normal<purekv::bfloat16>{1});
    fill(made->b, normal<purekv::bfloat16>{2});
    right(cublasCreate(&made->handle));
    right(cublasSetStream(made->handle, device().stream));
    return made;
  }();
  float const one = 1, zero = 0;
  return best_rate(2.0 * n * n * n, [&] {
    right(cublasGemmEx(m->handle, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, m->a.data(), CUDA_R_16BF, n, m->b.data(),
                       CUDA_R_16BF, n, &zero, m->c.data(), CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  });
#else
  return 0;
#endif
}

}  // namespace bench
