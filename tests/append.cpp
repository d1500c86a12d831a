// SPDX-License-Identifier: Apache-2.0
#include <purekv/append.hpp>
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

/// New tokens for a cache: counts[s] tokens of each sequence, positions with holes.
template <class TI> struct new_tokens {
  owned_rows<TI> k, v;
  std::vector<std::int32_t> offset{0}, positions;

  new_tokens(generator& random, std::vector<int> const& counts, std::vector<std::int32_t> const& newest, int kv_heads,
             int dim, int value_dim = 0)
      : k(kv_heads, std::accumulate(counts.begin(), counts.end(), 0), dim, order::token_major, between(random, 0, 2)),
        v(kv_heads, k.view.tokens, value_dim != 0 ? value_dim : dim, order::head_major, between(random, 0, 2)) {
    k.fill_normal(random);
    v.fill_normal(random);
    for (std::size_t s = 0; s < counts.size(); ++s) {
      std::int32_t position = newest[s];
      for (int t = 0; t < counts[s]; ++t) positions.push_back(position += between(random, 1, 3));
      offset.push_back(offset.back() + counts[s]);
    }
  }
  purekv::batch_view batch() const {
    return {static_cast<std::int32_t>(offset.size()) - 1, offset.data(), positions.data()};
  }
};

/// A cache as bytes, to compare with what a plain loop makes of it.
template <class T> struct contents {
  std::vector<T> keys, values;
  std::vector<std::int32_t> positions, lengths;

  template <class Owned> explicit contents(Owned const& o) : keys(o.keys), values(o.values), positions(o.positions) {
    for (int s = 0; s < o.view.sequences; ++s)
      for (int h = 0; h < o.view.kv_heads; ++h) lengths.push_back(o.view.length(s, h));
  }
  bool operator==(contents const& o) const {
    return std::memcmp(keys.data(), o.keys.data(), keys.size() * sizeof(T)) == 0 &&
           std::memcmp(values.data(), o.values.data(), values.size() * sizeof(T)) == 0 && positions == o.positions &&
           lengths == o.lengths;
  }
};

template <class T, class TI, class Make>
void check(generator& random, std::vector<int> const& counts, Make const& make, int kv_heads, int dim, int value_dim) {
  std::vector<std::int32_t> const newest(counts.size(), 9);
  new_tokens<TI> const added(random, counts, newest, kv_heads, dim, value_dim);
  std::uint64_t const seed = random();
  auto const filled = [&] {
    auto cache = make();
    generator again(seed);
    for (int s = 0; s < cache.view.sequences; ++s)
      for (int h = 0; h < kv_heads; ++h)
        for (int t = between(again, 0, 4), position = 0; t > 0; --t)
          push(
              cache.view, s, h, position++, [&](int) { return normal(again); }, [&](int) { return normal(again); });
    return cache;
  };

  auto expected = filled();
  for (std::size_t s = 0; s < counts.size(); ++s)
    for (int h = 0; h < kv_heads; ++h)
      for (int t = added.offset[s]; t < added.offset[s + 1]; ++t) {
        auto const rounded = [&](TI x) { return static_cast<float>(oracle::rounded<T>(oracle::exact(x))); };
        push(
            expected.view, static_cast<int>(s), h, added.positions[size(t)],
            [&](int c) { return rounded(added.k.view.row(h, t)[c]); },
            [&](int c) { return rounded(added.v.view.row(h, t)[c]); });
      }
  for (int ranks : {1, 2, 3, 7}) {
    CAPTURE(ranks);
    auto cache = filled();
    status const done = status_on_ranks(ranks, [&](purekv::cpu exec) {
      return purekv::append(exec, added.k.rows(), added.v.rows(), added.batch(), cache.view);
    });
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(contents<T>(cache) == contents<T>(expected));
  }
}

