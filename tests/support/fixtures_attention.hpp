// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/fixtures.hpp"
#include "support/oracle.hpp"

#include <doctest/doctest.h>
#include <purekv/attend.hpp>
#include <purekv/layout.hpp>

#include <iomanip>
#include <sstream>
#include <string>

/// Attention problems of any shape, and the comparison of what an operation computed with the oracle.
namespace fixtures {

struct shape {
  int heads = 4, kv_heads = 2, dim = 64, value_dim = 0;
  std::vector<int> span{64};     // per sequence: positions 0 .. span - 1 have been seen
  std::vector<int> queries{64};  // per sequence: the newest of them, unless `scattered`
  bool scattered = false;        // queries lie anywhere in the span
  int keep_percent = 100;        // share of the span that is still cached, drawn for each head
  float scale = 0, spread = 1;   // spread: standard deviation of q
  float soft_cap = 0;
  bool sinks = false;  // a sink for every head but the second
  order q_order = order::token_major, cache_order = order::head_major, out_order = order::token_major;
  int gap = 0;
  beyond poison = beyond::attractive;

  int sequences() const { return static_cast<int>(span.size()); }
  int out_dim() const { return value_dim != 0 ? value_dim : dim; }
};

inline shape square(int heads, int kv_heads, int dim, int tokens) {
  shape s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.dim = dim;
  s.span = s.queries = {tokens};
  return s;
}

/// Text, an image of 7 x 9, text, a video of 3 frames of 5 x 5, an image of 12 x 12: 313 tokens.
inline purekv::segment const mixed_media[] = {
    purekv::segment::text(0, 20),
    {.kind = purekv::modality::image, .begin = 20, .height = 7, .width = 9},
    purekv::segment::text(83, 11),
    purekv::segment::video(94, 3, 5, 5),
    {.kind = purekv::modality::image, .begin = 169, .height = 12, .width = 12}};
inline constexpr int mixed_media_tokens = 313;

/// `count` ascending positions of [0, span): all, the newest, or anywhere.
inline std::vector<std::int32_t> draw_positions(generator& random, int span, int count, bool scattered) {
  std::vector<std::int32_t> all(size(span));
  std::iota(all.begin(), all.end(), 0);
  if (!scattered) return {all.end() - count, all.end()};
  std::vector<std::int32_t> some;
  std::sample(all.begin(), all.end(), std::back_inserter(some), count, random);
  return some;
}

template <class Owned> struct cache_maker;

template <class T> struct cache_maker<owned_contiguous<T>> {
  static owned_contiguous<T> make(generator& random, shape const& s, std::vector<std::int32_t> const& lengths) {
    int const longest = *std::max_element(lengths.begin(), lengths.end());
    return {s.sequences(), s.kv_heads, longest + between(random, 0, 3), s.dim, s.cache_order, s.gap,
            s.poison,      s.value_dim};
  }
};

template <class T> struct cache_maker<owned_ragged<T>> {
  static owned_ragged<T> make(generator& random, shape const& s, std::vector<std::int32_t> const& lengths) {
    std::vector<std::int32_t> capacities;
    for (std::int32_t length : lengths) capacities.push_back(length + between(random, 0, 3));
    return {s.sequences(), s.kv_heads, capacities, s.dim, s.gap, between(random, 0, 2), s.poison, s.value_dim};
  }
};

template <class TQ, class Owned> struct attention_input {
  owned_rows<TQ> q;
  buffer<std::int32_t> offset, positions;
  buffer<float> sink_logits;
  Owned cache;
  purekv::query_view<TQ> queries;

  attention_input(generator& random, shape const& s)
      : q(s.heads, std::accumulate(s.queries.begin(), s.queries.end(), 0), s.dim, s.q_order, s.gap),
        cache(make_cache(random, s)) {
    q.fill_normal(random, s.spread);
    offset.push_back(0);
    for (std::size_t i = 0; i < s.span.size(); ++i) {
      auto const drawn = draw_positions(random, s.span[i], s.queries[i], s.scattered);
      positions.insert(positions.end(), drawn.begin(), drawn.end());
      offset.push_back(offset.back() + s.queries[i]);
    }
    queries.rows = q.rows();
    queries.batch = {s.sequences(), offset.data(), positions.data()};
    queries.scale = s.scale;
    queries.soft_cap = s.soft_cap;
    if (s.sinks) {
      for (int h = 0; h < s.heads; ++h) sink_logits.push_back(h == 1 ? -HUGE_VALF : 3 * normal(random));
      queries.sink_logits = sink_logits.data();
    }
  }
  attention_input(attention_input const&) = delete;

  int longest() const {
    int length = 0;
    for (int s = 0; s < cache.view.sequences; ++s)
      for (int h = 0; h < cache.view.kv_heads; ++h) length = std::max(length, cache.view.length(s, h));
    return length;
  }

 private:
  static Owned make_cache(generator& random, shape const& s) {
    std::vector<std::vector<std::int32_t>> kept;
    std::vector<std::int32_t> lengths;
    for (int span : s.span)
      for (int h = 0; h < s.kv_heads; ++h) {
        std::vector<std::int32_t> positions;
        for (std::int32_t p = 0; p < span; ++p)
          if (between(random, 1, 100) <= s.keep_percent) positions.push_back(p);
        lengths.push_back(static_cast<std::int32_t>(positions.size()));
        kept.push_back(std::move(positions));
      }
    Owned cache = cache_maker<Owned>::make(random, s, lengths);
    for (int i = 0; i < s.sequences(); ++i)
      for (int h = 0; h < s.kv_heads; ++h)
        for (std::int32_t p : kept[size(i * s.kv_heads + h)])
          push(
              cache.view, i, h, p, [&](int) { return normal(random); }, [&](int) { return normal(random); });
    return cache;
  }
};

/// Compares numbers with what they should be, and remembers the one that is farthest off relative to its bound.
class comparison {
 public:
  void add(double actual, double expected, double bound, char const* what, int head, int row, int column) {
    double ratio;
    if (std::isnan(expected))
      ratio = std::isnan(actual) ? 0 : oracle::infinity;
    else if (!std::isfinite(expected))
      ratio = actual == expected ? 0 : oracle::infinity;
    else
      ratio = std::isfinite(actual) ? std::abs(actual - expected) / bound : oracle::infinity;
    if (std::isfinite(expected) && std::isfinite(actual)) {
      error_ += (actual - expected) * (actual - expected);
      reference_ += expected * expected;
    }
    if (ratio > 1) ++wrong_;
    if (ratio > worst_ || where_.empty()) {
      worst_ = ratio;
      std::ostringstream text;
      text << std::setprecision(9) << what << " [head " << head << ", row " << row << ", column " << column << "] is "
           << actual << ", should be " << expected << " within " << bound;
      where_ = text.str();
    }
  }
  int wrong() const { return wrong_; }
  double worst() const { return worst_; }
  double relative_l2() const { return reference_ > 0 ? std::sqrt(error_ / reference_) : 0; }
  std::string const& where() const { return where_; }

