// SPDX-License-Identifier: Apache-2.0
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/append.hpp>
#include <purekv/attend.hpp>
#include <purekv/budget/across_heads.hpp>
#include <purekv/compact.hpp>
#include <purekv/compressor.hpp>
#include <purekv/decode.hpp>
#include <purekv/mass.hpp>
#include <purekv/merge.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/select.hpp>

#include <cstdint>
#include <optional>

using namespace fixtures;
using purekv::query_range;
using purekv::score_rows;

// What must hold between operations, whatever computes them.

namespace {

purekv::dense const dense{};
float const inf = std::numeric_limits<float>::infinity();

struct unscored {
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static std::int64_t scratch(purekv::layer_shape) { return 0; }
  template <class G, class Input> void score(G const& team, Input const&, purekv::score_out, float*) const {
    team.sync();
  }
};
struct keep_percent {
  std::int32_t percent;
  std::int32_t keep(purekv::budget_input in) const { return std::max(1, in.tokens * percent / 100); }
  purekv::status check() const { return {}; }
};
struct pin_first {
  std::int32_t count;
  bool pinned(std::int32_t position, std::int32_t) const { return position < count; }
  purekv::status check(std::int32_t) const { return {}; }
};

struct attention {
  owned_rows<float> out;
  owned_scores lse, mass;
};

enum class how { attend, decode };

template <class P, class C>
attention run(how op, P const& pattern, purekv::query_view<float> const& q, C const& cache, int ranks = 2,
              bool with_mass = false) {
  int longest = 0;
  for (int s = 0; s < cache.sequences; ++s)
    for (int h = 0; h < cache.kv_heads; ++h) longest = std::max(longest, cache.length(s, h));
  attention a{owned_rows<float>(q.rows.heads, q.rows.tokens, q.rows.dim), owned_scores(1, q.rows.heads, q.rows.tokens),
              owned_scores(cache.sequences, q.rows.heads, with_mass ? longest : 0)};
  purekv::attend_taps taps;
  taps.lse = a.lse.view.data;
  taps.lse_stride = a.lse.view.row_stride;
  taps.mass_rows = score_rows::heads;
  if (with_mass) taps.mass = a.mass.view;
  purekv::cpu const size_for{0, ranks, nullptr, nullptr};
  owned_workspace work(op == how::attend ? purekv::attend_workspace(size_for, pattern, q, cache, taps)
                                         : purekv::decode_workspace(size_for, pattern, q, cache, taps));
  auto const done = status_on_ranks(ranks, [&](purekv::cpu exec) {
    return op == how::attend ? purekv::attend(exec, pattern, q, cache, a.out.view, taps, work.view())
                             : purekv::decode(exec, pattern, q, cache, a.out.view, taps, work.view());
  });
  REQUIRE_MESSAGE(done.ok(), done.message);
  return a;
}

/// Largest |a - b| over all rows, heads and dims of the tokens [first_a, first_a + count) and [first_b, ...).
double difference(owned_rows<float> const& a, int first_a, owned_rows<float> const& b, int first_b, int count) {
  double largest = 0;
  for (int h = 0; h < a.view.heads; ++h)
    for (int t = 0; t < count; ++t)
      for (int c = 0; c < a.view.dim; ++c) {
        double const d = std::abs(double{a.view.row(h, first_a + t)[c]} - double{b.view.row(h, first_b + t)[c]});
        largest = std::isnan(d) ? oracle::infinity : std::max(largest, d);
      }
  return largest;
}
double difference(attention const& a, attention const& b) { return difference(a.out, 0, b.out, 0, a.out.view.tokens); }
double lse_difference(attention const& a, attention const& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.lse.memory.size(); ++i) {
    float const x = a.lse.memory[i], y = b.lse.memory[i];
    if (x == y) continue;
    largest =
        std::max(largest, std::isfinite(x) && std::isfinite(y) ? std::abs(double{x} - double{y}) : oracle::infinity);
  }
  return largest;
}
double constexpr near = 5e-6;  // standard normal values, a few hundred tokens, two float computations

