// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/view.hpp>

#include <cstddef>
#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Cuts a workspace into arrays, each aligned to 64 bytes. Default constructed it only counts, so that an operation and
/// its workspace query are the same sequence of `take`s. What does not fit is null.
class carve {
 public:
  static constexpr std::size_t alignment = 64;

  carve() = default;
  explicit carve(workspace const& memory)
      : base_(static_cast<std::byte*>(memory.data)),
        limit_(memory.data == nullptr || reinterpret_cast<std::uintptr_t>(memory.data) % alignment != 0
                   ? 0
                   : memory.bytes) {}

  template <class T> T* take(std::int64_t count) {
    static_assert(alignof(T) <= alignment);
    std::size_t bytes = 0, end = 0;
    if (count < 0 || __builtin_mul_overflow(static_cast<std::size_t>(count), sizeof(T), &bytes) ||
        __builtin_add_overflow(bytes, alignment - 1, &bytes) ||
        __builtin_add_overflow(used_, bytes & ~(alignment - 1), &end)) {
      overflow_ = true;
      return nullptr;
    }
    std::size_t const begin = used_;
    used_ = end;
    return base_ != nullptr && fits() ? reinterpret_cast<T*>(base_ + begin) : nullptr;
  }

  /// Whether everything taken so far lies inside the workspace.
  bool fits() const { return !overflow_ && used_ <= limit_; }
  /// Bytes taken so far; SIZE_MAX when their number overflows.
  std::size_t bytes() const { return overflow_ ? SIZE_MAX : used_; }
  /// What is left, to be lent on.
  workspace rest() const { return base_ != nullptr && fits() ? workspace{base_ + used_, limit_ - used_} : workspace{}; }

 private:
  std::byte* base_ = nullptr;
  std::size_t limit_ = SIZE_MAX;
  std::size_t used_ = 0;
  bool overflow_ = false;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
