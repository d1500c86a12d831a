// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/custom.hpp>
// The header under test comes first.
#include "support/pattern_checks.hpp"

using namespace purekv;

TEST_CASE("custom: any predicate is a pattern, with captures too") {
  int stride = 3;
  custom const every_third{[stride](int head, int q, int k) { return (q - k + head) % stride == 0; }};
  static_assert(Pattern<decltype(every_third)>);
  static_assert(decltype(every_third)::per_head);
  CHECK(every_third.visible(0, 9, 6));
  CHECK(!every_third.visible(0, 9, 7));
  CHECK(every_third.visible(1, 9, 7));

  auto const older = [](int, int q, int k) { return k < q; };
  static_assert(!custom<decltype(older), no_classifier, false>::per_head);
}

TEST_CASE("custom: without a classifier it offers no ranges") {
  auto const has_runs = [](auto const& p) {
    return requires {
      p.runs(0, 0, [](std::int32_t, std::int32_t, bool) {});
    };
  };
  auto const all = [](int, int, int) { return true; };
  auto const unknown = [](int, int, int, int) { return coverage::partial; };
  CHECK(!has_runs(custom{all}));
  CHECK(has_runs(custom{all, unknown}));
}

TEST_CASE("custom: ranges from the classifier agree with visible") {
  SEEDED(random);
  int const block = random.between(1, 40);
  CAPTURE(block);
  // Blocks of the lower triangle see each other if the sum of their indices is even.
  auto const same_colour = [block](int, int q, int k) { return (q / block + k / block) % 2 == 0; };
  auto const classify = [block](int q_first, int q_last, int k_first, int k_last) {
    if (q_first / block != q_last / block || k_first / block != k_last / block) return coverage::partial;
    return (q_first / block + k_first / block) % 2 == 0 ? coverage::full : coverage::empty;
  };
  custom const pattern{same_colour, classify};
  static_assert(Pattern<decltype(pattern)>);
  test::check_all_ranges(random, pattern, 500, 70);
}

TEST_CASE("custom: blocks of one kind become one range, empty ones none") {
  auto const never = [](int, int, int) { return false; };
  std::vector<int> asked;
  struct halves {
    std::vector<int>* asked;
    coverage operator()(int, int, int k_first, int k_last) const {
      asked->push_back(k_last - k_first + 1);
      return k_first < 128 ? coverage::full : k_first < 256 ? coverage::empty : coverage::partial;
    }
  };
  custom const pattern{never, halves{&asked}};
  std::vector<test::key_range> const ranges = test::ranges_of(pattern, 300, 400);
  REQUIRE(ranges.size() == 2);
  CHECK((ranges[0].first == 0 && ranges[0].last == 127 && ranges[0].full));
  CHECK((ranges[1].first == 256 && ranges[1].last == 400 && !ranges[1].full));
  CHECK(asked == std::vector<int>{64, 64, 64, 64, 64, 64, 17});
}
