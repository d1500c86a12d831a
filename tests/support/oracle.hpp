// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

// Plain loops: the oracle shares no instruction with what it checks, no warning of the compiler's intrinsics, and runs
// on no device.
#define EIGEN_DONT_VECTORIZE
#define EIGEN_NO_CUDA
#include <Eigen/Dense>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

/// Every operation in double precision, written from its formula and from nothing else of the library.
namespace oracle {

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using vector = Eigen::VectorXd;

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
inline constexpr double largest = std::numeric_limits<float>::max();  // what logits are clamped to
inline constexpr double eps = std::numeric_limits<float>::epsilon();

inline double exact(float x) { return x; }

inline double decode_bits(int sign, int exponent, int mantissa, int exponent_bits, int mantissa_bits) {
  int const bias = (1 << (exponent_bits - 1)) - 1;
  double magnitude;
  if (exponent == (1 << exponent_bits) - 1)
    magnitude = mantissa != 0 ? not_a_number : infinity;
  else if (exponent == 0)
    magnitude = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  else
    magnitude = std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
  return sign != 0 ? -magnitude : magnitude;
}

inline double exact(purekv::half x) { return decode_bits(x.bits >> 15, (x.bits >> 10) & 31, x.bits & 1023, 5, 10); }
inline double exact(purekv::bfloat16 x) { return decode_bits(x.bits >> 15, (x.bits >> 7) & 255, x.bits & 127, 8, 7); }

/// Largest error of rounding x to T: half a unit in the last place.
template <class T> double rounding_error(double x) {
  if constexpr (std::is_same_v<T, float>) return 0.5 * eps * std::abs(x) + 0x1p-149;
  if constexpr (std::is_same_v<T, purekv::half>) return 0x1p-11 * std::abs(x) + 0x1p-25;
  return 0x1p-8 * std::abs(x) + 0x1p-134;
}

/// x to T, to nearest, ties to even, as a double.
template <class T> double rounded(double x) {
  if (!std::isfinite(x) || x == 0) return x;
  int const mantissa_bits = std::is_same_v<T, float> ? 23 : std::is_same_v<T, purekv::half> ? 10 : 7;
  int const smallest = std::is_same_v<T, purekv::half> ? -14 : -126;
  double const limit = std::is_same_v<T, purekv::half> ? 65504.0
                       : std::is_same_v<T, float>      ? largest
                                                       : std::ldexp(255, 120);
  int const exponent = std::max(std::ilogb(x), smallest);
  double const unit = std::ldexp(1.0, exponent - mantissa_bits);
  double const r = std::nearbyint(x / unit) * unit;
  return std::abs(r) > limit ? std::copysign(infinity, x) : r;
}

/// The tokens of one (sequence, KV head), exactly as stored.
struct head_tokens {
  matrix keys, values;  // [tokens, dim], [tokens, value dim]
  std::vector<std::int32_t> positions;
  std::int32_t count() const { return static_cast<std::int32_t>(positions.size()); }
};

template <class C> head_tokens read(C const& cache, int sequence, int kv_head) {
  int const count = cache.length(sequence, kv_head), value_dim = purekv::value_dim_of(cache);
  head_tokens tokens{matrix(count, cache.dim), matrix(count, value_dim), {}};
  for (int i = 0; i < count; ++i) {
    auto const run = cache.run(sequence, kv_head, i);
    tokens.positions.push_back(run.positions[0]);
    for (int c = 0; c < cache.dim; ++c) tokens.keys(i, c) = exact(run.keys[c]);
    for (int c = 0; c < value_dim; ++c) tokens.values(i, c) = exact(run.values[c]);
  }
  return tokens;
}

template <class T> matrix read_rows(purekv::rows_view<T> const& rows, int head, int first, int last) {
  matrix result(last - first, rows.dim);
  for (int i = first; i < last; ++i)
    for (int c = 0; c < rows.dim; ++c) result(i - first, c) = exact(rows.row(head, i)[c]);
  return result;
}

/// The own key and value of every query, for prune-then-attend.
struct own_rows {
  matrix keys, values;  // [queries, dim], [queries, value dim]
};

/// What a layer makes of q . k: s = scale * q . k, cap * tanh(s / cap) where cap is not 0; and the logit of the head's
/// sink. In the domain of exp: what of exp2 is said is log2(e) times that.
struct logit_rule {
  double scale = 1, cap = 0, sink = -infinity;
};

/// One query head of one sequence. Logits are clamped to +-FLT_MAX; probabilities are exp2(logit - lse), with the sink
/// in lse. An invisible pair has logit -inf and probability 0. The bounds are what float arithmetic may err by.
struct head_attention {
  matrix logits, probability;              // [queries, tokens]
  vector own_logit, own_probability, lse;  // [queries]
  matrix out;                              // [queries, value dim]
  vector logit_bound, lse_bound;           // [queries]: largest error of a visible logit of the row, error of lse
  matrix out_bound;                        // [queries, value dim]
  bool empty(int query) const { return lse(query) == -infinity; }
};

inline double clamp_logit(double s) { return std::min(std::max(s, -largest), largest); }

/// `visible(q, k)`: indices of query and cached key, positions and pattern looked at by the caller.
/// own, own_visible(q): null and unused unless each query may also see itself.
template <class Visible, class OwnVisible>
head_attention attend_head(matrix const& q, head_tokens const& tokens, logit_rule const& rule, Visible const& visible,
                           own_rows const* own, OwnVisible const& own_visible) {
  int const n = static_cast<int>(q.rows()), m = tokens.count(), dim = static_cast<int>(q.cols());
  Eigen::Index const value_dim = tokens.values.cols();
  double const log2_e = std::log2(std::exp(1.0)), factor = rule.scale * log2_e, cap = rule.cap * log2_e;
  double const sink = rule.sink == -infinity ? -infinity : clamp_logit(rule.sink * log2_e);
  auto const capped = [&](double s) { return cap == 0 ? s : cap * std::tanh(s / cap); };
  head_attention a;
  a.logits = matrix::Constant(n, m, -infinity);
  a.probability = matrix::Zero(n, m);
  a.own_logit = vector::Constant(n, -infinity);
  a.own_probability = vector::Zero(n);
  a.lse = vector::Constant(n, -infinity);
  a.out = matrix::Zero(n, value_dim);
  a.logit_bound = vector::Zero(n);
  a.lse_bound = vector::Zero(n);
  a.out_bound = matrix::Zero(n, value_dim);
  double const dot_error = eps * (4 + std::sqrt(dim));
  for (int i = 0; i < n; ++i) {
    int seen = 0;
    auto const logit = [&](auto const& key) {
      double const s = factor * q.row(i).dot(key);
      if (std::isnan(s)) return -infinity;
      ++seen;
      double const magnitude = std::abs(factor) * q.row(i).cwiseAbs().dot(key.cwiseAbs());
      if (std::isfinite(magnitude)) {
        double const off = dot_error * magnitude, x = capped(s);
        double const bound =
            cap == 0 ? off : std::max(capped(s + off) - x, x - capped(s - off)) + 5 * eps * std::abs(x);
        a.logit_bound(i) = std::max(a.logit_bound(i), bound);
      }
      return clamp_logit(capped(s));
    };
    for (int j = 0; j < m; ++j)
      if (visible(i, j)) a.logits(i, j) = logit(tokens.keys.row(j));
    if (own != nullptr && own_visible(i)) a.own_logit(i) = logit(own->keys.row(i));

    double largest_logit = std::max(a.own_logit(i), sink);
    for (int j = 0; j < m; ++j) largest_logit = std::max(largest_logit, a.logits(i, j));
    if (largest_logit == -infinity) continue;

    double sum = std::exp2(a.own_logit(i) - largest_logit) + std::exp2(sink - largest_logit);
    for (int j = 0; j < m; ++j) sum += std::exp2(a.logits(i, j) - largest_logit);
    a.lse(i) = largest_logit + std::log2(sum);

    // A value counts only where its probability is not zero, so that NaN and inf stay out of rows that do not see it.
    // Below the smallest normal float a probability may be 0.
    double const sum_error = eps * (8 + std::sqrt(seen));
    a.lse_bound(i) = a.logit_bound(i) + sum_error + eps * std::abs(a.lse(i));
    double const relative = 2 * std::log(2.0) * a.logit_bound(i) + 2 * sum_error;
    auto const add = [&](double p, auto const& value) {
      if (p == 0) return;
      a.out.row(i) += p * value;
      a.out_bound.row(i) += (relative * p + 0x1p-126) * value.cwiseAbs();
    };
    for (int j = 0; j < m; ++j) {
      a.probability(i, j) = std::exp2(a.logits(i, j) - largest_logit) / sum;
      add(a.probability(i, j), tokens.values.row(j));
    }
    a.own_probability(i) = std::exp2(a.own_logit(i) - largest_logit) / sum;
    if (own != nullptr) add(a.own_probability(i), own->values.row(i));
  }
  return a;
}

/// The last position that a query at q may see.
template <class P> std::int32_t horizon(P const& pattern, std::int32_t q) {
  if constexpr (requires { pattern.last_visible(q); }) return pattern.last_visible(q);
  return q;
}

/// All (sequence, query head) pairs: [sequences * heads]. `own`: see purekv::self_view; rows_view{} for none.
template <class P, class TQ, class C, class T>
std::vector<head_attention> attend_self(P const& pattern, purekv::query_view<TQ> const& q, C const& cache,
                                        purekv::rows_view<T const> const& own_keys,
                                        purekv::rows_view<T const> const& own_values) {
  bool const with_self = own_keys.data != nullptr;
  int const heads = q.rows.heads, group = heads / cache.kv_heads;
  double const scale = q.scale != 0 ? static_cast<double>(q.scale) : 1 / std::sqrt(static_cast<double>(q.rows.dim));
  std::vector<head_attention> result;
  for (int s = 0; s < q.batch.sequences; ++s)
    for (int h = 0; h < heads; ++h) {
      head_tokens const tokens = read(cache, s, h / group);
      std::int32_t const* const positions = q.batch.positions + q.begin(s);
      own_rows own;
      if (with_self) {
        own.keys = read_rows(own_keys, h / group, q.begin(s), q.end(s));
        own.values = read_rows(own_values, h / group, q.begin(s), q.end(s));
      }
      result.push_back(attend_head(
          read_rows(q.rows, h, q.begin(s), q.end(s)), tokens,
          {scale, q.soft_cap, q.sink_logits != nullptr ? exact(q.sink_logits[h]) : -infinity},
          [&](int i, int j) {
            std::int32_t const at = tokens.positions[static_cast<std::size_t>(j)];
            return at <= horizon(pattern, positions[i]) && pattern.visible(h, positions[i], at);
          },
          with_self ? &own : nullptr,
          [&](int i) {
            bool const cached =
                std::find(tokens.positions.begin(), tokens.positions.end(), positions[i]) != tokens.positions.end();
            return !cached && pattern.visible(h, positions[i], positions[i]);
          }));
    }
  return result;
}

template <class P, class TQ, class C>
std::vector<head_attention> attend(P const& pattern, purekv::query_view<TQ> const& q, C const& cache) {
  purekv::rows_view<typename C::element const> const none{};
  return attend_self(pattern, q, cache, none, none);
}

/// Attention mass of the queries [first, last) of one head: the column sums of its probabilities.
struct column_mass {
  vector value, bound;  // [tokens]
};

inline column_mass mass_of(head_attention const& a, int first, int last) {
  Eigen::Index const tokens = a.probability.cols();
  column_mass mass{vector::Zero(tokens), vector::Zero(tokens)};
  for (int i = first; i < last; ++i) {
    mass.value += a.probability.row(i).transpose();
    mass.bound += (std::log(2.0) * (a.logit_bound(i) + a.lse_bound(i)) + 4 * eps) * a.probability.row(i).transpose();
  }
  mass.bound += eps * (8 + std::sqrt(std::max(last - first, 1))) * mass.value;
  mass.bound.array() += 1e-37;
  return mass;
}

/// The same from a given lse: sum of exp2(logit - lse) over the queries [first, last) that see the token.
inline column_mass mass_of(head_attention const& a, float const* lse, int first, int last) {
  head_attention given = a;
  for (int i = first; i < last; ++i)
    for (Eigen::Index j = 0; j < a.logits.cols(); ++j)
      given.probability(i, j) = a.logits(i, j) == -infinity ? 0 : std::exp2(a.logits(i, j) - exact(lse[i]));
  return mass_of(given, first, last);
}

inline column_mass& operator+=(column_mass& sum, column_mass const& other) {
  sum.value += other.value;
  sum.bound += other.bound + eps * other.value;
  return sum;
}

/// Attention mass as the largest probability instead of the sum: as mass_of, one query at a time, from a given lse or,
/// where it is null, from the head's own.
inline column_mass maximum_of(head_attention const& a, float const* lse, int first, int last) {
  Eigen::Index const tokens = a.probability.cols();
  column_mass most{vector::Zero(tokens), vector::Constant(tokens, 1e-37)};
  for (int i = first; i < last; ++i) {
    column_mass const row = lse != nullptr ? mass_of(a, lse, i, i + 1) : mass_of(a, i, i + 1);
    most.value = most.value.cwiseMax(row.value);
    most.bound = most.bound.cwiseMax(row.bound);
  }
  return most;
}

/// One output row of attention over disjoint sets of keys:
/// lse = log2(sum_p exp2(lse_p)), out = sum_p exp2(lse_p - lse) * out_p. Parts with lse = -inf count for nothing.
struct merged_row {
  vector out;
  double lse = -infinity;
};

inline merged_row merge(std::vector<vector> const& outs, std::vector<double> const& lses) {
  double const top = *std::max_element(lses.begin(), lses.end());
  merged_row row{vector::Zero(outs.front().size()), -infinity};
  if (top == -infinity) return row;
  double sum = 0;
  for (double lse : lses) sum += std::exp2(lse - top);
  row.lse = top + std::log2(sum);
  for (std::size_t p = 0; p < outs.size(); ++p) {
    double const weight = std::exp2(lses[p] - row.lse);
    if (weight != 0) row.out += weight * outs[p];
  }
  return row;
}

/// Larger score first, NaN last, ties to the lower ordinal.
inline bool ranks_before(double score_a, int a, double score_b, int b) {
  if (std::isnan(score_a) != std::isnan(score_b)) return std::isnan(score_b);
  if (!std::isnan(score_a) && score_a != score_b) return score_a > score_b;
  return a < b;
}

/// The tokens one head keeps: all pinned ones, then the best others until `keep` are kept; ascending.
inline std::vector<std::int32_t> select_head(std::vector<double> const& scores, std::vector<bool> const& pinned,
                                             int keep) {
  std::vector<std::int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  auto const at = [](auto const& list, std::int32_t i) { return list[static_cast<std::size_t>(i)]; };
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    if (at(pinned, a) != at(pinned, b)) return static_cast<bool>(at(pinned, a));
    return ranks_before(at(scores, a), a, at(scores, b), b);
  });
  auto const pins = std::count(pinned.begin(), pinned.end(), true);
  order.resize(std::min(order.size(), static_cast<std::size_t>(std::max<std::ptrdiff_t>(pins, keep))));
  std::sort(order.begin(), order.end());
  return order;
}

