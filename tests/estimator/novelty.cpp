// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/novelty.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

using namespace purekv;

namespace {

/// A number for what a token is compared with; -1 for nothing but itself.
int peers_of(token_layout const& layout, peers of, int position) {
  if (!layout.covers(position)) return of == peers::frame ? 1 << 30 : -1;
  coordinates const at = layout.at(position);
  int const inside = of == peers::frame ? at.t : at.y * layout.segments[at.segment].width + at.x;
  return at.segment << 20 | inside;
}

template <peers Of> double expected(auto const& l, token_layout const& layout, int head, int t) {
  int const own = peers_of(layout, Of, l.position(head, t));
  std::vector<int> others;
  for (int u = 0; u < l.length(head); ++u)
    if (u == t || (own >= 0 && peers_of(layout, Of, l.position(head, u)) == own)) others.push_back(u);
  double sum = 0;
  for (int i = 0; i < l.shape.value_width(); ++i) {
    double mean = 0;
    for (int const u : others) mean += l.value_of(head, u, i) / static_cast<double>(others.size());
    sum += (l.value_of(head, t, i) - mean) * (l.value_of(head, t, i) - mean);
  }
  return others.size() == 1 ? 0 : std::sqrt(sum);
}

/// A value near the mean of its peers loses digits to cancellation, so the bound has a part that is absolute.
template <peers Of, class Owned>
void check_layer(test::random& random, test::layer_case const& shape, token_layout const& layout) {
  test::layer<Owned> const l(random, shape);
  auto const said = test::scores_of(novelty<Of>{layout}, l.input());
  for (int h = 0; h < shape.kv_heads; ++h)
    for (int t = 0; t < l.length(h); ++t) {
      float const actual = said[static_cast<std::size_t>(h)][static_cast<std::size_t>(t)];
      double const wanted = expected<Of>(l, layout, h, t);
      CAPTURE(actual);
      CAPTURE(wanted);
      CHECK(std::abs(actual - wanted) <= 1e-5 * wanted + 2e-6 * std::sqrt(shape.value_width()));
    }
}

template <peers Of> void check_layout(test::random& random, std::vector<segment> const& segments) {
  token_layout const layout{segments.data(), static_cast<std::int32_t>(segments.size())};
  CHECK(novelty<Of>{layout}.check({}, 1).ok());
  for (test::layer_case const& shape : test::layer_cases(random, false)) {
    check_layer<Of, fixtures::owned_ragged<float>>(random, shape, layout);
    if (shape.group == 4) check_layer<Of, fixtures::owned_contiguous<half>>(random, shape, layout);
    if (shape.group == 7) check_layer<Of, fixtures::owned_contiguous<bfloat16>>(random, shape, layout);
  }
}

}  // namespace

TEST_CASE("novelty: the distance from the mean value of the peers") {
  SEEDED(random);
  std::vector<segment> const video{segment::text(0, 3), segment::video(3, 5, 3, 4), segment::text(63, 11),
                                   segment::video(74, 2, 7, 5), segment::text(144, 2)};
  std::vector<segment> const images{segment::video(0, 1, 1, 1), segment::video(1, 40, 2, 1)};
  for (auto const& segments : {video, images, std::vector<segment>{}}) {
    check_layout<peers::frame>(random, segments);
    check_layout<peers::place>(random, segments);
  }
}

TEST_CASE("novelty: what stands out in its frame, and what changes at its place") {
  segment const s = segment::video(0, 4, 2, 3);
  fixtures::owned_contiguous<half> cache(1, 1, 24, 8, fixtures::order::token_major, 0, fixtures::beyond::nan);
  auto const value = [](int token) {
    if (token == 8) return 3.0f;          // place 2 of frame 1
    return token % 6 == 4 ? 2.0f : 0.5f;  // place 4 of every frame
  };
  for (int t = 0; t < 24; ++t)
    fixtures::push(
        cache.view, 0, 0, t, [&](int) { return 0.0f; }, [&](int i) { return i == 5 ? value(t) : 1.0f; });
  layer_input<contiguous_cache<half>> const in{.cache = cache.view, .sequence = 0, .heads = 1};
  auto const in_frame = test::scores_of(novelty<peers::frame>{{&s, 1}}, in)[0];
  auto const over_time = test::scores_of(novelty<peers::place>{{&s, 1}}, in)[0];
  for (std::size_t t = 0; t < 24; ++t) {
    bool const changes = t % 6 == 2;
    CHECK((over_time[t] > 0) == changes);
    if (t / 6 != 1) CHECK((in_frame[t] > 1) == (t % 6 == 4));
  }
  CHECK(in_frame[8] > in_frame[10]);
  CHECK(over_time[8] > over_time[2]);
}

TEST_CASE("novelty: a NaN stays with its peers") {
  SEEDED(random);
  segment const s = segment::video(0, 100, 2, 2);
  test::layer<fixtures::owned_contiguous<bfloat16>> l(random, {2, 3, 70, {30, 30}});
  int const there = l.position(1, 7);
  l.cache.view.run(1, 1, 7).values[69] = bfloat16(test::nan);
  auto const frame = test::scores_of(novelty<peers::frame>{{&s, 1}}, l.input());
  auto const place = test::scores_of(novelty<peers::place>{{&s, 1}}, l.input());
  for (int h = 0; h < 2; ++h)
    for (int t = 0; t < 30; ++t) {
      auto const row = static_cast<std::size_t>(h), at = static_cast<std::size_t>(t);
      CHECK(std::isnan(frame[row][at]) == (h == 1 && l.position(h, t) / 4 == there / 4));
      CHECK(std::isnan(place[row][at]) == (h == 1 && l.position(h, t) % 4 == there % 4));
    }
}

TEST_CASE("novelty: a layout that is none") {
  segment const s = segment::video(1, 2, 2, 2);
  CHECK(novelty<>{{&s, 1}}.check({}, 1).code == errc::bad_shape);
  CHECK(novelty<>{{nullptr, 1}}.check({}, 1).code == errc::null_data);
}
