// SPDX-License-Identifier: Apache-2.0
#include <purekv/compact.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <array>

using namespace fixtures;
using purekv::bfloat16;
using purekv::errc;
using purekv::half;
using purekv::selection_scope;
using purekv::status;

namespace {

/// One cached token, as its bits.
template <class T> struct token {
  std::vector<T> key, value;
  std::int32_t position;

  bool operator==(token const& o) const {
    auto const same = [](std::vector<T> const& a, std::vector<T> const& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
    };
    return same(key, o.key) && same(value, o.value) && position == o.position;
  }
};

template <class C> auto read(C const& cache, int s, int h, int slots) {
  std::vector<token<typename C::element>> tokens;
  for (int t = 0; t < slots; ++t) {
    auto const run = cache.run(s, h, t);
    tokens.push_back(
        {{run.keys, run.keys + cache.dim}, {run.values, run.values + purekv::value_dim_of(cache)}, *run.positions});
  }
  return tokens;
}

template <class C> void fill(generator& random, C const& cache, std::vector<int> const& lengths) {
  for (int row = 0; row < static_cast<int>(lengths.size()); ++row)
    for (int t = 0, position = between(random, 0, 5); t < lengths[size(row)]; ++t, position += between(random, 1, 4))
      push(
          cache, row / cache.kv_heads, row % cache.kv_heads, position, [&](int) { return normal(random); },
          [&](int) { return normal(random); });
}

template <class T>
owned_contiguous<T> contiguous(generator& random, std::vector<int> const& lengths, int kv_heads, int dim,
                               int value_dim = 0) {
  owned_contiguous<T> cache(static_cast<int>(lengths.size()) / kv_heads, kv_heads,
                            *std::max_element(lengths.begin(), lengths.end()) + 2, dim,
                            between(random, 0, 1) == 0 ? order::head_major : order::token_major, between(random, 0, 3),
                            beyond::nan, value_dim);
  fill(random, cache.view, lengths);
  return cache;
}
template <class T>
owned_ragged<T> ragged(generator& random, std::vector<int> const& lengths, int kv_heads, int dim, int value_dim = 0) {
  std::vector<std::int32_t> capacities;
  for (int n : lengths) capacities.push_back(n + between(random, 0, 2));
  owned_ragged<T> cache(static_cast<int>(lengths.size()) / kv_heads, kv_heads, capacities, dim, 1, 2, beyond::nan,
                        value_dim);
  fill(random, cache.view, lengths);
  return cache;
}
/// A random share of the tokens of every row, in percent; the lists start `head_start` into the token array.
owned_selection keep_some(generator& random, std::vector<int> const& lengths, int percent,
                          selection_scope scope = selection_scope::kv_head, int head_start = 0) {
  std::int64_t capacity = head_start;
  for (int n : lengths) capacity += n;
  owned_selection kept(static_cast<int>(lengths.size()), capacity, scope);
  std::int64_t end = head_start;
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    kept.offset[row] = end;
    for (int t = 0; t < lengths[row]; ++t)
      if (between(random, 1, 100) <= percent) kept.token[size(end++)] = t;
    kept.offset[row + 1] = end;
  }
  return kept;
}

std::vector<int> const odd_lengths = {0, 1, 17, 300, 64, 129};

/// The view of a copy must point into the copy.
template <class T> owned_contiguous<T> copy_of(owned_contiguous<T> const& original) {
  owned_contiguous<T> copy(1, 1, 0, 1);
  copy.keys = original.keys;
  copy.values = original.values;
  copy.positions = original.positions;
  copy.lengths = original.lengths;
  copy.view = original.view;
  copy.view.keys = copy.keys.data();
  copy.view.values = copy.values.data();
  copy.view.positions = copy.positions.data();
  copy.view.lengths = copy.lengths.data();
  return copy;
}
template <class T> owned_ragged<T> copy_of(owned_ragged<T> const& original) {
  owned_ragged<T> copy(1, 1, {0}, 1);
  copy.keys = original.keys;
  copy.values = original.values;
  copy.positions = original.positions;
  copy.extents = original.extents;
  copy.view = original.view;
  copy.view.keys = copy.keys.data();
  copy.view.values = copy.values.data();
  copy.view.positions = copy.positions.data();
  copy.view.extents = copy.extents.data();
  return copy;
}