/// One head's tokens for a selection in which heads share a budget.
struct sharing_head {
  std::vector<double> scores;
  std::vector<bool> pinned;
  std::vector<std::int32_t> positions;
  int keep, floor;
};

/// Who gets the last place that equal scores compete for.
enum class tie { lower_position_then_head, earlier_head_then_token };

/// What each head keeps when they share the sum of their keeps: first its pinned tokens and its floor best; what is
/// left of the sum goes to the best of all heads.
inline std::vector<std::vector<std::int32_t>> select_shared(std::vector<sharing_head> const& heads,
                                                            tie rule = tie::lower_position_then_head) {
  struct candidate {
    double score;
    std::int32_t position;
    std::size_t head;
    std::int32_t token;
  };
  std::vector<std::vector<std::int32_t>> kept;
  std::vector<candidate> others;
  std::ptrdiff_t left = 0;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    sharing_head const& head = heads[h];
    kept.push_back(select_head(head.scores, head.pinned, std::min(head.floor, static_cast<int>(head.scores.size()))));
    left += head.keep - static_cast<std::ptrdiff_t>(kept[h].size());
    for (std::size_t t = 0; t < head.scores.size(); ++t)
      if (!std::binary_search(kept[h].begin(), kept[h].end(), static_cast<std::int32_t>(t)))
        others.push_back({head.scores[t], head.positions[t], h, static_cast<std::int32_t>(t)});
  }
  std::stable_sort(others.begin(), others.end(), [&](candidate const& a, candidate const& b) {
    if (ranks_before(a.score, 0, b.score, 0) || ranks_before(b.score, 0, a.score, 0))
      return ranks_before(a.score, 0, b.score, 0);
    if (rule == tie::earlier_head_then_token) return false;  // the order they are listed in
    return a.position != b.position ? a.position < b.position : a.head < b.head;
  });
  for (std::ptrdiff_t i = 0; i < left && i < static_cast<std::ptrdiff_t>(others.size()); ++i)
    kept[others[static_cast<std::size_t>(i)].head].push_back(others[static_cast<std::size_t>(i)].token);
  for (auto& tokens : kept) std::sort(tokens.begin(), tokens.end());
  return kept;
}

}  // namespace oracle
