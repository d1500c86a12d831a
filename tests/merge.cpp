// SPDX-License-Identifier: Apache-2.0
#include <purekv/merge.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

using namespace fixtures;
using purekv::bfloat16;
using purekv::errc;
using purekv::half;
using purekv::status;

namespace {

float const inf = std::numeric_limits<float>::infinity(), nan_lse = std::numeric_limits<float>::quiet_NaN();

template <class T> struct owned_parts {
  std::vector<owned_rows<T>> out;
  std::vector<owned_scores> lse;
  std::vector<purekv::partial<T>> parts;

  owned_parts(generator& random, int count, int heads, int tokens, int dim) {
    for (int p = 0; p < count; ++p) {
      out.emplace_back(heads, tokens, dim, p % 2 == 0 ? order::token_major : order::head_major, p % 3);
      lse.emplace_back(1, heads, tokens, p % 2);
      out.back().fill_normal(random);
      for (float& x : lse.back().memory) x = 20 * normal(random);
    }
    for (int p = 0; p < count; ++p)
      parts.push_back({out[size(p)].rows(), lse[size(p)].view.data, lse[size(p)].view.row_stride});
  }
  int count() const { return static_cast<int>(parts.size()); }
};

template <class T> void check(owned_parts<T> const& in) {
  purekv::rows_view<T const> const& shape = in.parts[0].out;
  std::vector<T> first;
  std::vector<float> first_lse;
  for (int ranks : {1, 2, 3, 7}) {
    CAPTURE(ranks);
    owned_rows<T> out(shape.heads, shape.tokens, shape.dim, order::token_major, 3);
    owned_scores lse(1, shape.heads, shape.tokens, 2);
    status const done = status_on_ranks(ranks, [&](purekv::cpu exec) {
      return purekv::merge(exec, in.parts.data(), in.count(), out.view, lse.view.data, lse.view.row_stride);
    });
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(out.gaps_untouched());
    CHECK(lse.rest_untouched([&](int, int) { return shape.tokens; }));
    if (first.empty()) {
      first = out.memory;
      first_lse = lse.memory;
      for (int h = 0; h < shape.heads; ++h)
        for (int t = 0; t < shape.tokens; ++t) {
          std::vector<oracle::vector> outs;
          std::vector<double> lses;
          for (auto const& part : in.parts) {
            outs.push_back(oracle::read_rows(part.out, h, t, t + 1).row(0).transpose());
            lses.push_back(part.lse[h * part.lse_stride + t]);
          }
          auto const expected = oracle::merge(outs, lses);
          float const actual_lse = lse.view.row(0, h)[t];
          if (expected.lse == -oracle::infinity)
            CHECK(actual_lse == -inf);
          else
            CHECK(actual_lse == doctest::Approx(expected.lse).epsilon(1e-6));
          for (int c = 0; c < shape.dim; ++c) {
            double bound = 0;
            for (auto const& part : outs) bound = std::max(bound, std::abs(part(c)));
            bound = 8e-7 * bound + oracle::rounding_error<T>(bound);
            CHECK(std::abs(oracle::exact(out.view.row(h, t)[c]) - expected.out(c)) <= bound);
          }
        }
    } else {
      CHECK(std::memcmp(first.data(), out.memory.data(), first.size() * sizeof(T)) == 0);
      CHECK(std::memcmp(first_lse.data(), lse.memory.data(), first_lse.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace

TEST_CASE("parts become one, each by its share of the sum") {
  SEEDED(random);
  for (int dim : {1, 16, 30, 64, 300}) {
    check(owned_parts<float>(random, between(random, 1, 5), 3, 19, dim));
    check(owned_parts<half>(random, 3, 2, between(random, 1, 40), dim));
    check(owned_parts<bfloat16>(random, 2, 1, 3, dim));
  }
}

TEST_CASE("a part that saw nothing counts for nothing, whatever it holds; all such give 0 and -inf") {
  SEEDED(random);
  owned_parts<float> in(random, 3, 2, 6, 20);
  for (int t : {0, 1, 2}) {
    in.lse[1].view.row(0, 1)[t] = -inf;
    in.out[1].view.row(1, t)[7] = std::numeric_limits<float>::quiet_NaN();
  }
  for (auto& lse : in.lse) lse.view.row(0, 0)[5] = -inf;
  check(in);
  owned_rows<float> out(2, 6, 20);
  owned_scores lse(1, 2, 6);
  REQUIRE(purekv::merge(purekv::cpu{}, in.parts.data(), 3, out.view, lse.view.data, 6).ok());
  CHECK(lse.view.row(0, 0)[5] == -inf);
  for (int c = 0; c < 20; ++c) CHECK(out.view.row(0, 5)[c] == 0);
}

TEST_CASE("an lse of NaN counts for nothing, an lse of inf as the largest float") {
  SEEDED(random);
  owned_parts<float> in(random, 2, 1, 3, 4);
  float const lses[2][3] = {{nan_lse, inf, inf}, {1.5f, 3.0f, inf}};
  for (int p = 0; p < 2; ++p)
    for (int t = 0; t < 3; ++t) in.lse[size(p)].view.row(0, 0)[t] = lses[p][t];
  owned_rows<float> out(1, 3, 4);
  REQUIRE(purekv::merge(purekv::cpu{}, in.parts.data(), 2, out.view, nullptr, 0).ok());
  for (int c = 0; c < 4; ++c) {
    CHECK(out.view.row(0, 0)[c] == in.out[1].view.row(0, 0)[c]);
    CHECK(out.view.row(0, 1)[c] == in.out[0].view.row(0, 1)[c]);
    CHECK(out.view.row(0, 2)[c] ==
          doctest::Approx(0.5 * (double{in.out[0].view.row(0, 2)[c]} + double{in.out[1].view.row(0, 2)[c]})));
  }
}

TEST_CASE("a part far below the others does not reach the result, even if it holds NaN") {
  SEEDED(random);
  owned_parts<float> in(random, 2, 1, 1, 8);
  in.lse[0].view.row(0, 0)[0] = 500;
  in.lse[1].view.row(0, 0)[0] = -500;
  in.out[1].view.row(0, 0)[3] = std::numeric_limits<float>::quiet_NaN();
  owned_rows<float> out(1, 1, 8);
  REQUIRE(purekv::merge(purekv::cpu{}, in.parts.data(), 2, out.view, nullptr, 0).ok());
  for (int c = 0; c < 8; ++c) CHECK(out.view.row(0, 0)[c] == in.out[0].view.row(0, 0)[c]);
}

TEST_CASE("out and lse may be those of a part") {
  SEEDED(random);
  for (int dim : {20, 600}) {
    owned_parts<float> in(random, 3, 2, 40, dim);
    owned_rows<float> out(2, 40, dim);
    owned_scores lse(1, 2, 40);
    REQUIRE(purekv::merge(purekv::cpu{}, in.parts.data(), 3, out.view, lse.view.data, 40).ok());
    status const done = status_on_ranks(2, [&](purekv::cpu exec) {
      return purekv::merge(exec, in.parts.data(), 3, in.out[1].view, in.lse[1].view.data, in.lse[1].view.row_stride);
    });
    REQUIRE(done.ok());
    for (int h = 0; h < 2; ++h)
      for (int t = 0; t < 40; ++t) {
        CHECK(in.lse[1].view.row(0, h)[t] == lse.view.row(0, h)[t]);
        for (int c = 0; c < dim; ++c) CHECK(in.out[1].view.row(h, t)[c] == out.view.row(h, t)[c]);
      }
  }
}