template <class T> bool same(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
bool same(attention const& a, attention const& b) {
  return same(a.out.memory, b.out.memory) && same(a.lse.memory, b.lse.memory) && same(a.mass.memory, b.mass.memory);
}

shape batch() {
  shape s;
  s.heads = 6;
  s.kv_heads = 2;
  s.span = {170, 0, 65, 300};
  s.queries = {170, 0, 20, 90};
  return s;
}

/// A ragged cache with `slack` free slots per head and the tokens of `kept`.
template <class C> owned_ragged<float> compacted(purekv::selection const& kept, C const& source, int slack) {
  std::vector<purekv::extent> extents(size(source.sequences * source.kv_heads));
  std::int64_t const slots = purekv::lay_out(kept, source.sequences, source.kv_heads, slack, extents.data());
  std::vector<std::int32_t> capacities;
  std::int64_t end = 0;
  for (purekv::extent const& e : extents) {
    CHECK(e.begin >= end);
    end = e.begin + e.capacity;
    capacities.push_back(e.capacity);
  }
  CHECK(slots == end);
  owned_ragged<float> result(source.sequences, source.kv_heads, capacities, source.dim);
  result.extents = extents;
  result.view.extents = result.extents.data();
  result.view.slots = slots;
  auto const done =
      status_on_ranks(3, [&](purekv::cpu exec) { return purekv::compact(exec, kept, source, result.view); });
  REQUIRE_MESSAGE(done.ok(), done.message);
  return result;
}

owned_scores random_scores(generator& random, int sequences, int kv_heads, int tokens, bool ties) {
  owned_scores scores(sequences, kv_heads, tokens);
  for (float& x : scores.memory) {
    x = ties ? static_cast<float>(between(random, 0, 5)) : std::abs(normal(random));
    if (between(random, 0, 30) == 0) x = std::numeric_limits<float>::quiet_NaN();
    if (between(random, 0, 50) == 0) x = inf;
  }
  return scores;
}

template <class Compressor, class C>
owned_selection selected(int ranks, Compressor const& compressor, purekv::score_view const& scores, C const& cache) {
  int const rows =
      Compressor::scope == purekv::selection_scope::layer ? cache.sequences : cache.sequences * cache.kv_heads;
  owned_selection kept(rows, purekv::selection_capacity(cache), Compressor::scope);
  owned_workspace work(purekv::select_workspace(purekv::cpu{0, ranks, nullptr, nullptr}, compressor, cache));
  auto const done = status_on_ranks(
      ranks, [&](purekv::cpu exec) { return purekv::select(exec, compressor, scores, cache, kept.view, work.view()); });
  REQUIRE_MESSAGE(done.ok(), done.message);
  CHECK(work.guards_untouched());
  return kept;
}

/// The kept and the evicted tokens of every head, drawn at random.
struct partition {
  owned_selection kept, evicted;

  template <class C>
  partition(generator& random, C const& cache, int percent)
      : kept(cache.sequences * cache.kv_heads, purekv::selection_capacity(cache)),
        evicted(cache.sequences * cache.kv_heads, purekv::selection_capacity(cache)) {
    for (owned_selection* s : {&kept, &evicted}) s->offset[0] = 0;
    for (int row = 0; row < kept.view.rows; ++row) {
      std::int64_t k = kept.offset[size(row)], e = evicted.offset[size(row)];
      for (int t = 0; t < cache.length(row / cache.kv_heads, row % cache.kv_heads); ++t)
        if (between(random, 1, 100) <= percent)
          kept.token[size(k++)] = t;
        else
          evicted.token[size(e++)] = t;
      kept.offset[size(row + 1)] = k;
      evicted.offset[size(row + 1)] = e;
    }
  }
};

}  // namespace

