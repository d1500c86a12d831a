// SPDX-License-Identifier: Apache-2.0
#include <purekv/take_back.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/append.hpp>

using namespace purekv;
using fixtures::size;

namespace {

template <class Owned> void fill(fixtures::generator& random, Owned& cache, std::vector<int> const& lengths) {
  for (int r = 0; r < static_cast<int>(lengths.size()); ++r)
    for (int t = 0; t < lengths[size(r)]; ++t)
      fixtures::push(
          cache.view, r / cache.view.kv_heads, r % cache.view.kv_heads, 2 * t,
          [&](int) { return fixtures::normal(random); }, [&](int) { return fixtures::normal(random); });
}

template <class Owned> void check(fixtures::generator& random, Owned& cache, std::vector<int> const& lengths) {
  auto const& view = cache.view;
  fill(random, cache, lengths);
  fixtures::snapshot data;
  data.watch(cache.keys);
  data.watch(cache.values);
  data.watch(cache.positions);
  std::vector<std::int32_t> const tokens{3, 0};
  for (int ranks : {1, 3}) {
    auto const before = lengths;
    status const done =
        fixtures::status_on_ranks(ranks, [&](cpu exec) { return take_back(exec, tokens.data(), view); });
    REQUIRE_MESSAGE(done.ok(), done.message);
    for (int s = 0; s < 2; ++s)
      for (int h = 0; h < 2; ++h) {
        CHECK(view.length(s, h) == before[size(2 * s + h)] - tokens[size(s)]);
        view.set_length(s, h, before[size(2 * s + h)]);
      }
  }
  CHECK(data.unchanged());

  auto const refused = [&](std::int32_t const* counts, auto const& where) {
    std::vector<errc> codes;
    for (int ranks : {1, 3})
      codes.push_back(fixtures::status_on_ranks(ranks, [&](cpu exec) { return take_back(exec, counts, where); }).code);
    CHECK(codes[0] == codes[1]);
    for (int r = 0; r < 4; ++r) CHECK(view.length(r / 2, r % 2) == lengths[size(r)]);
    return codes[0];
  };
  std::vector<std::int32_t> const too_many{1, 2}, negative{1, -1};
  CHECK(refused(too_many.data(), view) == errc::capacity_exceeded);
  CHECK(refused(negative.data(), view) == errc::bad_shape);
  CHECK(refused(nullptr, view) == errc::null_data);
  auto broken = view;
  broken.kv_heads = 0;
  CHECK(refused(tokens.data(), broken) == errc::bad_shape);
}

}  // namespace

TEST_CASE("take_back: lengths shrink by each sequence's number, nothing else changes; bad numbers change nothing") {
  SEEDED(random);
  std::vector<int> const lengths{3, 7, 1, 4};
  fixtures::owned_contiguous<float> contiguous(2, 2, 8, 3);
  check(random, contiguous, lengths);
  fixtures::owned_ragged<half> ragged(2, 2, {4, 7, 2, 5}, 3, 1, 1);
  check(random, ragged, lengths);
}

TEST_CASE("take_back undoes append") {
  SEEDED(random);
  fixtures::owned_ragged<float> cache(1, 2, {9, 6}, 4);
  fill(random, cache, {5, 2});
  fixtures::owned_rows<float> k(2, 3, 4), v(2, 3, 4);
  k.fill_normal(random);
  v.fill_normal(random);
  std::vector<std::int32_t> const positions{20, 21, 30};
  std::int32_t const three = 3;
  for (int round = 0; round < 2; ++round) {  // the second time the positions are free again
    REQUIRE(append(cpu{}, k.rows(), v.rows(), {.positions = positions.data()}, cache.view).ok());
    CHECK(cache.view.length(0, 1) == 5);
    REQUIRE(take_back(cpu{}, &three, cache.view).ok());
    CHECK(cache.view.length(0, 0) == 5);
    CHECK(cache.view.length(0, 1) == 2);
  }
}
