// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

namespace test {

/// A generator with a fresh seed in every run; PUREKV_SEED in the environment repeats one. Print the seed on failure:
/// SEEDED(random) in a test case declares one and does so.
class random : public std::mt19937_64 {
 public:
  random() : random(fresh_seed()) {}
  explicit random(std::uint64_t seed) : std::mt19937_64(seed), seed_(seed) {}

  std::uint64_t seed() const { return seed_; }

  float normal() { return std::normal_distribution<float>{}(*this); }

  /// In [low, high).
  float uniform(float low = 0, float high = 1) { return std::uniform_real_distribution<float>{low, high}(*this); }

  /// In [low, high], both included.
  int between(int low, int high) { return std::uniform_int_distribution<int>{low, high}(*this); }

  /// Fills any element type that a float converts to: float, half, bfloat16.
  template <class T> void fill_normal(std::vector<T>& out, float scale = 1) {
    for (T& x : out) x = T(scale * normal());
  }
  template <class T> void fill_uniform(std::vector<T>& out, float low = 0, float high = 1) {
    for (T& x : out) x = T(uniform(low, high));
  }

 private:
  static std::uint64_t fresh_seed() {
    if (char const* given = std::getenv("PUREKV_SEED"); given != nullptr) return std::strtoull(given, nullptr, 0);
    std::random_device device;
    return std::uint64_t{device()} << 32 | device();
  }

  std::uint64_t seed_;
};

}  // namespace test

#define SEEDED(name)   \
  ::test::random name; \
  INFO("repeat with PUREKV_SEED=", name.seed())