TEST_CASE("the mass of a head adds up to its queries that see anything; lse is finite exactly for them") {
  SEEDED(random);
  shape s = batch();
  for (int percent : {100, 30, 2}) {
    s.keep_percent = percent;
    attention_input<float, owned_ragged<float>> in(random, s);
    in.q.view.row(1, 40)[3] = std::numeric_limits<float>::quiet_NaN();
    scattered const predicate{random(), percent, 10};
    auto const pattern = pattern_of<true>(predicate);
    auto const a = run(how::attend, pattern, in.queries, in.cache.view, 2, true);
    owned_scores by_pass(s.sequences(), s.kv_heads, in.longest());
    owned_workspace work(
        purekv::mass_workspace(purekv::cpu{}, pattern, in.queries, in.cache.view, query_range{}, score_rows::kv_heads));
    REQUIRE(purekv::mass(purekv::cpu{}, pattern, in.queries, in.cache.view, a.lse.view.data, a.lse.view.row_stride,
                         query_range{}, score_rows::kv_heads, by_pass.view, work.view())
                .ok());
    for (int b = 0; b < s.sequences(); ++b)
      for (int kv = 0; kv < s.kv_heads; ++kv) {
        double group_sum = 0, group_rows = 0;
        auto const tokens = oracle::read(in.cache.view, b, kv);
        for (int h = kv * 3; h < kv * 3 + 3; ++h) {
          double sum = 0, rows = 0;
          for (int t = 0; t < tokens.count(); ++t) sum += a.mass.view.row(b, h)[t];
          for (int i = in.queries.begin(b); i < in.queries.end(b); ++i) {
            bool sees = false;
            for (std::int32_t p : tokens.positions)
              sees = sees || (p <= in.positions[size(i)] && predicate(h, in.positions[size(i)], p));
            sees = sees && !(h == 1 && i == 40);
            CHECK(std::isfinite(a.lse.view.row(0, h)[i]) == sees);
            rows += sees;
          }
          CHECK(sum == doctest::Approx(rows).epsilon(1e-5));
          group_sum += sum;
          group_rows += rows;
        }
        double sum = 0;
        for (int t = 0; t < tokens.count(); ++t) sum += by_pass.view.row(b, kv)[t];
        CHECK(sum == doctest::Approx(group_rows).epsilon(1e-5));
        CHECK(sum == doctest::Approx(group_sum).epsilon(1e-5));
      }
  }
}

TEST_CASE("with a sink, the masses of a row and the sink's own add up to one") {
  SEEDED(random);
  shape s = batch();
  s.sinks = true;
  s.soft_cap = 3;
  attention_input<float, owned_contiguous<float>> const in(random, s);
  for (how op : {how::attend, how::decode}) {
    auto const a = run(op, dense, in.queries, in.cache.view, 2, true);
    for (int b = 0; b < s.sequences(); ++b)
      for (int h = 0; h < s.heads; ++h) {
        double sum = 0;
        for (int t = 0; t < in.cache.view.length(b, h / 3); ++t) sum += a.mass.view.row(b, h)[t];
        for (int i = in.queries.begin(b); i < in.queries.end(b); ++i)
          sum += std::exp(double{in.sink_logits[size(h)]} - std::log(2.0) * a.lse.view.row(0, h)[i]);
        CHECK(sum == doctest::Approx(in.queries.count(b)).epsilon(1e-5));
      }
  }
}

TEST_CASE("a ragged cache that keeps all is the contiguous cache, to the bit") {
  SEEDED(random);
  shape s = batch();
  s.cache_order = order::token_major;
  attention_input<float, owned_contiguous<float>> const in(random, s);
  partition const all(random, in.cache.view, 100);
  owned_ragged<float> const ragged = compacted(all.kept.view, in.cache.view, between(random, 0, 4));
  scattered const predicate{random(), 40, 20};
  auto const pattern = pattern_of<true>(predicate);
  CHECK(same(run(how::attend, dense, in.queries, in.cache.view, 1, true),
             run(how::attend, dense, in.queries, ragged.view, 3, true)));
  CHECK(same(run(how::attend, pattern, in.queries, in.cache.view, 1, true),
             run(how::attend, pattern, in.queries, ragged.view, 3, true)));
  CHECK(same(run(how::decode, dense, in.queries, in.cache.view, 1, true),
             run(how::decode, dense, in.queries, ragged.view, 3, true)));
}