template <class Owned> void check_in_place(generator& random, Owned const& original, purekv::selection const& kept) {
  using T = typename decltype(original.view)::element;
  std::int64_t slots = static_cast<std::int64_t>(original.positions.size());
  std::vector<float> weights(size(slots));
  std::vector<std::array<unsigned char, 7>> codes(size(slots));
  for (std::int64_t i = 0; i < slots; ++i) {
    weights[size(i)] = normal(random);
    for (unsigned char& x : codes[size(i)]) x = static_cast<unsigned char>(random());
  }
  for (int ranks : {1, 2, 3, 7}) {
    CAPTURE(ranks);
    Owned cache = copy_of(original);
    auto moved_weights = weights;
    auto moved_codes = codes;
    purekv::token_track const tracks[] = {{moved_weights.data(), sizeof(float)}, {moved_codes.data(), 7}};
    status const done =
        status_on_ranks(ranks, [&](purekv::cpu exec) { return purekv::compact(exec, kept, cache.view, tracks, 2); });
    REQUIRE_MESSAGE(done.ok(), done.message);

    // What a plain loop makes of a copy, everything between and behind the rows included.
    Owned expected = copy_of(original);
    auto expected_weights = weights;
    auto expected_codes = codes;
    for (int s = 0; s < cache.view.sequences; ++s)
      for (int h = 0; h < cache.view.kv_heads; ++h) {
        int const row = kept.row_of(s, h, cache.view.kv_heads);
        for (int i = 0; i < kept.count(row); ++i) {
          int const t = kept.tokens(row)[i];
          auto const from = original.view.run(s, h, t), to = expected.view.run(s, h, i);
          std::memcpy(static_cast<void*>(to.keys), from.keys, size(cache.view.dim) * sizeof(T));
          std::memcpy(static_cast<void*>(to.values), from.values, size(purekv::value_dim_of(cache.view)) * sizeof(T));
          *to.positions = *from.positions;
          expected_weights[size(cache.view.slot(s, h, i))] = weights[size(cache.view.slot(s, h, t))];
          expected_codes[size(cache.view.slot(s, h, i))] = codes[size(cache.view.slot(s, h, t))];
        }
        CHECK(cache.view.length(s, h) == kept.count(row));
        CHECK(read(cache.view, s, h, original.view.length(s, h)) ==
              read(expected.view, s, h, original.view.length(s, h)));
      }
    CHECK(std::memcmp(cache.keys.data(), expected.keys.data(), cache.keys.size() * sizeof(T)) == 0);
    CHECK(std::memcmp(cache.values.data(), expected.values.data(), cache.values.size() * sizeof(T)) == 0);
    CHECK(cache.positions == expected.positions);
    CHECK(moved_weights == expected_weights);
    CHECK(moved_codes == expected_codes);
  }
}

