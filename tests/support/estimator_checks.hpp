// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/fixtures.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/concepts.hpp>

#include <numeric>

/// Layers to score, and the comparison of what an estimator says with a formula.
namespace test {

struct layer_case {
  int kv_heads = 2, group = 1, dim = 64;
  std::vector<int> lengths;  // per KV head
  bool same_tokens = false;  // all KV heads hold the same positions (and so lengths)
  int value_dim = 0;

  int value_width() const { return value_dim != 0 ? value_dim : dim; }
};

/// Shapes that every estimator must get right. same_tokens: only those whose heads hold the same tokens.
inline std::vector<layer_case> layer_cases(random& r, bool same_tokens) {
  std::vector<layer_case> cases;
  for (int group : {1, 4, 7, 8})
    for (int tokens : {0, 1, 2, 33, 200}) {
      layer_case c{r.between(1, 3),
                   group,
                   r.between(0, 1) == 0 ? 64 : r.between(1, 40),
                   {},
                   same_tokens,
                   r.between(0, 1) * r.between(1, 70)};
      for (int h = 0; h < c.kv_heads; ++h)
        c.lengths.push_back(same_tokens || tokens == 0 ? tokens : r.between(0, 1) == 0 ? tokens : r.between(0, tokens));
      cases.push_back(c);
    }
  return cases;
}

/// One sequence of a layer: the second of a cache, so that a forgotten sequence index shows. Everything beyond the
/// lengths, and all of the first sequence, is NaN.
template <class Owned> class layer {
 public:
  using cache_type = decltype(Owned::view);
  using element = typename cache_type::element;

  layer(random& r, layer_case const& c) : shape(c), cache(make(c)), longest(0) {
    for (int n : c.lengths) longest = std::max(longest, n);
    std::vector<std::vector<std::int32_t>> positions;
    for (int h = 0; h < c.kv_heads; ++h)
      positions.push_back(h > 0 && c.same_tokens ? positions[0] : ascending(r, c.lengths[at(h)]));
    for (int h = 0; h < c.kv_heads; ++h)
      for (int t = 0; t < c.lengths[at(h)]; ++t)
        fixtures::push(
            cache.view, 1, h, positions[at(h)][at(t)], [&](int) { return r.normal(); },
            [&](int) { return r.normal(); });
    mass_stride = longest + r.between(0, 3);
    mass.assign(at(heads() * mass_stride), std::numeric_limits<float>::quiet_NaN());
    for (int h = 0; h < heads(); ++h)
      for (int t = 0; t < length(h / c.group); ++t)
        mass_at(h, t) = r.between(0, 7) == 0 ? 0.25f : r.uniform(0, 3);  // ties too
  }

  int heads() const { return shape.kv_heads * shape.group; }
  int length(int kv_head) const { return shape.lengths[at(kv_head)]; }
  float& mass_at(int head, int t) { return mass[at(head * mass_stride + t)]; }
  double mass_of(int head, int t) const { return mass[at(head * mass_stride + t)]; }
  int position(int kv_head, int t) const { return *cache.view.run(1, kv_head, t).positions; }
  double key_of(int kv_head, int t, int i) const { return oracle::exact(cache.view.run(1, kv_head, t).keys[i]); }
  double value_of(int kv_head, int t, int i) const { return oracle::exact(cache.view.run(1, kv_head, t).values[i]); }
  double value_norm(int kv_head, int t) const {
    double sum = 0;
    for (int i = 0; i < shape.value_width(); ++i) sum += value_of(kv_head, t, i) * value_of(kv_head, t, i);
    return std::sqrt(sum);
  }

  purekv::layer_input<cache_type> input() const {
    purekv::layer_input<cache_type> in{.cache = cache.view, .sequence = 1, .heads = heads()};
    in.mass = mass.data();
    in.mass_stride = mass_stride;
    return in;
  }

  layer_case shape;
  Owned cache;
  int longest;
  std::ptrdiff_t mass_stride = 0;
  std::vector<float> mass;

 private:
  static std::size_t at(std::ptrdiff_t i) { return static_cast<std::size_t>(i); }
  static std::vector<std::int32_t> ascending(random& r, int count) {
    std::vector<std::int32_t> positions;
    for (int p = r.between(0, 3); static_cast<int>(positions.size()) < count; p += r.between(1, 3))
      positions.push_back(p);
    return positions;
  }
  static Owned make(layer_case const& c) {
    int const longest = c.lengths.empty() ? 0 : *std::max_element(c.lengths.begin(), c.lengths.end());
    if constexpr (std::is_same_v<Owned, fixtures::owned_contiguous<element>>) {
      return Owned(2, c.kv_heads, longest + 2, c.dim, fixtures::order::token_major, 3, fixtures::beyond::nan,
                   c.value_dim);
    } else {
      std::vector<std::int32_t> capacities(at(c.kv_heads), 1);
      for (int n : c.lengths) capacities.push_back(n + 1);
      return Owned(2, c.kv_heads, capacities, c.dim, 3, 2, fixtures::beyond::nan, c.value_dim);
    }
  }
};

/// What an estimator says, row by row. Run by 1, by 3 and by 32 ranks, which must agree to the bit; exactly the scratch
/// it asks for is there, and nothing beyond each row's tokens may be written.
template <class E, class Input> std::vector<std::vector<float>> scores_of(E const& estimator, Input const& in) {
  static_assert(purekv::Estimator<E>);
  int longest = 0;
  for (int h = 0; h < in.kv_heads(); ++h) longest = std::max(longest, in.tokens(h));
  int const per_kv_head = E::rows == purekv::score_rows::heads ? in.group() : 1, rows = in.kv_heads() * per_kv_head;
  std::int64_t const scratch_floats =
      E::scratch(purekv::layer_shape{in.heads, in.kv_heads(), longest, in.dim(), in.value_dim()});
  std::vector<std::vector<float>> first;
  for (int ranks : {1, 3, 32}) {
    CAPTURE(ranks);
    fixtures::owned_workspace scratch(static_cast<std::size_t>(scratch_floats) * sizeof(float));
    fixtures::owned_scores out(1, rows, longest, 5);
    fixtures::on_ranks(ranks, [&](purekv::cpu exec) {
      estimator.score(exec, in, purekv::score_out{out.view.data, out.view.row_stride},
                      static_cast<float*>(scratch.view().data));
    });
    CHECK(scratch.guards_untouched());
    CHECK(out.rest_untouched([&](int, int row) { return in.tokens(row / per_kv_head); }));
    std::vector<std::vector<float>> said;
    for (int r = 0; r < rows; ++r)
      said.emplace_back(out.view.row(0, r), out.view.row(0, r) + in.tokens(r / per_kv_head));
    if (first.empty()) first = said;
    bool same = true;
    for (int r = 0; r < rows; ++r)
      same = same && (said[static_cast<std::size_t>(r)].empty() ||
                      std::memcmp(said[static_cast<std::size_t>(r)].data(), first[static_cast<std::size_t>(r)].data(),
                                  said[static_cast<std::size_t>(r)].size() * sizeof(float)) == 0);
    CHECK(same);
  }
  return first;
}

/// |actual - expected| <= tolerance * |expected|; NaN where NaN is expected.
inline bool close(float actual, double expected, double tolerance) {
  if (std::isnan(expected)) return std::isnan(actual);
  return std::abs(static_cast<double>(actual) - expected) <= tolerance * std::abs(expected);
}

/// Compares an estimator with formula(layer, row, kv_head, token) over one layer.
template <class E, class Layer, class Formula>
void check_layer(E const& estimator, Layer const& l, Formula const& formula, double tolerance = 1e-6) {
  CAPTURE(l.shape.kv_heads);
  CAPTURE(l.shape.group);
  CAPTURE(l.shape.dim);
  CAPTURE(l.longest);
  std::vector<std::vector<float>> const said = scores_of(estimator, l.input());
  int const per_kv_head = E::rows == purekv::score_rows::heads ? l.shape.group : 1;
  for (int r = 0; r < static_cast<int>(said.size()); ++r)
    for (int t = 0; t < l.length(r / per_kv_head); ++t) {
      CAPTURE(r);
      CAPTURE(t);
      float const actual = said[static_cast<std::size_t>(r)][static_cast<std::size_t>(t)];
      double const expected = formula(l, r, r / per_kv_head, t);
      CAPTURE(actual);
      CAPTURE(expected);
      CHECK(close(actual, expected, tolerance));
    }
}

/// The same over all shapes, cache models and element types.
template <class E, class Formula>
void check_estimator(random& r, E const& estimator, Formula const& formula, double tolerance = 1e-6) {
  bool same_tokens = false;
  if constexpr (requires { E::needs_equal_heads; }) same_tokens = E::needs_equal_heads;
  for (layer_case const& c : layer_cases(r, same_tokens)) {
    check_layer(estimator, layer<fixtures::owned_ragged<float>>(r, c), formula, tolerance);
    if (c.group == 4) check_layer(estimator, layer<fixtures::owned_contiguous<purekv::half>>(r, c), formula, tolerance);
    if (c.group == 7)
      check_layer(estimator, layer<fixtures::owned_contiguous<purekv::bfloat16>>(r, c), formula, tolerance);
  }
}

inline float const nan = std::numeric_limits<float>::quiet_NaN();
inline float const infinity = std::numeric_limits<float>::infinity();

}  // namespace test