TEST_CASE("decode of k tokens is the last k rows of attend") {
  SEEDED(random);
  shape s = square(8, 2, 64, 300);
  attention_input<float, owned_contiguous<float>> const in(random, s);
  auto const whole = run(how::attend, dense, in.queries, in.cache.view);
  for (int k : {1, 2, 7}) {
    purekv::query_view<float> q = in.queries;
    q.batch.offset = nullptr;
    q.batch.positions += 300 - k;
    q.rows.data += (300 - k) * q.rows.token_stride;
    q.rows.tokens = k;
    auto const last = run(how::decode, dense, q, in.cache.view);
    CHECK(difference(last.out, 0, whole.out, 300 - k, k) < near);
    auto const chunk = run(how::attend, dense, q, in.cache.view);
    CHECK(difference(chunk.out, 0, whole.out, 300 - k, k) < near);
  }
}

TEST_CASE("a prompt in chunks is the prompt in one piece") {
  SEEDED(random);
  shape s = square(4, 2, 64, 200);
  attention_input<float, owned_contiguous<float>> const in(random, s);
  auto const whole = run(how::attend, dense, in.queries, in.cache.view);
  owned_contiguous<float> grown(1, 2, 200, 64, order::token_major, 2);
  for (int first = 0; first < 200;) {
    int const count = std::min(between(random, 1, 90), 200 - first);
    purekv::contiguous_cache<float> const& source = in.cache.view;
    auto const rows = [&](float const* data) {
      return purekv::rows_view<float const>{
          data + first * source.token_stride, 2, count, 64, source.head_stride, source.token_stride};
    };
    purekv::batch_view const tokens{1, nullptr, in.positions.data() + first};
    auto const done = status_on_ranks(3, [&](purekv::cpu exec) {
      return purekv::append(exec, rows(source.keys), rows(source.values), tokens, grown.view);
    });
    REQUIRE_MESSAGE(done.ok(), done.message);
    purekv::query_view<float> q = in.queries;
    q.batch = tokens;
    q.rows.data += first * q.rows.token_stride;
    q.rows.tokens = count;
    auto const chunk = run(how::attend, dense, q, grown.view);
    CHECK(difference(chunk.out, 0, whole.out, first, count) < near);
    first += count;
  }
}

TEST_CASE("attention over disjoint caches, merged, is attention over their union; a sink belongs to one part") {
  SEEDED(random);
  shape s = batch();
  s.sinks = true;
  attention_input<float, owned_contiguous<float>> const in(random, s);
  for (int percent : {50, 3, 100}) {
    partition const parts(random, in.cache.view, percent);
    owned_ragged<float> const kept = compacted(parts.kept.view, in.cache.view, 0),
                              evicted = compacted(parts.evicted.view, in.cache.view, 1);
    auto const whole = run(how::attend, dense, in.queries, in.cache.view);
    purekv::query_view<float> no_sink = in.queries;
    no_sink.sink_logits = nullptr;
    auto const a = run(how::attend, dense, no_sink, kept.view), b = run(how::decode, dense, in.queries, evicted.view);
    auto const part = [](attention const& x) {
      return purekv::partial<float>{x.out.rows(), x.lse.view.data, x.lse.view.row_stride};
    };
    purekv::partial<float> const both[] = {part(a), part(b)};
    attention merged{owned_rows<float>(s.heads, in.queries.rows.tokens, s.dim),
                     owned_scores(1, s.heads, in.queries.rows.tokens), owned_scores(1, 1, 0)};
    auto const done = status_on_ranks(3, [&](purekv::cpu exec) {
      return purekv::merge(exec, both, 2, merged.out.view, merged.lse.view.data, merged.lse.view.row_stride);
    });
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(difference(merged, whole) < near);
    CHECK(lse_difference(merged, whole) < near);
    double worst = 0;
    for (int h = 0; h < s.heads; ++h)
      for (int t = 0; t < in.queries.rows.tokens; ++t) {
        oracle::vector out_a(s.dim), out_b(s.dim);
        for (int c = 0; c < s.dim; ++c) {
          out_a(c) = a.out.view.row(h, t)[c];
          out_b(c) = b.out.view.row(h, t)[c];
        }
        auto const expected = oracle::merge({out_a, out_b}, {a.lse.view.row(0, h)[t], b.lse.view.row(0, h)[t]});
        for (int c = 0; c < s.dim; ++c)
          worst = std::max(worst, std::abs(merged.out.view.row(h, t)[c] - expected.out(c)));
        bool const empty = expected.lse == -oracle::infinity;
        CHECK(empty == (merged.lse.view.row(0, h)[t] == -inf));
        if (!empty) worst = std::max(worst, std::abs(merged.lse.view.row(0, h)[t] - expected.lse));
      }
    CHECK(worst < 2e-6);
  }
}