template <class T, class D> void check_to_another(generator& random, int dim, int value_dim = 0) {
  auto const source = contiguous<T>(random, odd_lengths, 2, dim, value_dim);
  for (int percent : {0, 20, 100}) {
    auto const kept = keep_some(random, odd_lengths, percent, selection_scope::kv_head, between(random, 0, 3));
    int const slack = between(random, 0, 4);
    std::vector<purekv::extent> extents(6);
    std::int64_t const slots = purekv::lay_out(kept.view, 3, 2, slack, extents.data());
    std::vector<std::int32_t> capacities;
    for (std::size_t row = 0; row < 6; ++row) {
      CHECK(extents[row].begin == (row == 0 ? 0 : extents[row - 1].begin + extents[row - 1].capacity));
      CHECK(extents[row].length == 0);
      CHECK(extents[row].capacity == kept.view.count(static_cast<int>(row)) + slack);
      capacities.push_back(extents[row].capacity);
    }
    CHECK(slots == extents[5].begin + extents[5].capacity);
    for (int ranks : {1, 2, 3, 7}) {
      CAPTURE(ranks);
      owned_ragged<D> destination(3, 2, capacities, dim, 2, 0, beyond::nan, value_dim);
      destination.view.set_length(1, 0, capacities[2]);  // what it held is forgotten
      owned_ragged<D> const untouched(3, 2, capacities, dim, 2, 0, beyond::nan, value_dim);
      snapshot before;
      before.watch(source.keys);
      before.watch(source.values);
      before.watch(source.positions);
      before.watch(source.lengths);
      status const done = status_on_ranks(
          ranks, [&](purekv::cpu exec) { return purekv::compact(exec, kept.view, source.view, destination.view); });
      REQUIRE_MESSAGE(done.ok(), done.message);
      CHECK(before.unchanged());
      std::vector<bool> written(destination.keys.size(), false), written_values(destination.values.size(), false);
      for (int s = 0; s < 3; ++s)
        for (int h = 0; h < 2; ++h) {
          auto const row = kept.row(s * 2 + h);
          REQUIRE(destination.view.length(s, h) == static_cast<int>(row.size()));
          for (int i = 0; i < static_cast<int>(row.size()); ++i) {
            auto const from = source.view.run(s, h, row[size(i)]);
            auto const to = destination.view.run(s, h, i);
            CHECK(*to.positions == *from.positions);
            for (int c = 0; c < dim; ++c) {
              CHECK(oracle::exact(to.keys[c]) == oracle::rounded<D>(oracle::exact(from.keys[c])));
              written[size(to.keys + c - destination.keys.data())] = true;
            }
            for (int c = 0; c < purekv::value_dim_of(source.view); ++c) {
              CHECK(oracle::exact(to.values[c]) == oracle::rounded<D>(oracle::exact(from.values[c])));
              written_values[size(to.values + c - destination.values.data())] = true;
            }
          }
        }
      for (std::size_t i = 0; i < written.size(); ++i)
        if (!written[i]) CHECK(same_bits(destination.keys[i], untouched.keys[i]));
      for (std::size_t i = 0; i < written_values.size(); ++i)
        if (!written_values[i]) CHECK(same_bits(destination.values[i], untouched.values[i]));
    }
  }
}

}  // namespace

TEST_CASE("in place the kept rows move to the front, with their tracks, and nothing else changes") {
  SEEDED(random);
  for (int percent : {0, 3, 20, 97, 100})
    for (int dim : {1, 8, 33}) {
      auto const kept = keep_some(random, odd_lengths, percent, selection_scope::kv_head, between(random, 0, 2));
      check_in_place(random, contiguous<half>(random, odd_lengths, 3, dim), kept.view);
      check_in_place(random, ragged<float>(random, odd_lengths, 2, dim), kept.view);
      check_in_place(random, ragged<bfloat16>(random, odd_lengths, 6, dim), kept.view);
    }
}

TEST_CASE("a selection of scope layer speaks for every head of a sequence") {
  SEEDED(random);
  std::vector<int> const lengths{40, 40, 40, 7, 7, 7};
  auto const kept = keep_some(random, {40, 7}, 30, selection_scope::layer);
  check_in_place(random, contiguous<float>(random, lengths, 3, 16), kept.view);
  auto const source = ragged<half>(random, lengths, 3, 16);
  std::vector<purekv::extent> extents(6);
  CHECK(purekv::lay_out(kept.view, 2, 3, 1, extents.data()) ==
        3 * (kept.view.count(0) + 1) + 3 * (kept.view.count(1) + 1));
  owned_contiguous<half> destination(2, 3, 40, 16);
  REQUIRE(purekv::compact(purekv::cpu{}, kept.view, source.view, destination.view).ok());
  for (int s = 0; s < 2; ++s)
    for (int h = 0; h < 3; ++h) {
      REQUIRE(destination.view.length(s, h) == kept.view.count(s));
      auto const tokens = read(source.view, s, h, source.view.length(s, h));
      auto const moved = read(destination.view, s, h, destination.view.length(s, h));
      for (int i = 0; i < kept.view.count(s); ++i) CHECK(moved[size(i)] == tokens[size(kept.view.tokens(s)[i])]);
    }
}

