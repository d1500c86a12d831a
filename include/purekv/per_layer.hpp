// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

namespace purekv::inline v0_1 {

/// A policy for all layers of a model, or an array of the caller's with one for each, alive as long as this is used.
template <class T> class per_layer {
 public:
  per_layer(T const& same) : same_(same) {}
  per_layer(T const* each) : each_(each) {}

  bool missing() const { return !same_ && each_ == nullptr; }
  bool varies() const { return !same_; }
  T const& operator[](std::int32_t layer) const { return same_ ? *same_ : each_[layer]; }

 private:
  std::optional<T> same_;
  T const* each_ = nullptr;
};

}  // namespace purekv::inline v0_1