TEST_CASE("attending to a compacted cache is attending to the full one with the evicted keys hidden") {
  SEEDED(random);
  shape const s = batch();
  attention_input<float, owned_contiguous<float>> const in(random, s);
  partition const parts(random, in.cache.view, 30);
  owned_ragged<float> const kept = compacted(parts.kept.view, in.cache.view, 2);
  for (int b = 0; b < s.sequences(); ++b) {
    std::vector<std::vector<bool>> is_kept;
    for (int h = 0; h < s.kv_heads; ++h) {
      is_kept.emplace_back(size(s.span[size(b)]), false);
      for (std::int32_t t : parts.kept.row(b * s.kv_heads + h)) is_kept.back()[size(t)] = true;
    }
    auto const see = [&](int h, int, int k) -> bool { return is_kept[size(h / 3)][size(k)]; };
    purekv::contiguous_cache<float> one = in.cache.view;
    one.keys += b * one.sequence_stride;
    one.values += b * one.sequence_stride;
    one.positions += b * one.kv_heads * one.tokens;
    one.lengths += b * one.kv_heads;
    one.sequences = 1;
    purekv::query_view<float> q = in.queries;
    q.batch = {1, nullptr, in.positions.data() + in.queries.begin(b)};
    q.rows.data += in.queries.begin(b) * q.rows.token_stride;
    q.rows.tokens = in.queries.count(b);
    if (q.rows.tokens == 0) continue;
    auto const hidden = run(how::attend, pattern_of<true>(see), q, one);
    auto const pruned = run(how::attend, dense, in.queries, kept.view);
    CHECK(difference(hidden.out, 0, pruned.out, in.queries.begin(b), in.queries.count(b)) < near);

    owned_rows<float> own_out(s.heads, q.rows.tokens, s.dim);
    auto const or_self = [&](int h, int at, int k) { return at == k || see(h, at, k); };
    auto const expected = run(how::attend, pattern_of<true>(or_self), q, one);
    purekv::ragged_cache<float> part = kept.view;
    part.extents += b * part.kv_heads;
    part.sequences = 1;
    int const first = in.positions[size(in.queries.begin(b))];
    auto const own_rows_of = [&](float const* data) {
      return purekv::rows_view<float const>{
          data + first * one.token_stride, one.kv_heads, q.rows.tokens, s.dim, one.head_stride, one.token_stride};
    };
    purekv::self_view<float> const self{own_rows_of(one.keys), own_rows_of(one.values)};
    owned_workspace work(purekv::attend_workspace(purekv::cpu{}, dense, q, part));
    auto const done = purekv::attend(purekv::cpu{}, dense, q, part, self, own_out.view, {}, work.view());
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(difference(own_out, 0, expected.out, 0, q.rows.tokens) < near);
  }
}

TEST_CASE("a batch is its sequences, a group is its heads") {
  SEEDED(random);
  shape const s = batch();
  attention_input<float, owned_contiguous<float>> const in(random, s);
  auto const whole = run(how::attend, dense, in.queries, in.cache.view);
  for (int b : {0, 2, 3})
    for (int h = 0; h < s.heads; ++h) {
      purekv::contiguous_cache<float> one = in.cache.view;
      std::ptrdiff_t const at = b * one.sequence_stride + h / 3 * one.head_stride;
      one.keys += at;
      one.values += at;
      one.positions += (b * one.kv_heads + h / 3) * one.tokens;
      one.lengths += b * one.kv_heads + h / 3;
      one.sequences = one.kv_heads = 1;
      purekv::query_view<float> q = in.queries;
      q.batch = {1, nullptr, in.positions.data() + in.queries.begin(b)};
      q.rows.data = in.queries.rows.row(h, in.queries.begin(b));
      q.rows.tokens = in.queries.count(b);
      q.rows.heads = 1;
      auto const alone = run(how::attend, dense, q, one);
      double worst = 0;
      for (int t = 0; t < q.rows.tokens; ++t)
        for (int c = 0; c < s.dim; ++c)
          worst = std::max(worst, std::abs(double{alone.out.view.row(0, t)[c]} -
                                           double{whole.out.view.row(h, in.queries.begin(b) + t)[c]}));
      CHECK(worst < near);
    }
}

