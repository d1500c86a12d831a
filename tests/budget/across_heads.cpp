// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/across_heads.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/npy.hpp"

#include <doctest/doctest.h>
#include <purekv/budget/fixed.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/select.hpp>

#include <set>
#include <tuple>

using namespace purekv;

TEST_CASE("across_heads: keeps what it wraps keeps, and says that heads share it") {
  across_heads<ratio> const budget{{1, 5}};
  static_assert(Budget<across_heads<ratio>>);
  static_assert(across_heads<ratio>::heads_share);
  for (int tokens : {0, 1, 4, 100, INT32_MAX}) CHECK(budget.keep({tokens}) == ratio{1, 5}.keep({tokens}));
  CHECK(across_heads<fixed>{{7}}.keep({100, 3, 30}) == 7);
}

TEST_CASE("across_heads: the floor is a fifth of the keep unless told, at least 1, at most the keep") {
  across_heads<ratio> const budget{{1, 5}};
  CHECK(budget.floor(100) == 20);
  CHECK(budget.floor(9) == 1);
  CHECK(budget.floor(1) == 1);
  CHECK(budget.floor(0) == 0);
  CHECK(across_heads<ratio>{{1, 5}, 1, 2}.floor(9) == 4);
  CHECK(across_heads<ratio>{{1, 5}, 0, 1}.floor(9) == 1);
  CHECK(across_heads<ratio>{{1, 5}, 1, 1}.floor(INT32_MAX) == INT32_MAX);
}

TEST_CASE("across_heads: floors outside [0, 1] and what it wraps are checked") {
  CHECK(across_heads<ratio>{{1, 5}}.check().ok());
  CHECK(across_heads<ratio>{{1, 5}, 0, 1}.check().ok());
  CHECK(across_heads<ratio>{{1, 5}, -1, 5}.check().code == errc::bad_policy);
  CHECK(across_heads<ratio>{{1, 5}, 6, 5}.check().code == errc::bad_policy);
  CHECK(across_heads<ratio>{{1, 5}, 0, 0}.check().code == errc::bad_policy);
  CHECK(across_heads<ratio>{{0, 5}}.check().code == errc::bad_policy);
}

namespace {

using triple = std::tuple<int, int, int>;  // sequence, head, token

struct scores_given {
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static constexpr std::int64_t scratch(layer_shape) { return 0; }
  void score(Team auto const&, auto const&, score_out, float*) const {}
};

/// What AdaKV at ratio 0.5 with a floor of a fifth removes, by these scores.
template <class P> std::set<triple> removed(test::npy<float> scores, P const& protect) {
  int const sequences = scores.size(0), heads = scores.size(1), tokens = scores.size(2);
  fixtures::owned_contiguous<float> cache(sequences, heads, tokens, 1);
  std::set<triple> left_out;
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < heads; ++h)
      for (int t = 0; t < tokens; ++t) {
        fixtures::push(
            cache.view, s, h, t, [](int) { return 0.0f; }, [](int) { return 0.0f; });
        left_out.insert({s, h, t});
      }
  compressor<scores_given, across_heads<ratio>, P> const c{.budget = {{1, 2}}, .protect = protect};
  fixtures::owned_selection kept(sequences * heads, selection_capacity(cache.view));
  fixtures::owned_workspace work(select_workspace(cpu{}, c, cache.view));
  score_view const view = dense_scores(scores.data.data(), sequences, heads, tokens);
  REQUIRE(select(cpu{}, c, view, cache.view, kept.view, work.view()).ok());
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < heads; ++h)
      for (int t : kept.row(s * heads + h)) left_out.erase({s, h, t});
  return left_out;
}

std::set<triple> triples(std::string const& name) {
  test::npy<std::int64_t> const list = test::read_npy<std::int64_t>(name);
  std::set<triple> set;
  for (int i = 0; i < list.size(1); ++i)
    set.insert({static_cast<int>(list(0, i)), static_cast<int>(list(1, i)), static_cast<int>(list(2, i))});
  return set;
}

}  // namespace

TEST_CASE("across_heads: removes what kvpress's AdaKV removes") {
  CHECK(removed(test::read_npy<float>("score_knorm"), none{}) == triples("pruned_adakv_knorm"));
  CHECK(removed(test::read_npy<float>("score_snapkv_w8_k5"), recent{8}) == triples("pruned_adakv_snapkv_w8"));
}
