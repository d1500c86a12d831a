// SPDX-License-Identifier: Apache-2.0
#include <purekv/view.hpp>

#include <doctest/doctest.h>
#include <purekv/concepts.hpp>

#include <array>
#include <type_traits>

using namespace purekv;

static_assert(std::is_trivially_copyable_v<rows_view<half>> && std::is_trivially_copyable_v<query_view<half>> &&
              std::is_trivially_copyable_v<score_view> && std::is_trivially_copyable_v<batch_view> &&
              std::is_trivially_copyable_v<workspace>);

TEST_CASE("rows are found in both usual orders") {
  constexpr int heads = 3, tokens = 4, dim = 5;
  std::array<float, heads * tokens * dim> data{};
  rows_view<float> const by_head = head_major(data.data(), heads, tokens, dim);
  rows_view<float> const by_token = token_major(data.data(), heads, tokens, dim);
  for (int h = 0; h < heads; ++h)
    for (int t = 0; t < tokens; ++t) {
      CHECK(by_head.row(h, t) - data.data() == (h * tokens + t) * dim);
      CHECK(by_token.row(h, t) - data.data() == (t * heads + h) * dim);
    }
}

TEST_CASE("a row is found beyond 2^31 elements") {
  rows_view<half> const rows = head_major(static_cast<half*>(nullptr), 64, 1 << 20, 128);
  CHECK(rows.head_stride == std::ptrdiff_t{1} << 27);
  CHECK(rows.head_stride * 63 + rows.token_stride * ((1 << 20) - 1) == (std::ptrdiff_t{64} << 27) - 128);
  score_view const scores = dense_scores(nullptr, 8, 1 << 12, 1 << 20);
  CHECK(scores.sequence_stride == std::ptrdiff_t{1} << 32);
}

TEST_CASE("a batch without offsets is one sequence") {
  query_view<float> q;
  q.rows.tokens = 9;
  CHECK(q.begin(0) == 0);
  CHECK(q.end(0) == 9);
  CHECK(q.count(0) == 9);
}

TEST_CASE("a ragged batch finds the queries of each sequence") {
  std::array<std::int32_t, 4> const offset{0, 4, 4, 9};
  query_view<float> q;
  q.rows.tokens = 9;
  q.batch = {3, offset.data(), nullptr};
  CHECK(q.count(0) == 4);
  CHECK(q.count(1) == 0);
  CHECK(q.begin(2) == 4);
  CHECK(q.end(2) == 9);
}

TEST_CASE("scores are found by sequence and row") {
  std::array<float, 2 * 3 * 4> data{};
  score_view const scores = dense_scores(data.data(), 2, 3, 4);
  CHECK(scores.row(1, 2) - data.data() == 20);
  score_view const padded{data.data(), 2, 2, 4, 12, 5};
  CHECK(padded.row(1, 1) - data.data() == 17);
}

TEST_CASE("scores of nothing have null rows, whatever their strides") {
  score_view const nothing{nullptr, 2, 3, 0, 12, 5};
  CHECK(nothing.row(1, 2) == nullptr);
  CHECK(score_out{nullptr, 5}.row(2) == nullptr);
}