template <class T, class TI> void check_both(generator& random) {
  for (int dim : {1, 5, 16, 64, 72}) {
    int const kv_heads = between(random, 1, 3), value_dim = between(random, 0, 1) * between(random, 1, 90);
    std::vector<int> const counts{between(random, 0, 3), 0, 1, 200, between(random, 0, 70)};
    check<T, TI>(
        random, counts,
        [&, o = between(random, 0, 1)] {
          return owned_contiguous<T>(5, kv_heads, 204, dim, o == 0 ? order::head_major : order::token_major, 3,
                                     beyond::nan, value_dim);
        },
        kv_heads, dim, value_dim);
    check<T, TI>(
        random, counts,
        [&] {
          std::vector<std::int32_t> capacities;
          for (int count : counts) capacities.insert(capacities.end(), size(kv_heads), count + 4);
          return owned_ragged<T>(5, kv_heads, capacities, dim, 1, 2, beyond::nan, value_dim);
        },
        kv_heads, dim, value_dim);
  }
}

}  // namespace

TEST_CASE("append adds rows, converted, behind those of each head and touches nothing else") {
  SEEDED(random);
  check_both<float, float>(random);
  check_both<half, float>(random);
  check_both<bfloat16, float>(random);
  check_both<half, half>(random);
  check_both<float, bfloat16>(random);
}

TEST_CASE("append without offsets is one sequence; without tokens it is nothing") {
  SEEDED(random);
  owned_contiguous<float> cache(1, 2, 8, 4);
  new_tokens<float> const added(random, {5}, {-1}, 2, 4);
  REQUIRE(
      purekv::append(purekv::cpu{}, added.k.rows(), added.v.rows(), {1, nullptr, added.positions.data()}, cache.view)
          .ok());
  CHECK(cache.view.length(0, 1) == 5);
  CHECK(*cache.view.run(0, 1, 4).positions == added.positions[4]);
  contents<float> const before(cache);
  purekv::rows_view<float const> const none{nullptr, 2, 0, 4, 0, 0};
  REQUIRE(purekv::append(purekv::cpu{}, none, none, {1, nullptr, nullptr}, cache.view).ok());
  CHECK(contents<float>(cache) == before);
}

TEST_CASE(
    "append fills a head to the last slot and not beyond, and writes nothing when one head of the batch is full") {
  SEEDED(random);
  new_tokens<half> const added(random, {2, 3}, {0, 0}, 2, 4);
  for (int room : {3, 2}) {
    owned_ragged<half> cache(2, 2, {5, 5, 5, room}, 4);
    contents<half> const before(cache);
    for (int ranks : {1, 3}) {
      owned_ragged<half> other(2, 2, {5, 5, 5, room}, 4);
      errc const code = status_on_ranks(ranks, [&](purekv::cpu exec) {
                          return purekv::append(exec, added.k.rows(), added.v.rows(), added.batch(), other.view);
                        }).code;
      CHECK(code == (room == 3 ? errc::ok : errc::capacity_exceeded));
      CHECK((contents<half>(other) == before) == (room == 2));
    }
  }
}

TEST_CASE("appending step by step is appending at once") {
  SEEDED(random);
  new_tokens<float> const all(random, {40}, {-1}, 2, 8);
  owned_contiguous<half> at_once(1, 2, 40, 8), stepwise(1, 2, 40, 8);
  REQUIRE(purekv::append(purekv::cpu{}, all.k.rows(), all.v.rows(), all.batch(), at_once.view).ok());
  for (int begin = 0; begin < 40;) {
    int const count = std::min(between(random, 0, 9), 40 - begin);
    auto const part = [&](purekv::rows_view<float const> rows) {
      rows.data = rows.row(0, begin);
      rows.tokens = count;
      return rows;
    };
    REQUIRE(purekv::append(purekv::cpu{}, part(all.k.rows()), part(all.v.rows()),
                           {1, nullptr, all.positions.data() + begin}, stepwise.view)
                .ok());
    begin += count;
  }
  CHECK(contents<half>(stepwise) == contents<half>(at_once));
}
