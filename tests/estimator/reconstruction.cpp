// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/reconstruction.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"
#include "support/fixtures_attention.hpp"

#include <purekv/estimator/group_max.hpp>
#include <purekv/estimator/pooled.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/score.hpp>

using namespace purekv;

TEST_CASE("reconstruction: the mass it is given, per query head, and it asks for the maximum of all queries") {
  SEEDED(random);
  static_assert(reconstruction::mass_queries == all_queries);
  static_assert(detail::mass_by<reconstruction>() == mass_reduction::maximum);
  static_assert(detail::mass_by<pooled<group_max<reconstruction>, 3>>() == mass_reduction::maximum);
  static_assert(!has_signed_scores<reconstruction>());
  test::check_estimator(
      random, reconstruction{}, [](auto const& l, int row, int, int t) { return l.mass_of(row, t); }, 0);
}

TEST_CASE("reconstruction: NaN and inf pass as they are") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {2, 2, 8, {9, 9}});
  l.mass_at(1, 3) = test::nan;
  l.mass_at(2, 4) = test::infinity;
  auto const said = test::scores_of(reconstruction{}, l.input());
  CHECK(std::isnan(said[1][3]));
  CHECK(said[2][4] == test::infinity);
}

namespace {

/// The repetition has been attended to, its keys have been taken back: scores of what is cached before it.
template <class Owned> void check_repetition(test::random& r, int group, int context, int repeated) {
  CAPTURE(group);
  CAPTURE(context);
  CAPTURE(repeated);
  fixtures::generator random(static_cast<std::uint64_t>(r.between(0, INT32_MAX)));
  fixtures::shape s = fixtures::square(2 * group, 2, 24, context + repeated);
  s.queries = {repeated};
  s.spread = 2;
  fixtures::attention_input<float, Owned> in(random, s);
  auto const reference = oracle::attend(dense{}, in.queries, in.cache.view);
  fixtures::owned_scores lse(1, s.heads, repeated, 2);
  for (int h = 0; h < s.heads; ++h)
    for (int i = 0; i < repeated; ++i) lse.view.row(0, h)[i] = static_cast<float>(reference[fixtures::size(h)].lse(i));
  for (int h = 0; h < 2; ++h) in.cache.view.set_length(0, h, context);

  group_max<reconstruction> const estimator{};
  evidence const seen{dense{}, in.queries, lse.view.data, lse.view.row_stride};
  fixtures::owned_scores out(1, 2, context, 3);
  fixtures::owned_workspace work(score_workspace(cpu{0, 3, nullptr, nullptr}, estimator, seen, in.cache.view));
  status const done = fixtures::status_on_ranks(
      3, [&](cpu exec) { return score(exec, estimator, seen, in.cache.view, source_view{}, out.view, work.view()); });
  REQUIRE_MESSAGE(done.ok(), done.message);
  CHECK(out.rest_untouched([&](int, int) { return context; }));
  for (int h = 0; h < 2; ++h)
    for (int t = 0; t < context; ++t) {
      double most = 0;
      for (int g = h * group; g < (h + 1) * group; ++g)
        for (int i = 0; i < repeated; ++i) most = std::max(most, reference[fixtures::size(g)].probability(i, t));
      CHECK(out.view.row(0, h)[t] == doctest::Approx(most).epsilon(1e-4));
    }
}

}  // namespace

TEST_CASE("reconstruction: the largest probability of the repeated rows, over all they saw, for the context alone") {
  SEEDED(random);
  for (int group : {1, 4, 7, 8}) {
    check_repetition<fixtures::owned_contiguous<float>>(random, group, 97, 41);
    check_repetition<fixtures::owned_ragged<float>>(random, group, 1, 1);
    check_repetition<fixtures::owned_ragged<half>>(random, group, 65, 130);
    check_repetition<fixtures::owned_contiguous<bfloat16>>(random, group, 130, 1);
  }
}