TEST_CASE("twice the values, twice the output, to the bit") {
  SEEDED(random);
  shape const s = batch();
  attention_input<float, owned_contiguous<float>> in(random, s);
  for (how op : {how::attend, how::decode}) {
    auto const once = run(op, dense, in.queries, in.cache.view);
    for (float& x : in.cache.values) x *= 2;
    auto const twice = run(op, dense, in.queries, in.cache.view);
    bool exact = true;
    for (std::size_t i = 0; i < once.out.memory.size(); ++i)
      exact = exact && 2 * once.out.memory[i] == twice.out.memory[i];
    CHECK(exact);
    CHECK(same(once.lse.memory, twice.lse.memory));
  }
}

TEST_CASE("every number of ranks computes the same, 32 too") {
  SEEDED(random);
  shape s = batch();
  s.keep_percent = 70;
  attention_input<float, owned_ragged<float>> const in(random, s);
  for (how op : {how::attend, how::decode}) {
    auto const alone = run(op, dense, in.queries, in.cache.view, 1, true);
    for (int ranks : {2, 5, 32}) CHECK(same(alone, run(op, dense, in.queries, in.cache.view, ranks, true)));
  }
}

TEST_CASE("a selection is what its definition says, for any number of ranks") {
  SEEDED(random);
  shape s = batch();
  s.kv_heads = s.heads = 3;
  s.keep_percent = 80;
  s.queries = {0, 0, 0, 0};
  for (bool ties : {false, true})
    for (int percent : {1, 20, 100}) {
      attention_input<float, owned_ragged<float>> const in(random, s);
      auto const& cache = in.cache.view;
      owned_scores const scores = random_scores(random, s.sequences(), s.kv_heads, in.longest(), ties);
      purekv::compressor<unscored, keep_percent, pin_first> const compressor{{}, {percent}, {between(random, 0, 9)}};
      auto const kept = selected(1, compressor, scores.view, cache);
      for (int ranks : {2, 3, 7, 32}) {
        auto const other = selected(ranks, compressor, scores.view, cache);
        CHECK(kept.offset == other.offset);
        CHECK(kept.token == other.token);
      }
      CHECK(kept.offset[0] == 0);
      for (int row = 0; row < kept.view.rows; ++row) {
        int const b = row / s.kv_heads, h = row % s.kv_heads;
        auto const tokens = oracle::read(cache, b, h);
        std::vector<double> score;
        std::vector<bool> pinned;
        for (int t = 0; t < tokens.count(); ++t) {
          score.push_back(scores.view.row(b, h)[t]);
          pinned.push_back(compressor.protect.pinned(tokens.positions[size(t)], s.span[size(b)] - 1));
        }
        int const keep = tokens.count() > 0 ? compressor.budget.keep({tokens.count()}) : 0;
        CHECK(kept.row(row) == oracle::select_head(score, pinned, keep));
      }
    }
}

TEST_CASE("heads that share a budget keep what its definition says") {
  SEEDED(random);
  shape s = batch();
  s.kv_heads = s.heads = 3;
  s.keep_percent = 80;
  s.queries = {0, 0, 0, 0};
  for (bool ties : {false, true})
    for (int percent : {1, 20, 90}) {
      attention_input<float, owned_ragged<float>> const in(random, s);
      auto const& cache = in.cache.view;
      owned_scores const scores = random_scores(random, s.sequences(), s.kv_heads, in.longest(), ties);
      using shared = purekv::across_heads<keep_percent>;
      purekv::compressor<unscored, shared, pin_first> const compressor{
          {}, {{percent}, between(random, 0, 5), 5}, {between(random, 0, 9)}};
      auto const kept = selected(1, compressor, scores.view, cache);
      for (int ranks : {2, 7, 32}) {
        auto const other = selected(ranks, compressor, scores.view, cache);
        CHECK(kept.offset == other.offset);
        CHECK(kept.token == other.token);
      }
      for (int b = 0; b < s.sequences(); ++b) {
        std::vector<oracle::sharing_head> heads;
        for (int h = 0; h < s.kv_heads; ++h) {
          oracle::sharing_head head{{}, {}, oracle::read(cache, b, h).positions, 0, 0};
          for (std::size_t t = 0; t < head.positions.size(); ++t) {
            head.scores.push_back(scores.view.row(b, h)[t]);
            head.pinned.push_back(compressor.protect.pinned(head.positions[t], 0));
          }
          if (!head.positions.empty()) {
            head.keep = compressor.budget.keep({cache.length(b, h)});
            head.floor = compressor.budget.floor(head.keep);
          }
          heads.push_back(head);
        }
        auto const expected = oracle::select_shared(heads);
        for (int h = 0; h < s.kv_heads; ++h) CHECK(kept.row(b * s.kv_heads + h) == expected[size(h)]);
      }
    }
}

