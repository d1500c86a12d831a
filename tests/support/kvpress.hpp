// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/fixtures.hpp"
#include "support/npy.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/dense.hpp>
#include <purekv/score.hpp>

namespace test {

enum class rotation { before, after };

/// The layer of tests/golden: its keys and values in a cache, and its queries before or after their rotation.
struct kvpress_layer {
  npy<float> q, k = read_npy<float>("in_keys"), v = read_npy<float>("in_values");
  int sequences = q.size(0), heads = q.size(1), tokens = q.size(2), dim = q.size(3), kv_heads = k.size(1);
  fixtures::owned_contiguous<float> cache{sequences, kv_heads, tokens, dim};
  fixtures::owned_rows<float> rows{heads, sequences* tokens, dim};
  std::vector<std::int32_t> offset, positions;
  purekv::query_view<float> view;

  explicit kvpress_layer(rotation queries)
      : q(read_npy<float>(queries == rotation::before ? "in_q_pre" : "in_q_rope")) {
    for (int s = 0; s < sequences; ++s) {
      offset.push_back(s * tokens);
      for (int t = 0; t < tokens; ++t) {
        positions.push_back(t);
        for (int h = 0; h < heads; ++h)
          for (int c = 0; c < dim; ++c) rows.view.row(h, s * tokens + t)[c] = q(s, h, t, c);
        for (int h = 0; h < kv_heads; ++h)
          fixtures::push(
              cache.view, s, h, t, [&](int c) { return k(s, h, t, c); }, [&](int c) { return v(s, h, t, c); });
      }
    }
    offset.push_back(sequences * tokens);
    view = {rows.rows(), {sequences, offset.data(), positions.data()}};
  }
  kvpress_layer(kvpress_layer const&) = delete;

  /// lse : [heads, queries], for estimators that read attention mass.
  template <class E> fixtures::owned_scores scores(E const& e, purekv::score_view const& lse = {}) const {
    purekv::evidence const seen{purekv::dense{}, view, lse.data, lse.row_stride};
    fixtures::owned_scores out(sequences, kv_heads, tokens);
    fixtures::owned_workspace work(score_workspace(purekv::cpu{}, e, seen, cache.view));
    purekv::status const s = score(purekv::cpu{}, e, seen, cache.view, {}, out.view, work.view());
    REQUIRE_MESSAGE(s.ok(), s.message);
    return out;
  }

  /// Compares tokens [first, last) with kvpress: ours must be factor(token) times theirs.
  template <class Factor>
  void compare(fixtures::owned_scores const& ours, std::string const& name, int first, int last,
               Factor const& factor) const {
    npy<float> const theirs = read_npy<float>(name);
    CAPTURE(name);
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < kv_heads; ++h)
        for (int t = first; t < last; ++t) {
          CAPTURE(t);
          CHECK(ours.view.row(s, h)[t] == doctest::Approx(double{theirs(s, h, t)} * factor(t)).epsilon(1e-5));
        }
  }
  void compare(fixtures::owned_scores const& ours, std::string const& name, int first = 0) const {
    compare(ours, name, first, tokens, [](int) { return 1; });
  }
};

}  // namespace test
