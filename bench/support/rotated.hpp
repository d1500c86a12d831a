// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "layer.hpp"
#include "machine.hpp"

#include <vector>

/// Copies of one layer's cache, more than twice the last-level cache in all, so that each call reads from memory.
template <class T> class rotated {
 public:
  explicit rotated(random_layer<T> const& layer) : layer_(layer) {
    std::size_t const bytes = 2 * layer.keys.size() * sizeof(T);
    std::size_t const copies = 5 * machine::last_level_cache() / 2 / bytes + 2;
    for (std::size_t i = 0; i < copies; ++i) {
      keys_.push_back(layer.keys);
      values_.push_back(layer.values);
    }
  }
  purekv::contiguous_cache<T> next() {
    purekv::contiguous_cache<T> cache = layer_.cache;
    cache.keys = keys_[turn_].data();
    cache.values = values_[turn_].data();
    turn_ = (turn_ + 1) % keys_.size();
    return cache;
  }

 private:
  random_layer<T> const& layer_;
  std::vector<std::vector<T>> keys_, values_;
  std::size_t turn_ = 0;
};
