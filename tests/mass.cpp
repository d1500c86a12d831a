// SPDX-License-Identifier: Apache-2.0
#include <purekv/mass.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>

namespace fixtures {

/// A cache whose tokens lie in pages of 16, in no order, as engines have it.
template <class T> struct paged_cache {
  using element = T;
  static constexpr std::int32_t page = 16;

  T* keys;
  T* values;
  std::int32_t* positions;
  std::int32_t const* table;  // [sequences, kv_heads, pages]
  std::int32_t* lengths;
  std::int32_t sequences, kv_heads, dim, pages;

  std::int32_t length(std::int32_t s, std::int32_t h) const { return lengths[s * kv_heads + h]; }
  std::int32_t capacity(std::int32_t, std::int32_t) const { return pages * page; }
  void set_length(std::int32_t s, std::int32_t h, std::int32_t n) const { lengths[s * kv_heads + h] = n; }
  std::int64_t slot(std::int32_t s, std::int32_t h, std::int32_t token) const {
    return std::int64_t{table[(s * kv_heads + h) * pages + token / page]} * page + token % page;
  }
  purekv::token_run<T> run(std::int32_t s, std::int32_t h, std::int32_t token) const {
    std::int64_t const at = slot(s, h, token);
    return {keys + at * dim, values + at * dim, positions + at, dim, page - token % page, dim};
  }
  purekv::status check_view() const { return {}; }
  purekv::status check() const { return {}; }
};

template <class T> struct owned_paged : owned_cache_memory<T> {
  buffer<std::int32_t> table, lengths;
  paged_cache<T> view;

  owned_paged(generator& random, int sequences, int kv_heads, int pages, int dim, beyond poison)
      : owned_cache_memory<T>(slots(sequences, kv_heads, pages) * dim, slots(sequences, kv_heads, pages) * dim,
                              slots(sequences, kv_heads, pages), poison),
        table(size(sequences * kv_heads * pages)),
        lengths(size(sequences * kv_heads), 0) {
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), random);
    view = {this->keys.data(),
            this->values.data(),
            this->positions.data(),
            table.data(),
            lengths.data(),
            sequences,
            kv_heads,
            dim,
            pages};
  }

 private:
  static std::int64_t slots(int sequences, int kv_heads, int pages) {
    return std::int64_t{sequences} * kv_heads * pages * paged_cache<T>::page;
  }
};

template <class T> struct cache_maker<owned_paged<T>> {
  static owned_paged<T> make(generator& random, shape const& s, std::vector<std::int32_t> const& lengths) {
    int const longest = *std::max_element(lengths.begin(), lengths.end());
    return {random, s.sequences(), s.kv_heads, longest / paged_cache<T>::page + 1, s.dim, s.poison};
  }
};

}  // namespace fixtures

using namespace fixtures;
using purekv::bfloat16;
using purekv::half;
using purekv::mass_reduction;
using purekv::query_range;
using purekv::score_rows;