 private:
  int wrong_ = 0;
  double worst_ = 0, error_ = 0, reference_ = 0;
  std::string where_;
};

/// The queries of a sequence of `count` that a range names: [first, last).
struct resolved_range {
  int first, last;
};

inline resolved_range resolve(purekv::query_range const& range, int count) {
  std::int64_t first = range.begin, last = first + range.count;
  if (range.from_end) {
    last = std::int64_t{count} - range.begin;
    first = last - range.count;
  }
  auto const clamp = [&](std::int64_t x) { return static_cast<int>(std::clamp<std::int64_t>(x, 0, count)); };
  return {clamp(first), clamp(last)};
}

/// What the mass of (sequence, row) should be; rows are query heads or KV heads.
inline oracle::column_mass expected_mass(std::vector<oracle::head_attention> const& reference, int heads, int kv_heads,
                                         purekv::score_rows rows, int sequence, int row, resolved_range range,
                                         float const* lse = nullptr, std::ptrdiff_t lse_stride = 0,
                                         purekv::mass_reduction by = purekv::mass_reduction::sum) {
  int const group = rows == purekv::score_rows::heads ? 1 : heads / kv_heads;
  auto const of_head = [&](int h) {
    oracle::head_attention const& a = reference[size(sequence * heads + h)];
    if (by == purekv::mass_reduction::maximum)
      return oracle::maximum_of(a, lse != nullptr ? lse + h * lse_stride : nullptr, range.first, range.last);
    return lse != nullptr ? oracle::mass_of(a, lse + h * lse_stride, range.first, range.last)
                          : oracle::mass_of(a, range.first, range.last);
  };
  oracle::column_mass all = of_head(row * group);
  for (int h = row * group + 1; h < (row + 1) * group; ++h) {
    oracle::column_mass const one = of_head(h);
    if (by == purekv::mass_reduction::sum)
      all += one;
    else
      all = {all.value.cwiseMax(one.value), all.bound.cwiseMax(one.bound)};
  }
  return all;
}

struct tap_request {
  bool lse = true, mass = false, block_mass = false;
  purekv::query_range mass_queries{};
  purekv::score_rows mass_rows = purekv::score_rows::kv_heads;
  purekv::mass_reduction mass_by = purekv::mass_reduction::sum;
};

inline int blocks_of(int tokens) { return (tokens + purekv::mass_block_tokens - 1) / purekv::mass_block_tokens; }

/// The buffers one call writes to.
template <class TO> struct attention_output {
  owned_rows<TO> out;
  owned_scores lse, mass, block_mass;
  purekv::attend_taps taps;

  template <class Input>
  attention_output(Input const& in, shape const& s, tap_request const& request)
      : out(s.heads, in.queries.rows.tokens, s.out_dim(), s.out_order, s.gap),
        lse(1, s.heads, in.queries.rows.tokens, s.gap),
        mass(s.sequences(), request.mass_rows == purekv::score_rows::heads ? s.heads : s.kv_heads, in.longest(), s.gap),
        block_mass(s.sequences(), mass.view.rows, blocks_of(in.longest()), s.gap) {
    if (request.block_mass) taps.block_mass = block_mass.view;
    if (request.lse) {
      taps.lse = lse.view.data;
      taps.lse_stride = lse.view.row_stride;
    }
    if (request.mass) taps.mass = mass.view;
    taps.mass_queries = request.mass_queries;
    taps.mass_rows = request.mass_rows;
    taps.mass_by = request.mass_by;
  }
  bool same_bits_as(attention_output const& other) const {
    auto const same = [](auto const& a, auto const& b) {
      return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    return same(out.memory, other.out.memory) && same(lse.memory, other.lse.memory) &&
           same(mass.memory, other.mass.memory) && same(block_mass.memory, other.block_mass.memory);
  }
  bool untouched() const {
    auto const all = [](auto const& v) {
      return std::all_of(v.begin(), v.end(), [](auto const& x) { return is_untouched(x); });
    };
    return all(out.memory) && all(lse.memory) && all(mass.memory) && all(block_mass.memory);
  }
};

/// Besides the bound of each number, which must allow for the worst: how far off a whole float output may be, relative
/// L2, where logits are of ordinary size, the numbers too many to cancel by chance, and nothing but q . k is in them.
/// Two to three times what AVX-512 kernels have been measured to err.
inline double relative_l2_limit(int length) { return 6e-7 + 1.5e-8 * std::sqrt(length); }
inline bool has_relative_l2_limit(shape const& s, int queries) {
  return std::abs(s.scale) <= 1 && s.spread <= 2 && s.soft_cap == 0 && !s.sinks &&
         s.heads * s.out_dim() * queries >= 256;
}

/// relative_l2: how far off a float output may be as a whole; 0: as on the CPU.
template <class TO, class Input>
void compare_with_oracle(Input const& in, shape const& s, attention_output<TO> const& actual,
                         std::vector<oracle::head_attention> const& reference, tap_request const& request,
                         double relative_l2 = 0) {
  comparison out, lse, mass, block_mass;
  int const heads = in.queries.rows.heads, kv_heads = in.cache.view.kv_heads;
  for (int b = 0; b < in.queries.batch.sequences; ++b) {
    for (int h = 0; h < heads; ++h) {
      oracle::head_attention const& a = reference[size(b * heads + h)];
      for (int i = 0; i < in.queries.count(b); ++i) {
        int const row = in.queries.begin(b) + i;
        for (int c = 0; c < s.out_dim(); ++c) {
          double const bound =
              a.out_bound(i, c) + oracle::rounding_error<TO>(std::abs(a.out(i, c)) + a.out_bound(i, c));
          out.add(oracle::exact(actual.out.view.row(h, row)[c]), a.out(i, c), bound, "out", h, row, c);
        }
        if (request.lse) lse.add(actual.lse.view.row(0, h)[row], a.lse(i), a.lse_bound(i), "lse", h, row, 0);
      }
    }
    if (request.block_mass)
      for (int r = 0; r < actual.block_mass.view.rows; ++r) {
        auto const expected =
            expected_mass(reference, heads, kv_heads, request.mass_rows, b, r, {0, in.queries.count(b)});
        for (int t = 0, tokens = static_cast<int>(expected.value.size()); t < tokens; t += purekv::mass_block_tokens) {
          int const n = std::min(purekv::mass_block_tokens, tokens - t);
          // Each query and head of a group adds a whole number of steps at most.
          double const steps = 0x1p-30 * in.queries.count(b) * heads / kv_heads;
          block_mass.add(actual.block_mass.view.row(b, r)[t / purekv::mass_block_tokens],
                         expected.value.segment(t, n).sum(), expected.bound.segment(t, n).sum() + steps, "block mass",
                         r, b, t / purekv::mass_block_tokens);
        }
      }
    if (!request.mass) continue;
    resolved_range const range = resolve(request.mass_queries, in.queries.count(b));
    for (int r = 0; r < actual.mass.view.rows; ++r) {
      auto const expected =
          expected_mass(reference, heads, kv_heads, request.mass_rows, b, r, range, nullptr, 0, request.mass_by);
      for (int t = 0; t < static_cast<int>(expected.value.size()); ++t)
        mass.add(actual.mass.view.row(b, r)[t], expected.value(t), expected.bound(t), "mass", r, b, t);
    }
  }
  auto const report = [](comparison const& c) {
    INFO(c.where(), " (", c.worst(), " times the bound)");
    CHECK(c.wrong() == 0);
  };
  report(out);
  report(lse);
  report(mass);
  report(block_mass);
  if constexpr (std::is_same_v<TO, float>)
    if (has_relative_l2_limit(s, in.queries.rows.tokens))
      CHECK(out.relative_l2() <= (relative_l2 > 0 ? relative_l2 : relative_l2_limit(in.longest())));
}

/// Nothing is written between and behind what was asked for.
template <class TO, class Input>
void check_rest_untouched(Input const& in, shape const& s, attention_output<TO> const& actual,
                          tap_request const& request) {
  int const group = s.heads / s.kv_heads;
  auto const length = [&](int sequence, int row) {
    return in.cache.view.length(sequence, request.mass_rows == purekv::score_rows::heads ? row / group : row);
  };
  CHECK(actual.out.gaps_untouched());
  CHECK(actual.lse.rest_untouched([&](int, int) { return request.lse ? in.queries.rows.tokens : 0; }));
  CHECK(actual.mass.rest_untouched([&](int sequence, int row) { return request.mass ? length(sequence, row) : 0; }));
  CHECK(actual.block_mass.rest_untouched(
      [&](int sequence, int row) { return request.block_mass ? blocks_of(length(sequence, row)) : 0; }));
}

inline std::initializer_list<int> const all_ranks = {1, 2, 3, 7};

/// Runs an operation on several numbers of ranks: all agree to the bit, agree with the oracle, write nothing else, and
/// with too little workspace write nothing at all. Returns what they computed.
///   bytes(exec, taps)              the workspace query
///   call(exec, out, taps, work)    the operation
template <class TO, class Input, class Bytes, class Call>
attention_output<TO> check_attention(Input const& in, shape const& s,
                                     std::vector<oracle::head_attention> const& reference, tap_request const& request,
                                     Bytes const& bytes, Call const& call,
                                     std::initializer_list<int> ranks = all_ranks) {
  attention_output<TO> first(in, s, request);
  snapshot inputs;
  inputs.watch(in.q.memory);
  inputs.watch(in.cache.keys);
  inputs.watch(in.cache.values);
  inputs.watch(in.cache.positions);
  inputs.watch(in.sink_logits);
  for (int n : ranks) {
    CAPTURE(n);
    attention_output<TO> other(in, s, request);
    attention_output<TO>& actual = n == *ranks.begin() ? first : other;
    std::size_t const needed = bytes(purekv::cpu{0, n, nullptr, nullptr}, actual.taps);
    REQUIRE(needed < std::size_t{1} << 32);
    owned_workspace work(needed);
    if (needed > 0) {
      auto const refused = status_on_ranks(
          n, [&](purekv::cpu exec) { return call(exec, actual.out.view, actual.taps, work.one_byte_less()); });
      CHECK(refused.code == purekv::errc::workspace_too_small);
      CHECK(actual.untouched());
    }
    auto const done =
        status_on_ranks(n, [&](purekv::cpu exec) { return call(exec, actual.out.view, actual.taps, work.view()); });
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(work.guards_untouched());
    check_rest_untouched(in, s, actual, request);
    if (&actual == &first)
      compare_with_oracle(in, s, actual, reference, request);
    else
      CHECK(actual.same_bits_as(first));
  }
  CHECK(inputs.unchanged());
  return first;
}

/// check_attention of one operation over in.cache: operation_check<Operation, TO>{}(in, s, pattern), with
///   Operation::bytes(exec, pattern, queries, cache, taps)              the workspace query
///   Operation::run(exec, pattern, queries, cache, out, taps, work)     the operation
template <class Operation, class TO> struct operation_check {
  template <class P, class TQ, class Owned>
  attention_output<TO> operator()(attention_input<TQ, Owned> const& in, shape const& s, P const& pattern,
                                  tap_request const& request = {}, std::initializer_list<int> ranks = all_ranks) const {
    CAPTURE(s.heads);
    CAPTURE(s.kv_heads);
    CAPTURE(s.dim);
    CAPTURE(s.span[0]);
    CAPTURE(s.queries[0]);
    return check_attention<TO>(
        in, s, oracle::attend(pattern, in.queries, in.cache.view), request,
        [&](purekv::cpu exec, purekv::attend_taps const& taps) {
          return Operation::bytes(exec, pattern, in.queries, in.cache.view, taps);
        },
        [&](purekv::cpu exec, purekv::rows_view<TO> const& out, purekv::attend_taps const& taps,
            purekv::workspace work) {
          return Operation::run(exec, pattern, in.queries, in.cache.view, out, taps, work);
        },
        ranks);
  }
};

}  // namespace fixtures
