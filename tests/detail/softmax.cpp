// SPDX-License-Identifier: Apache-2.0
#include <purekv/detail/softmax.hpp>
// The header under test comes first.
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using purekv::query_view;
using purekv::detail::hidden_logit;
using purekv::detail::largest_logit;
using purekv::detail::soft_cap;

TEST_CASE("soft_cap: cap * tanh(s / cap) to 3e-7 of the logit, in the domain of exp2") {
  SEEDED(random);
  double worst = 0;
  for (float cap : {0x1p-100f, 0.5f, 30.0f, 50.0f, 1e6f, 0x1p100f}) {
    query_view<float> q;
    q.soft_cap = cap;
    soft_cap const bend(q);
    REQUIRE(bend);
    double const c = double{cap} * std::log2(std::exp(1.0));
    for (int i = 0; i < 200'000; ++i) {
      float const x = std::exp2(random.uniform(-30, 5));
      float const s = static_cast<float>(c * double{random.between(0, 1) == 0 ? x : -x});
      if (!std::isnormal(s)) continue;
      double const exact = c * std::tanh(double{s} / c);
      double const error = std::abs(double{bend(s)} / exact - 1);
      worst = std::max(worst, error);
      if (error > 3e-7) FAIL_CHECK(cap, " bends ", s, " to ", bend(s), ", should be ", exact);
    }
    CHECK(bend(0.0f) == 0);
    CHECK(bend(std::numeric_limits<float>::infinity()) == doctest::Approx(c));
    CHECK(bend(-std::numeric_limits<float>::infinity()) == doctest::Approx(-c));
    CHECK(bend(largest_logit) <= bend(std::numeric_limits<float>::infinity()));
    CHECK(std::isnan(bend(std::numeric_limits<float>::quiet_NaN())));
  }
  MESSAGE("largest relative error: ", worst);
}

TEST_CASE("soft_cap: 0 is none") { CHECK(!soft_cap(query_view<float>{})); }

TEST_CASE("sink_logit: in the domain of exp2, within the range of float, hidden where there is none") {
  float const sinks[] = {0, 2, -3, hidden_logit, largest_logit, -largest_logit};
  query_view<float> q;
  CHECK(purekv::detail::sink_logit(q, 3) == hidden_logit);
  q.sink_logits = sinks;
  CHECK(purekv::detail::sink_logit(q, 0) == 0);
  CHECK(purekv::detail::sink_logit(q, 1) == doctest::Approx(2 * 1.4426950408889634));
  CHECK(purekv::detail::sink_logit(q, 2) == doctest::Approx(-3 * 1.4426950408889634));
  CHECK(purekv::detail::sink_logit(q, 3) == hidden_logit);
  CHECK(purekv::detail::sink_logit(q, 4) == largest_logit);
  CHECK(purekv::detail::sink_logit(q, 5) == -largest_logit);
}
