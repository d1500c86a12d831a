// SPDX-License-Identifier: Apache-2.0
#include <purekv/merge.cuh>
// The header under test comes first.
#include "support/gpu.hpp"

using namespace purekv;
using namespace fixtures;

namespace gpu_merge_test {

float const inf = std::numeric_limits<float>::infinity(), nan_lse = std::numeric_limits<float>::quiet_NaN();

template <class T> struct owned_parts {
  std::vector<owned_rows<T>> out;
  std::vector<owned_scores> lse;
  std::vector<partial<T>> parts;

  owned_parts(test::random& random, int count, int heads, int tokens, int dim, bool packed = false) {
    for (int p = 0; p < count; ++p) {
      out.emplace_back(heads, tokens, dim, p % 2 == 0 ? order::token_major : order::head_major,
                       packed ? p % 3 * 8 : p % 3);
      lse.emplace_back(1, heads, tokens, p % 2);
      out.back().fill_normal(random);
      for (float& x : lse.back().memory) x = 20 * random.normal();
    }
    for (int p = 0; p < count; ++p)
      parts.push_back({out[size(p)].rows(), lse[size(p)].view.data, lse[size(p)].view.row_stride});
  }
  int count() const { return static_cast<int>(parts.size()); }
};

template <class T> void check(test::random& random, owned_parts<T> const& in, int gap = 3) {
  rows_view<T const> const& shape = in.parts[0].out;
  CAPTURE(in.count());
  CAPTURE(shape.dim);
  owned_rows<T> out(shape.heads, shape.tokens, shape.dim, order::token_major, gap);
  owned_scores lse(1, shape.heads, shape.tokens, 2);
  test::gpu_device device(random);
  owned_workspace work(merge_workspace(device.exec(), in.parts.data(), in.count()));
  CHECK((work.view().bytes > 0) == (in.count() > 512));
  device.run([&](gpu const& exec) {
    auto parts = in.parts;
    status const s = merge(exec, parts.data(), in.count(), out.view, lse.view.data, lse.view.row_stride, work.view());
    for (auto& part : parts) part = {};  // they may go
    return s;
  });
  CHECK(work.guards_untouched());
  CHECK(out.gaps_untouched());
  CHECK(lse.rest_untouched([&](int, int) { return shape.tokens; }));
  for (int h = 0; h < shape.heads; ++h)
    for (int t = 0; t < shape.tokens; ++t) {
      std::vector<oracle::vector> outs;
      std::vector<double> lses;
      for (auto const& part : in.parts) {
        outs.push_back(oracle::read_rows(part.out, h, t, t + 1).row(0).transpose());
        lses.push_back(static_cast<double>(part.lse[h * part.lse_stride + t]));
      }
      auto const expected = oracle::merge(outs, lses);
      double const actual_lse = oracle::exact(lse.view.row(0, h)[t]);
      if (expected.lse == -oracle::infinity)
        CHECK(actual_lse == -oracle::infinity);
      else
        CHECK(std::abs(actual_lse - expected.lse) <= 1e-6 * (1 + std::abs(expected.lse)));
      for (int c = 0; c < shape.dim; ++c) {
        double bound = 0;
        for (auto const& part : outs) bound = std::max(bound, std::abs(part(c)));
        bound = (8e-7 + 0.5 * oracle::eps * in.count()) * bound + oracle::rounding_error<T>(bound);
        CHECK(std::abs(oracle::exact(out.view.row(h, t)[c]) - expected.out(c)) <= bound);
      }
    }
}

}  // namespace gpu_merge_test

using namespace gpu_merge_test;

TEST_CASE("merge on a GPU: parts become one, each by its share of the sum") {
  SEEDED(random);
  for (int dim : {1, 16, 30, 64, 300}) {
    check(random, owned_parts<float>(random, random.between(1, 5), 3, 19, dim));
    check(random, owned_parts<half>(random, 3, 2, random.between(1, 40), dim));
    check(random, owned_parts<bfloat16>(random, 2, 1, 3, dim));
  }
}

TEST_CASE("merge on a GPU: rows at multiples of 16 bytes move in packs, many parts in one launch") {
  SEEDED(random);
  for (int count : {1, 7, 8, 9, 33, 100}) {
    check(random, owned_parts<half>(random, count, 2, 5, 72, true), 8);
    check(random, owned_parts<float>(random, count, 1, 3, 40), 1);
  }
}

TEST_CASE("merge on a GPU: any number of parts, the same bits each time") {
  SEEDED(random);
  for (int count : {1, 2, 512, 513, 2000}) {
    owned_parts<half> in(random, count, 2, 3, 24, true);
    for (auto& lse : in.lse)
      for (float& x : lse.memory) x *= 0.1f;  // all have a share
    for (auto& lse : in.lse) lse.view.row(0, 1)[2] = -inf;
    check(random, in, 8);
    check(random, owned_parts<float>(random, count, 1, 2, 5));

    std::vector<std::uint16_t> bits[2];
    for (auto& run : bits) {
      owned_rows<half> out(2, 3, 24, order::token_major, 8);
      test::gpu_device device(random);
      owned_workspace work(merge_workspace(device.exec(), in.parts.data(), count));
      device.run(
          [&](gpu const& exec) { return merge(exec, in.parts.data(), count, out.view, nullptr, 0, work.view()); });
      for (int h = 0; h < 2; ++h)
        for (int t = 0; t < 3; ++t)
          for (int c = 0; c < 24; ++c) run.push_back(out.view.row(h, t)[c].bits);
    }
    CHECK(bits[0] == bits[1]);
  }
}

