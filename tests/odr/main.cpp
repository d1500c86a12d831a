// SPDX-License-Identifier: Apache-2.0
#include "odr/operations.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

namespace {

constexpr std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

struct owned_answer {
  using p = problem;
  std::vector<float> attended = std::vector<float>(size(p::heads * p::tokens * p::dim));
  std::vector<float> lse = std::vector<float>(size(p::heads * p::tokens));
  std::vector<float> mass = std::vector<float>(size(p::kv_heads * p::tokens)), scores = mass;
  std::vector<std::int64_t> offset = std::vector<std::int64_t>(size(p::kv_heads + 1));
  std::vector<std::int32_t> kept = std::vector<std::int32_t>(size(p::kv_heads * p::tokens));
  std::vector<float> decoded = std::vector<float>(size(p::heads * p::steps * p::dim)), merged = decoded,
                     piped = decoded;

  answer view() {
    return {attended.data(), lse.data(),     mass.data(),   scores.data(), offset.data(),
            kept.data(),     decoded.data(), merged.data(), piped.data()};
  }
};

/// No chance in it: the same selection on every instruction set must not hang on a near tie.
std::vector<float> wave(std::int64_t count, double step, double size) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(size * std::sin(step * static_cast<double>(i * i % 7919)));
  return x;
}

void same(char const* what, std::vector<float> const& a, std::vector<float> const& b, float tolerance) {
  INFO(what);
  float worst = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::fmax(worst, std::fabs(a[i] - b[i]));
    largest = std::fmax(largest, std::fabs(a[i]));
    REQUIRE(std::isfinite(a[i]));
  }
  CHECK(largest > 0);
  CHECK(worst <= tolerance * largest);
}

}  // namespace

TEST_CASE("files compiled for different instruction sets give the same answers in one program") {
  using p = problem;
  constexpr std::int64_t all = p::tokens + p::steps;
  std::vector<float> const q = wave(p::heads * all * p::dim, .7, 1), k = wave(p::kv_heads * all * p::dim, 1.3, .5),
                           v = wave(p::kv_heads * all * p::dim, 2.9, 1);
  std::vector<std::int32_t> positions;
  for (std::int32_t t = 0; t < all; ++t) positions.push_back(2 * t);
  problem const in{q.data(), k.data(), v.data(), positions.data()};

  constexpr std::size_t bytes = std::size_t{64} << 20;
  std::vector<char> memory(bytes + 64);
  void* data = memory.data();
  std::size_t space = memory.size();
  purekv::workspace const scratch{std::align(64, bytes, data, space), bytes};

  owned_answer baseline, other;
  CHECK(std::string(name_baseline) == "baseline");
  char const* failed = run_baseline(in, baseline.view(), scratch);
  REQUIRE_MESSAGE(failed == nullptr, failed);
  CHECK(baseline.offset.back() == 2 * (p::tokens / 5));

  auto compare = [&](char const* name, char const* expected, auto run) {
    CAPTURE(expected);
    CHECK(std::string(name) == expected);
    char const* const wrong = run(in, other.view(), scratch);
    REQUIRE_MESSAGE(wrong == nullptr, wrong);
    same("attend", baseline.attended, other.attended, 1e-5f);
    same("lse", baseline.lse, other.lse, 1e-5f);
    same("mass", baseline.mass, other.mass, 1e-5f);
    same("score", baseline.scores, other.scores, 1e-5f);
    CHECK(baseline.offset == other.offset);
    CHECK(baseline.kept == other.kept);
    same("decode", baseline.decoded, other.decoded, 1e-5f);
    same("merge", other.decoded, other.merged, 1e-5f);
    same("pipeline", baseline.piped, other.piped, 1e-5f);
  };
  bool const v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool const v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (v3)
    compare(name_v3, "avx2", run_v3);
  else
    MESSAGE("no AVX2 here: linked, not run");
  if (v4)
    compare(name_v4, "avx512", run_v4);
  else
    MESSAGE("no AVX-512 here: linked, not run");
}
