// SPDX-License-Identifier: Apache-2.0
#include <purekv/team.hpp>

#include <purekv/thread_team.hpp>

#include "support/random.hpp"

#include <bit>
#include <cmath>

using namespace purekv;

static_assert(Team<cpu>);
static_assert(!Team<int>);

TEST_CASE("sum gives the same bits to every rank of every team") {
  SEEDED(random);
  for (std::int32_t const n : {0, 1, 7, 1023, 1024, 1025, 5000, 40000}) {
    std::vector<float> x(static_cast<std::size_t>(n));
    random.fill_normal(x);
    double exact = 0, magnitude = 0;
    for (float const v : x) {
      exact += static_cast<double>(v);
      magnitude += static_cast<double>(std::fabs(v));
    }
    auto value = [&](std::int32_t i) { return x[static_cast<std::size_t>(i)]; };
    std::vector<float> scratch(static_cast<std::size_t>(sum_scratch(n)));
    float const alone = sum(cpu{}, n, value, scratch.data());
    CHECK(static_cast<double>(alone) == doctest::Approx(exact).epsilon(1e-6).scale(magnitude + 1));
    for (std::int32_t const ranks : {1, 2, 3, 5, 8, 32}) {
      thread_team team(ranks);
      std::vector<float> totals(static_cast<std::size_t>(ranks));
      team.run([&](cpu exec) {
        float const first = sum(exec, n, value, scratch.data());
        float const second = sum(exec, n, value, scratch.data());  // the scratch is free again
        totals[static_cast<std::size_t>(exec.rank())] = first == second ? first : NAN;
      });
      CAPTURE(n);
      CAPTURE(ranks);
      for (float const t : totals) REQUIRE(std::bit_cast<std::uint32_t>(t) == std::bit_cast<std::uint32_t>(alone));
    }
  }
}

TEST_CASE("a lone cpu needs no barrier") {
  cpu const exec;
  CHECK(exec.rank() == 0);
  CHECK(exec.size() == 1);
  exec.sync();
}

TEST_CASE("a cpu waits at the barrier of its engine") {
  int waits = 0;
  cpu const exec{1, 4, [](void* context) { ++*static_cast<int*>(context); }, &waits};
  CHECK(exec.rank() == 1);
  CHECK(exec.size() == 4);
  exec.sync();
  CHECK(waits == 1);
}
