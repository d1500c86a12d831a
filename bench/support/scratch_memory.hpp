// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/view.hpp>

#include <cstdlib>

/// Memory aligned as a workspace must be.
class scratch_memory {
 public:
  explicit scratch_memory(std::size_t bytes) : bytes_(bytes), data_(std::aligned_alloc(64, (bytes + 64) / 64 * 64)) {}
  scratch_memory(scratch_memory const&) = delete;
  scratch_memory& operator=(scratch_memory const&) = delete;
  ~scratch_memory() { std::free(data_); }
  purekv::workspace view() const { return {data_, bytes_}; }

 private:
  std::size_t bytes_;
  void* data_;
};
