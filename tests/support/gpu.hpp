// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/fixtures.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/gpu.cuh>

/// Tests of operations on a GPU: the simulated one, or the real one where nvcc compiles them.
namespace test {

/// A device and a stream of it.
class gpu_device {
 public:
  /// The simulated device runs blocks and warps in an order drawn from `random`.
  explicit gpu_device([[maybe_unused]] random& random) {
    REQUIRE(purekv::query(0, exec_.device).ok());
#if defined(__CUDACC__)
    REQUIRE(cudaStreamCreateWithFlags(&exec_.stream, cudaStreamNonBlocking) == cudaSuccess);
#else
    simulated_.seed = random();
    exec_.stream = &simulated_;
#endif
  }
  gpu_device(gpu_device const&) = delete;
  gpu_device& operator=(gpu_device const&) = delete;
#if defined(__CUDACC__)
  ~gpu_device() { cudaStreamDestroy(exec_.stream); }
#endif

  purekv::gpu const& exec() const { return exec_; }

  /// call(exec) and what it returns, once the device has finished.
  template <class F> purekv::status status_of(F const& call) {
    purekv::status const s = call(exec_);
#if defined(__CUDACC__)
    REQUIRE(cudaStreamSynchronize(exec_.stream) == cudaSuccess);
#endif
    return s;
  }

  /// The same, which must succeed.
  template <class F> void run(F const& call) {
    purekv::status const s = status_of(call);
    INFO(std::string(s.message));
#if !defined(__CUDACC__)
    INFO(simulated_.found().text);
#endif
    REQUIRE(s.ok());
  }

 private:
#if !defined(__CUDACC__)
  purekv::simt::device simulated_;
#endif
  purekv::gpu exec_;
};

/// What tensor cores may err by more than floats do, for queries, keys and values of type T:
/// - logits: each of the dim / 16 steps truncates, the hardware to 2^-23 of the largest of its 17 terms
/// - results: probabilities are rounded to T before they meet the values, relative to the largest so far, so that small
///   ones may be subnormal; sums are truncated once per 16 keys
/// Values are at most `largest_value`, as those are that fixtures draw. more: what else results err by, relative to the
/// sum of p |v|.
template <class T>
void allow_tensor_cores(std::vector<oracle::head_attention>& reference, double largest_value = 6, double more = 0) {
  double const smallest = oracle::rounding_error<T>(0);
  for (oracle::head_attention& a : reference)
    for (Eigen::Index i = 0; i < a.out.rows(); ++i) {
      double const seen = static_cast<double>((a.logits.row(i).array() > -oracle::infinity).count()) +
                          (a.own_logit(i) > -oracle::infinity ? 1 : 0);
      // out_bound of attend_head is this times the sum of p |v|.
      double const sum_error = oracle::eps * (8 + std::sqrt(seen));
      double const relative = 2 * std::log(2.0) * a.logit_bound(i) + 2 * sum_error;
      a.logit_bound(i) *= 4;
      a.lse_bound(i) *= 4;
      double const rounding = oracle::rounding_error<T>(1.0) * 1.01, truncation = oracle::eps * (2 + seen / 16);
      double const wider = 8 * std::log(2.0) * a.logit_bound(i) / 4 + 2 * sum_error + rounding + truncation + more;
      for (Eigen::Index c = 0; c < a.out.cols(); ++c)
        a.out_bound(i, c) = a.out_bound(i, c) * wider / relative + smallest * seen * largest_value;
    }
}

/// How far off a whole result may be, relative L2: the rounding of probabilities, and that of the result to TO.
template <class T, class TO> double relative_l2_of_tensor_cores() {
  return oracle::rounding_error<T>(1.0) + (std::is_same_v<TO, float> ? 0 : oracle::rounding_error<TO>(1.0));
}

}  // namespace test