TEST_CASE("to another cache the kept rows are converted and the source stays") {
  SEEDED(random);
  for (int dim : {1, 5, 64}) {
    check_to_another<float, float>(random, dim);
    check_to_another<float, half>(random, dim);
    check_to_another<half, bfloat16>(random, dim);
    check_to_another<bfloat16, bfloat16>(random, dim);
    check_to_another<bfloat16, float>(random, dim);
  }
}

TEST_CASE("compact to another cache refuses one that shares memory with the source") {
  SEEDED(random);
  auto cache = ragged<float>(random, {30, 20}, 2, 8);
  auto const kept = keep_some(random, {30, 20}, 50);
  auto extents = cache.extents;
  auto const refused = [&](purekv::ragged_cache<float> const& destination) {
    snapshot before;
    before.watch(cache.keys);
    before.watch(cache.values);
    before.watch(cache.positions);
    before.watch(extents);
    for (int ranks : {1, 3})
      CHECK(status_on_ranks(ranks, [&](purekv::cpu exec) {
              return purekv::compact(exec, kept.view, cache.view, destination);
            }).code == errc::bad_shape);
    CHECK(before.unchanged());
  };
  owned_ragged<float> other(1, 2, {30, 20}, 8);
  refused(cache.view);
  auto destination = other.view;
  destination.values = cache.view.keys + 29 * cache.view.token_stride;
  refused(destination);
  destination = other.view;
  destination.positions = cache.view.positions + 3;
  refused(destination);
  destination = other.view;
  destination.extents = cache.view.extents;
  refused(destination);
  CHECK(purekv::compact(purekv::cpu{}, kept.view, cache.view, other.view).ok());
}

TEST_CASE("lay_out says -1 and writes nothing where no layout exists") {
  std::int64_t offset[] = {0, INT32_MAX};
  purekv::selection const kept{offset, nullptr, INT32_MAX, 1};
  purekv::extent extent{5, 6, 7};
  CHECK(purekv::lay_out(kept, 1, 1, 1, &extent) == -1);
  CHECK(purekv::lay_out(kept, 1, 1, -1, &extent) == -1);
  CHECK(extent.begin == 5);
  CHECK(extent.capacity == 7);
  CHECK(purekv::lay_out(kept, 1, 1, 0, &extent) == INT32_MAX);
  CHECK(extent.capacity == INT32_MAX);
}

TEST_CASE("values of another width than the keys move alike") {
  SEEDED(random);
  auto const kept = keep_some(random, odd_lengths, 40);
  check_in_place(random, contiguous<half>(random, odd_lengths, 2, 40, 24), kept.view);
  check_in_place(random, ragged<float>(random, odd_lengths, 2, 9, 70), kept.view);
  check_to_another<half, half>(random, 40, 24);
  check_to_another<float, bfloat16>(random, 9, 70);
}

TEST_CASE("values that are part of the key rows move with them, once") {
  SEEDED(random);
  for (int ranks : {1, 2, 7}) {
    owned_ragged<float> cache = ragged<float>(random, {50}, 1, 12);
    owned_ragged<float> const before = copy_of(cache);
    cache.view.values = cache.view.keys + 2;
    cache.view.value_dim = 9;
    cache.view.value_token_stride = cache.view.token_stride;
    auto const kept = keep_some(random, {50}, 50);
    auto const done =
        status_on_ranks(ranks, [&](purekv::cpu exec) { return purekv::compact(exec, kept.view, cache.view); });
    REQUIRE_MESSAGE(done.ok(), done.message);
    for (int i = 0; i < cache.view.length(0, 0); ++i) {
      auto const from = before.view.run(0, 0, kept.view.tokens(0)[i]), to = cache.view.run(0, 0, i);
      CHECK(std::memcmp(from.keys, to.keys, 12 * sizeof(float)) == 0);
      CHECK(std::memcmp(from.keys + 2, to.values, 9 * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("compact refuses a destination with values of another width") {
  SEEDED(random);
  auto const source = contiguous<float>(random, {5, 6}, 2, 8, 5);
  owned_ragged<float> const destination(1, 2, {9, 9}, 8);
  auto const kept = keep_some(random, {5, 6}, 50);
  CHECK(purekv::compact(purekv::cpu{}, kept.view, source.view, destination.view).code == errc::mismatch);
}