TEST_CASE("merge on a GPU: what saw nothing counts for nothing, whatever it holds; all such give 0 and -inf") {
  SEEDED(random);
  for (int count : {3, 40}) {
    owned_parts<float> in(random, count, 2, 6, 20);
    for (int t : {0, 1, 2}) {
      in.lse[1].view.row(0, 1)[t] = -inf;
      in.out[1].view.row(1, t)[7] = std::numeric_limits<float>::quiet_NaN();
    }
    for (auto& lse : in.lse) lse.view.row(0, 0)[5] = -inf;
    check(random, in);
  }
}

TEST_CASE("merge on a GPU: a part far below the others does not reach the result, even if it holds NaN") {
  SEEDED(random);
  owned_parts<float> in(random, 2, 1, 1, 8);
  in.lse[0].view.row(0, 0)[0] = 500;
  in.lse[1].view.row(0, 0)[0] = -500;
  in.out[1].view.row(0, 0)[3] = std::numeric_limits<float>::quiet_NaN();
  owned_rows<float> out(1, 1, 8);
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return merge(exec, in.parts.data(), 2, out.view, nullptr, 0); });
  for (int c = 0; c < 8; ++c) CHECK(out.view.row(0, 0)[c] == in.out[0].view.row(0, 0)[c]);
}

TEST_CASE("merge on a GPU: an lse of NaN counts for nothing, an lse of inf as the largest float") {
  SEEDED(random);
  owned_parts<float> in(random, 2, 1, 3, 4);
  float const lses[2][3] = {{nan_lse, inf, inf}, {1.5f, 3.0f, inf}};
  for (int p = 0; p < 2; ++p)
    for (int t = 0; t < 3; ++t) in.lse[size(p)].view.row(0, 0)[t] = lses[p][t];
  owned_rows<float> out(1, 3, 4);
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return merge(exec, in.parts.data(), 2, out.view, nullptr, 0); });
  for (int c = 0; c < 4; ++c) {
    CHECK(out.view.row(0, 0)[c] == in.out[1].view.row(0, 0)[c]);
    CHECK(out.view.row(0, 1)[c] == in.out[0].view.row(0, 1)[c]);
    CHECK(out.view.row(0, 2)[c] ==
          doctest::Approx(0.5 * (double{in.out[0].view.row(0, 2)[c]} + double{in.out[1].view.row(0, 2)[c]})));
  }
}

TEST_CASE("merge on a GPU: out and lse may be those of a part") {
  SEEDED(random);
  test::gpu_device device(random);
  for (int dim : {20, 600})
    for (int count : {3, 12}) {
      owned_parts<float> in(random, count, 2, 40, dim, true);
      owned_rows<float> out(2, 40, dim);
      owned_scores lse(1, 2, 40);
      device.run([&](gpu const& exec) { return merge(exec, in.parts.data(), count, out.view, lse.view.data, 40); });
      device.run([&](gpu const& exec) {
        return merge(exec, in.parts.data(), count, in.out[1].view, in.lse[1].view.data, in.lse[1].view.row_stride);
      });
      for (int h = 0; h < 2; ++h)
        for (int t = 0; t < 40; ++t) {
          CHECK(in.lse[1].view.row(0, h)[t] == lse.view.row(0, h)[t]);
          for (int c = 0; c < dim; ++c) CHECK(in.out[1].view.row(h, t)[c] == out.view.row(h, t)[c]);
        }
    }
}

TEST_CASE("merge on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  owned_parts<half> in(random, 3, 2, 5, 16);
  owned_rows<half> out(2, 5, 16);
  owned_scores lse(1, 2, 5);
  test::gpu_device device(random);
  auto const code = [&](auto const& change) {
    auto parts = in.parts;
    int count = in.count();
    auto view = out.view;
    gpu exec = device.exec();
    std::ptrdiff_t stride = lse.view.row_stride;
    change(exec, parts, count, view, stride);
    return device.status_of([&](gpu const&) { return merge(exec, parts.data(), count, view, lse.view.data, stride); })
        .code;
  };
  CHECK(code([](auto& exec, auto&, auto&, auto&, auto&) { exec.device = {}; }) == errc::unsupported_device);
  CHECK(code([](auto&, auto&, auto& count, auto&, auto&) { count = 0; }) == errc::bad_shape);
  CHECK(code([](auto&, auto& parts, auto& count, auto&, auto&) {
          parts.resize(513, parts[0]);
          count = 513;
        }) == errc::workspace_too_small);
  CHECK(code([](auto&, auto& parts, auto&, auto&, auto&) { parts[2].lse = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto& parts, auto&, auto&, auto&) { parts[1].out.dim = 8; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, auto&, auto& view, auto&) { view.token_stride = 15; }) == errc::bad_shape);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& stride) { stride = 4; }) == errc::bad_shape);
  CHECK(std::all_of(out.memory.begin(), out.memory.end(), [](half const& x) { return is_untouched(x); }));
  CHECK(lse.rest_untouched([](int, int) { return 0; }));
}
