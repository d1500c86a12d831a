// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace engine {

/// Does jobs 0 .. count - 1 on so many threads: make_worker(), once on each of them, gives what is called with a job's
/// number. The first exception ends the work and is thrown here.
template <class MakeWorker> void share_out(int threads, std::size_t count, MakeWorker const& make_worker) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex one_at_a_time;
  std::vector<std::jthread> workers;
  for (int i = 0; i < threads; ++i)
    workers.emplace_back([&] {
      try {
        auto&& work = make_worker();
        for (std::size_t n = next++; n < count; n = next++) work(n);
      } catch (...) {
        next = count;
        std::lock_guard const lock(one_at_a_time);
        if (!failure) failure = std::current_exception();
      }
    });
  workers.clear();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace engine
