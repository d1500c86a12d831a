// SPDX-License-Identifier: Apache-2.0
#include "odr/operations.hpp"

#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/dispatch.hpp>
#include <purekv/pattern/dense.hpp>

#include <bit>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

using purekv::bfloat16;
using purekv::half;

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

constexpr purekv::isa levels[] = {PUREKV_LEVELS};  // lowest first

operations chosen(char const* name) {
  operations o;
  purekv::status const s = purekv::choose<operations, PUREKV_LEVELS>(o, name);
  REQUIRE_MESSAGE(s.ok(), s.message);
  CHECK(std::string(o.name) == name);
  return o;
}

/// f(operations) of each level that this machine runs, lowest first.
template <class F> void for_each_level(F const& f) {
  for (purekv::isa level : levels) {
    CAPTURE(purekv::name_of(level));
    if (purekv::runs_here(level))
      f(chosen(purekv::name_of(level)));
    else
      MESSAGE("linked, not run");
  }
}

template <class Table> Table of(operations const& o) {
  if constexpr (std::is_same_v<Table, decltype(o.on_float)>)
    return o.on_float;
  else if constexpr (std::is_same_v<Table, decltype(o.on_half)>)
    return o.on_half;
  else if constexpr (std::is_same_v<Table, decltype(o.on_mixed)>)
    return o.on_mixed;
  else
    return o.on_bfloat16;
}

template <class Input, class Bytes, class Run>
void check(fixtures::shape const& s, Input const& in, Bytes bytes, Run run) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.span[0]);
  fixtures::check_attention<float>(
      in, s, oracle::attend(purekv::dense{}, in.queries, in.cache.view), {},
      [&](purekv::cpu exec, purekv::attend_taps const& taps) { return bytes(exec, in.queries, in.cache.view, taps); },
      [&](purekv::cpu exec, purekv::rows_view<float> const& out, purekv::attend_taps const& taps,
          purekv::workspace const& work) { return run(exec, in.queries, in.cache.view, out, taps, work); },
      {1, 3});
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
  operations const lowest = chosen(purekv::name_of(levels[0]));
  char const* failed = lowest.run(in, baseline.view(), scratch);
  REQUIRE_MESSAGE(failed == nullptr, failed);
  CHECK(baseline.offset.back() == 2 * (p::tokens / 5));

  for_each_level([&](operations const& level) {
    char const* const wrong = level.run(in, other.view(), scratch);
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
  });
}

TEST_CASE_TEMPLATE("every instruction set agrees with the oracle", Table, on_cache<float, float>, on_cache<half, half>,
                   on_cache<float, bfloat16>, on_cache<bfloat16, bfloat16>) {
  using TQ = typename Table::query;
  using T = typename Table::element;
  for_each_level([&](operations const& level) {
    SEEDED(random);
    Table const on = of<Table>(level);
    for (int dim : {1, 7, 64, 72, 80, 128})
      for (int kv_heads : {1, 3, 4}) {
        fixtures::shape s = fixtures::square(12 / kv_heads * kv_heads, kv_heads, dim, random.between(1, 150));
        s.soft_cap = random.between(0, 2) == 0 ? 5.0f : 0;
        s.sinks = random.between(0, 2) == 0;
        fixtures::attention_input<TQ, fixtures::owned_contiguous<T>> const prompt(random, s);
        check(s, prompt, on.attend_bytes, on.attend);
        s.queries = {std::min(s.queries[0], random.between(1, 3))};
        fixtures::attention_input<TQ, fixtures::owned_contiguous<T>> const step(random, s);
        check(s, step, on.decode_bytes, on.decode);
      }
  });
}

TEST_CASE_TEMPLATE("every instruction set rounds and widens every value alike", T, half, bfloat16) {
  for_each_level([&](operations const& level) {
    SEEDED(random);
    auto const on = of<on_cache<T, T>>(level);
    std::vector<T> stored(0x10000 + 5), back(stored.size());
    for (std::size_t i = 0; i < stored.size(); ++i) stored[i].bits = static_cast<std::uint16_t>(i);
    std::vector<float> wide(stored.size());
    auto const n = static_cast<std::int64_t>(stored.size());
    auto const same_number = [](float a, float b) { return a == b || (a != a && b != b); };
    on.widen(stored.data(), wide.data(), n);
    int wrong = 0;
    for (std::size_t i = 0; i < wide.size(); ++i) wrong += !same_number(wide[i], static_cast<float>(stored[i]));
    CHECK(wrong == 0);
    for (int round = 0; round < 4; ++round) {  // any bits, the ties between neighbours, and what lies beside those
      for (std::size_t i = 0; i < wide.size(); ++i) {
        float const tie =
            0.5f * static_cast<float>(stored[i]) + 0.5f * static_cast<float>(stored[(i + 1) % stored.size()]);
        wide[i] = round == 0   ? std::bit_cast<float>(static_cast<std::uint32_t>(random()))
                  : round == 1 ? tie
                               : std::nextafter(tie, round == 2 ? 0.0f : HUGE_VALF);
      }
      on.narrow(wide.data(), back.data(), n);
      for (std::size_t i = 0; i < wide.size(); ++i)
        wrong += !same_number(static_cast<float>(back[i]), static_cast<float>(T(wide[i])));
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("a program is run at the best level of the machine unless it is told another") {
  operations best, named;
  REQUIRE(purekv::choose<operations, PUREKV_LEVELS>(best).ok());
  std::string last;
  for_each_level([&](operations const& level) { last = level.name; });
  CHECK(best.name == last);
  purekv::status const s =
      purekv::choose<operations, PUREKV_LEVELS>(named, levels[0] == purekv::isa::neon ? "avx2" : "neon");
  CHECK(s.code == purekv::errc::mismatch);
}