namespace {

/// lse as an attention call would have left it: the oracle's, rounded to float.
template <class Input> owned_scores lse_of(Input const& in, std::vector<oracle::head_attention> const& reference) {
  owned_scores lse(1, in.queries.rows.heads, in.queries.rows.tokens, 3);
  for (int s = 0; s < in.queries.batch.sequences; ++s)
    for (int h = 0; h < in.queries.rows.heads; ++h)
      for (int i = 0; i < in.queries.count(s); ++i)
        lse.view.row(0, h)[in.queries.begin(s) + i] =
            static_cast<float>(reference[size(s * in.queries.rows.heads + h)].lse(i));
  return lse;
}

template <class P, class TQ, class Owned>
void check(attention_input<TQ, Owned> const& in, shape const& s, P const& pattern, query_range const& queries,
           score_rows rows, mass_reduction by = mass_reduction::sum) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.span[0]);
  CAPTURE(queries.begin);
  CAPTURE(queries.count);
  auto const reference = oracle::attend(pattern, in.queries, in.cache.view);
  owned_scores const lse = lse_of(in, reference);
  int const row_count = rows == score_rows::heads ? s.heads : s.kv_heads, group = s.heads / s.kv_heads;
  std::vector<float> first;
  for (int ranks : all_ranks) {
    CAPTURE(ranks);
    owned_scores mass(s.sequences(), row_count, in.longest() + 2, s.gap);
    owned_workspace work(purekv::mass_workspace(purekv::cpu{0, ranks, nullptr, nullptr}, pattern, in.queries,
                                                in.cache.view, queries, rows));
    auto const call = [&](purekv::workspace memory) {
      return status_on_ranks(ranks, [&](purekv::cpu exec) {
        return purekv::mass(exec, pattern, in.queries, in.cache.view, lse.view.data, lse.view.row_stride, queries, rows,
                            mass.view, memory, by);
      });
    };
    if (work.view().bytes > 0) {
      CHECK(call(work.one_byte_less()).code == purekv::errc::workspace_too_small);
      CHECK(mass.rest_untouched([](int, int) { return 0; }));
    }
    purekv::status const done = call(work.view());
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(work.guards_untouched());
    CHECK(mass.rest_untouched([&](int sequence, int row) {
      return in.cache.view.length(sequence, rows == score_rows::heads ? row / group : row);
    }));
    if (first.empty()) {
      first = mass.memory;
      comparison compared;
      for (int q = 0; q < s.sequences(); ++q)
        for (int r = 0; r < row_count; ++r) {
          auto const expected =
              expected_mass(reference, s.heads, s.kv_heads, rows, q, r, resolve(queries, in.queries.count(q)),
                            lse.view.data + in.queries.begin(q), lse.view.row_stride, by);
          for (int t = 0; t < static_cast<int>(expected.value.size()); ++t)
            compared.add(mass.view.row(q, r)[t], expected.value(t), expected.bound(t), "mass", r, q, t);
        }
      INFO(compared.where(), " (", compared.worst(), " times the bound)");
      CHECK(compared.wrong() == 0);
    } else {
      CHECK(std::memcmp(first.data(), mass.memory.data(), first.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace

TEST_CASE("mass: all queries, the last w, a range; per head and per KV head") {
  SEEDED(random);
  for (shape s : {square(1, 1, 64, 1), square(4, 1, 64, 17), square(8, 2, 128, 65), square(7, 1, 64, 128),
                  square(6, 3, 72, 129), square(3, 1, 5, 64), square(8, 2, 64, 500), square(70, 1, 64, 40)}) {
    s.gap = between(random, 0, 4);
    s.cache_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
    attention_input<float, owned_contiguous<float>> const in(random, s);
    int const n = s.queries[0];
    for (query_range const& queries : {query_range{}, purekv::last(1), purekv::last(16), purekv::last(n + 5),
                                       query_range{n / 3, n / 2}, query_range{0, 0}})
      check(in, s, purekv::dense{}, queries, between(random, 0, 1) == 0 ? score_rows::heads : score_rows::kv_heads);
  }
}

TEST_CASE("mass: ragged caches and batches, 16-bit types") {
  SEEDED(random);
  shape s;
  s.heads = 6;
  s.kv_heads = 2;
  s.span = {150, 0, 33, 70, 1};
  s.queries = {60, 0, 33, 1, 1};
  s.scattered = true;
  s.keep_percent = 60;
  for (auto rows : {score_rows::heads, score_rows::kv_heads}) {
    attention_input<half, owned_ragged<bfloat16>> const in(random, s);
    check(in, s, purekv::dense{}, query_range{}, rows);
    check(in, s, purekv::dense{}, purekv::last(16), rows);
  }
}

TEST_CASE("mass: sparse patterns") {
  SEEDED(random);
  for (int block : {1, 7, 64}) {
    scattered const predicate{random(), 30, block};
    shape s = square(4, 2, 64, 230);
    s.queries = {140};
    attention_input<float, owned_contiguous<float>> const in(random, s);
    check(in, s, pattern_of<true>(predicate), query_range{}, score_rows::heads);
    check(in, s, pattern_of<true>(predicate), purekv::last(40), score_rows::kv_heads);
    check(in, s, purekv::sinks_and_window{3, 10 * block}, query_range{}, score_rows::kv_heads);
  }
}

TEST_CASE("mass: NaN keys and queries get nothing, infinite logits are clamped") {
  SEEDED(random);
  shape const s = square(4, 2, 64, 100);
  attention_input<float, owned_contiguous<float>> in(random, s);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  in.cache.view.run(0, 0, 11).keys[5] = nan;
  in.q.view.row(2, 70)[9] = nan;
  for (auto by : {mass_reduction::sum, mass_reduction::maximum}) {
    check(in, s, purekv::dense{}, query_range{}, score_rows::heads, by);
    check(in, s, purekv::dense{}, query_range{}, score_rows::kv_heads, by);
  }
}

TEST_CASE("mass: the largest probability instead of the sum") {
  SEEDED(random);
  for (shape s : {square(1, 1, 64, 1), square(4, 1, 64, 17), square(8, 1, 128, 65), square(14, 2, 72, 129),
                  square(3, 3, 5, 64), square(70, 1, 64, 40), square(4, 2, 64, 600)}) {
    s.gap = between(random, 0, 4);
    attention_input<float, owned_contiguous<float>> const in(random, s);
    int const n = s.queries[0];
    for (query_range const& queries : {query_range{}, purekv::last(16), query_range{n / 3, n / 2}, query_range{0, 0}})
      for (auto rows : {score_rows::heads, score_rows::kv_heads})
        check(in, s, purekv::dense{}, queries, rows, mass_reduction::maximum);
  }
  shape s;
  s.heads = 6;
  s.kv_heads = 2;
  s.span = {150, 0, 33, 70, 1};
  s.queries = {60, 0, 33, 1, 1};
  s.scattered = true;
  s.keep_percent = 60;
  attention_input<half, owned_ragged<bfloat16>> const in(random, s);
  scattered const predicate{random(), 30, 7};
  for (auto rows : {score_rows::heads, score_rows::kv_heads}) {
    check(in, s, purekv::dense{}, query_range{}, rows, mass_reduction::maximum);
    check(in, s, pattern_of<true>(predicate), purekv::last(20), rows, mass_reduction::maximum);
  }
}

TEST_CASE("mass: a reduction that has no name is refused, out untouched") {
  SEEDED(random);
  attention_input<float, owned_contiguous<float>> const in(random, square(2, 1, 8, 9));
  owned_scores const lse = lse_of(in, oracle::attend(purekv::dense{}, in.queries, in.cache.view));
  owned_scores mass(1, 1, 9);
  owned_workspace work(purekv::mass_workspace(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view));
  CHECK(purekv::mass(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view, lse.view.data, lse.view.row_stride, {},
                     score_rows::kv_heads, mass.view, work.view(), static_cast<mass_reduction>(2))
            .code == purekv::errc::bad_shape);
  CHECK(mass.rest_untouched([](int, int) { return 0; }));
}

TEST_CASE("mass: what attention's tap says") {
  SEEDED(random);
  shape const s = square(8, 2, 64, 150);
  attention_input<float, owned_contiguous<float>> const in(random, s);
  attention_output<float> tapped(in, s, {.mass = true, .mass_queries = purekv::last(20)});
  owned_workspace work(
      purekv::attend_workspace(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view, tapped.taps));
  REQUIRE(purekv::attend(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view, tapped.out.view, tapped.taps,
                         work.view())
              .ok());
  owned_scores mass(1, 2, 150);
  owned_workspace more(purekv::mass_workspace(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view,
                                              purekv::last(20), score_rows::kv_heads));
  REQUIRE(purekv::mass(purekv::cpu{}, purekv::dense{}, in.queries, in.cache.view, tapped.taps.lse,
                       tapped.taps.lse_stride, purekv::last(20), score_rows::kv_heads, mass.view, more.view())
              .ok());
  for (int r = 0; r < 2; ++r)
    for (int t = 0; t < 150; ++t)
      CHECK(mass.view.row(0, r)[t] == doctest::Approx(tapped.mass.view.row(0, r)[t]).epsilon(1e-5));
}

TEST_CASE("mass: soft cap and sinks") {
  SEEDED(random);
  for (int group : {1, 4, 7, 8})
    for (float cap : {0.0f, 0.01f, 2.0f}) {
      shape s;
      s.heads = 2 * group;
      s.kv_heads = 2;
      s.dim = 40;
      s.span = {150, 0, 33};
      s.queries = {60, 0, 33};
      s.sinks = true;
      s.soft_cap = cap;
      attention_input<half, owned_ragged<bfloat16>> in(random, s);
      in.cache.view.run(0, 1, between(random, 0, 89)).keys[3] = purekv::bfloat16(HUGE_VALF);
      check(in, s, purekv::dense{}, query_range{}, score_rows::heads);
      check(in, s, purekv::sinks_and_window{3, 20}, purekv::last(16), score_rows::kv_heads);
    }
}

TEST_CASE("mass: images see themselves in both directions") {
  SEEDED(random);
  purekv::token_layout const layout{mixed_media, 5};
  shape s = square(6, 2, 40, mixed_media_tokens);
  s.queries = {200};
  s.scattered = true;
  s.keep_percent = 60;
  attention_input<half, owned_ragged<float>> const in(random, s);
  scattered const predicate{random(), 40, 8};
  auto const any = pattern_of<true>(predicate);
  check(in, s, purekv::bidirectional<>{layout}, query_range{}, score_rows::heads);
  check(in, s, purekv::bidirectional<purekv::sliding_window>{layout, {30}}, purekv::last(50), score_rows::kv_heads);
  check(in, s, purekv::bidirectional<any_pattern<true>>{layout, any}, query_range{}, score_rows::kv_heads);
}

namespace {

/// Some queries of `group` heads each, which see anything from nothing to all of two KV heads.
shape few(generator& random, int group, int queries, int tokens) {
  shape s = square(2 * group, 2, 0, tokens);
  int const dims[] = {1, 5, 64, 72, 100, 128};
  s.dim = dims[between(random, 0, 5)];
  s.queries = {std::min(queries, tokens)};
  s.scattered = between(random, 0, 1) == 0;
  s.keep_percent = between(random, 0, 1) == 0 ? 100 : 60;
  s.gap = between(random, 0, 4);
  s.cache_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
  s.poison = beyond::nan;
  return s;
}

template <class Input> void check_few(generator& random, Input const& in, shape const& s) {
  auto const rows = between(random, 0, 1) == 0 ? score_rows::heads : score_rows::kv_heads;
  auto const by = between(random, 0, 1) == 0 ? mass_reduction::sum : mass_reduction::maximum;
  scattered const predicate{random(), 40, between(random, 1, 9)};
  check(in, s, purekv::dense{}, query_range{}, rows, by);
  check(in, s, purekv::dense{}, purekv::last(1), rows, by);
  check(in, s, purekv::sinks_and_window{3, 70}, query_range{}, rows, by);
  check(in, s, pattern_of<true>(predicate), query_range{}, rows, by);
  auto const alike = [&](std::int32_t, std::int32_t q, std::int32_t k) { return predicate(0, q, k); };
  check(in, s, pattern_of<false>(alike), query_range{}, rows, by);
}

}  // namespace

TEST_CASE("mass: few queries") {
  SEEDED(random);
  int turn = 0;
  for (int group : {1, 3, 4, 7, 8, 16, 20})
    for (int queries : {1, 2, 3, 8})
      for (int tokens : {0, 1, 30, 600}) {
        CAPTURE(queries);
        shape const s = few(random, group, queries, tokens);
        if (turn % 3 == 0) check_few(random, attention_input<float, owned_contiguous<float>>(random, s), s);
        if (turn % 3 == 1) check_few(random, attention_input<half, owned_ragged<bfloat16>>(random, s), s);
        if (turn % 3 == 2) check_few(random, attention_input<bfloat16, owned_paged<half>>(random, s), s);
        ++turn;
      }
}

TEST_CASE("mass: few queries at the end of one tile and the beginning of the next") {
  SEEDED(random);
  for (int group : {1, 3, 4, 8}) {
    int const tile = 256 / group;
    shape const s = square(group, 1, 40, tile + 60);
    attention_input<float, owned_contiguous<float>> const in(random, s);
    for (int count : {2, 3, 8})
      for (auto rows : {score_rows::heads, score_rows::kv_heads})
        check(in, s, purekv::dense{}, query_range{tile - 1, count}, rows);
  }
}

TEST_CASE("mass: few queries with a batch of others") {
  SEEDED(random);
  shape s;
  s.heads = 6;
  s.kv_heads = 2;
  s.dim = 40;
  s.span = {150, 0, 33, 700, 1, 90};
  s.queries = {60, 0, 1, 2, 1, 90};
  s.scattered = true;
  s.keep_percent = 60;
  attention_input<half, owned_paged<bfloat16>> const in(random, s);
  for (auto rows : {score_rows::heads, score_rows::kv_heads}) {
    check(in, s, purekv::dense{}, query_range{}, rows);
    check(in, s, purekv::dense{}, purekv::last(2), rows);
    check(in, s, purekv::sinks_and_window{3, 20}, query_range{0, 1}, rows);
  }
}

TEST_CASE("mass: few queries and logits that are NaN or infinite, capped or not; images") {
  SEEDED(random);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (int group : {1, 4, 7})
    for (float cap : {0.0f, 2.0f}) {
      shape s = few(random, group, 2, 130);
      s.keep_percent = 100;
      s.soft_cap = cap;
      s.sinks = true;
      attention_input<float, owned_contiguous<float>> in(random, s);
      in.cache.view.run(0, 0, 11).keys[0] = nan;
      in.cache.view.run(0, 1, 64).keys[s.dim - 1] = HUGE_VALF;
      in.cache.view.run(0, 1, 65).keys[0] = -HUGE_VALF;
      check_few(random, in, s);
      in.q.view.row(group, 1)[0] = nan;
      check_few(random, in, s);
    }
  purekv::token_layout const layout{mixed_media, 5};
  shape s = square(6, 2, 40, mixed_media_tokens);
  s.queries = {2};
  s.scattered = true;
  attention_input<half, owned_ragged<float>> const in(random, s);
  check(in, s, purekv::bidirectional<>{layout}, query_range{}, score_rows::heads);
  check(in, s, purekv::bidirectional<purekv::sliding_window>{layout, {30}}, query_range{}, score_rows::kv_heads);
}
