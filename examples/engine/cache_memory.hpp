// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace engine {

/// Bytes of all the caches of a model: allocated now, and at most.
class cache_meter {
 public:
  void add(std::int64_t bytes) {
    now_ += bytes;
    peak_ = now_ > peak_ ? now_ : peak_;
  }
  std::int64_t now() const { return now_; }
  std::int64_t peak() const { return peak_; }

 private:
  std::int64_t now_ = 0, peak_ = 0;
};

/// Memory aligned for PureKV; pages are not touched before they are written.
class aligned_memory {
 public:
  aligned_memory() = default;
  explicit aligned_memory(std::size_t bytes)
      : data_(static_cast<std::byte*>(::operator new(bytes, alignment))), bytes_(bytes) {}

  std::byte* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::align_val_t alignment{64};
  struct release {
    void operator()(std::byte* data) const { ::operator delete(data, alignment); }
  };
  std::unique_ptr<std::byte, release> data_;
  std::size_t bytes_ = 0;
};

/// The memory of one layer's cache: keys, values, positions of `slots` tokens, and one record per head.
template <class T> class cache_memory {
 public:
  cache_memory(cache_meter& meter, std::int64_t slots, int kv_heads, int dim)
      : meter_(&meter),
        slots_(slots),
        kv_heads_(kv_heads),
        dim_(dim),
        memory_(2 * vectors() + positions() + static_cast<std::size_t>(kv_heads) * sizeof(purekv::extent)) {
    meter_->add(static_cast<std::int64_t>(memory_.bytes()));
  }
  cache_memory(cache_memory const&) = delete;
  cache_memory& operator=(cache_memory const&) = delete;
  ~cache_memory() { meter_->add(-static_cast<std::int64_t>(memory_.bytes())); }

  /// Every head with the same number of slots, all empty.
  purekv::contiguous_cache<T> contiguous() const {
    std::fill_n(at<std::int32_t>(2 * vectors() + positions()), kv_heads_, 0);
    auto const tokens = static_cast<std::int32_t>(slots_ / kv_heads_);
    std::ptrdiff_t const head_stride = std::ptrdiff_t{tokens} * dim_;
    return {.keys = at<T>(0),
            .values = at<T>(vectors()),
            .positions = at<std::int32_t>(2 * vectors()),
            .lengths = at<std::int32_t>(2 * vectors() + positions()),
            .sequences = 1,
            .kv_heads = kv_heads_,
            .tokens = tokens,
            .dim = dim_,
            .sequence_stride = head_stride * kv_heads_,
            .head_stride = head_stride,
            .token_stride = dim_};
  }

  /// Slots shared out among the heads by the extents, which PureKV writes; until then no head has any.
  purekv::ragged_cache<T> ragged() const {
    std::fill_n(at<purekv::extent>(2 * vectors() + positions()), kv_heads_, purekv::extent{});
    return {.keys = at<T>(0),
            .values = at<T>(vectors()),
            .positions = at<std::int32_t>(2 * vectors()),
            .extents = at<purekv::extent>(2 * vectors() + positions()),
            .sequences = 1,
            .kv_heads = kv_heads_,
            .dim = dim_,
            .slots = slots_,
            .token_stride = dim_};
  }

 private:
  // Rounded up so that every array begins aligned.
  std::size_t vectors() const { return round_up(static_cast<std::size_t>(slots_ * dim_) * sizeof(T)); }
  std::size_t positions() const { return round_up(static_cast<std::size_t>(slots_) * sizeof(std::int32_t)); }
  static std::size_t round_up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  template <class U> U* at(std::size_t offset) const { return reinterpret_cast<U*>(memory_.data() + offset); }

  cache_meter* meter_;
  std::int64_t slots_;
  std::int32_t kv_heads_, dim_;
  aligned_memory memory_;
};

/// Positions that each KV head of a cache with one sequence holds.
template <class T> std::vector<std::vector<std::int32_t>> positions_in(purekv::ragged_cache<T> const& cache) {
  std::vector<std::vector<std::int32_t>> result;
  for (int h = 0; h < cache.kv_heads; ++h) {
    std::int32_t const* const first = cache.positions + cache.at(0, h).begin;
    result.emplace_back(first, first + cache.length(0, h));
  }
  return result;
}

}  // namespace engine