TEST_CASE("heads that keep the same tokens keep those with the best mean score") {
  SEEDED(random);
  shape s = batch();
  s.queries = {0, 0, 0, 0};
  for (bool ties : {false, true})
    for (int percent : {1, 20, 100}) {
      attention_input<float, owned_contiguous<float>> const in(random, s);
      auto const& cache = in.cache.view;
      owned_scores const scores = random_scores(random, s.sequences(), s.kv_heads, in.longest(), ties);
      purekv::compressor<unscored, keep_percent, pin_first, purekv::selection_scope::layer> const compressor{
          {}, {percent}, {between(random, 0, 9)}};
      auto const kept = selected(3, compressor, scores.view, cache);
      for (int b = 0; b < s.sequences(); ++b) {
        std::vector<double> mean;
        std::vector<bool> pinned;
        for (int t = 0; t < cache.length(b, 0); ++t) {
          mean.push_back((scores.view.row(b, 0)[t] + scores.view.row(b, 1)[t]) / 2);  // of two heads: exact order
          pinned.push_back(compressor.protect.pinned(t, 0));
        }
        int const keep = mean.empty() ? 0 : compressor.budget.keep({cache.length(b, 0)});
        CHECK(kept.row(b) == oracle::select_head(mean, pinned, keep));
      }
    }
}

TEST_CASE("compaction keeps exactly the kept tokens, in order, in place as in another cache") {
  SEEDED(random);
  shape s = batch();
  for (int ranks : {1, 3}) {
    attention_input<float, owned_contiguous<float>> in(random, s);
    partition const parts(random, in.cache.view, between(random, 0, 100));
    std::vector<oracle::head_tokens> before;
    for (int row = 0; row < parts.kept.view.rows; ++row)
      before.push_back(oracle::read(in.cache.view, row / s.kv_heads, row % s.kv_heads));
    owned_ragged<float> const moved = compacted(parts.kept.view, in.cache.view, 1);
    auto const done =
        status_on_ranks(ranks, [&](purekv::cpu exec) { return purekv::compact(exec, parts.kept.view, in.cache.view); });
    REQUIRE_MESSAGE(done.ok(), done.message);
    for (int row = 0; row < parts.kept.view.rows; ++row) {
      auto const in_place = oracle::read(in.cache.view, row / s.kv_heads, row % s.kv_heads);
      auto const elsewhere = oracle::read(moved.view, row / s.kv_heads, row % s.kv_heads);
      auto const kept = parts.kept.row(row);
      REQUIRE(in_place.positions.size() == kept.size());
      REQUIRE(elsewhere.positions == in_place.positions);
      for (std::size_t i = 0; i < kept.size(); ++i) {
        auto const from = static_cast<Eigen::Index>(kept[i]), to = static_cast<Eigen::Index>(i);
        CHECK(in_place.positions[i] == before[size(row)].positions[size(kept[i])]);
        CHECK((in_place.keys.row(to) == before[size(row)].keys.row(from)));
        CHECK((in_place.values.row(to) == before[size(row)].values.row(from)));
        CHECK((elsewhere.keys.row(to) == in_place.keys.row(to)));
        CHECK((elsewhere.values.row(to) == in_place.values.row(to)));
        if (i > 0) CHECK(in_place.positions[i] > in_place.positions[i - 1]);
      }
    }
  }
}
