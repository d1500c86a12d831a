// SPDX-License-Identifier: Apache-2.0
#include <purekv/validate.cuh>
// The header under test comes first.
#include "support/gpu.hpp"

#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

using namespace purekv;

namespace gpu_validate_test {

using fixtures::size;
using rule = violation::rule;

/// What the device says of something: validate(exec, what ..., out).
class inspector {
 public:
  explicit inspector(test::random& random) : device_(random), out_(1) {}

  template <class... T> violation find(T const&... what) {
    out_[0] = {rule::tile, errc::not_ready, 7, 7, 7, 7};
    device_.run([&](gpu const& exec) { return validate(exec, what..., out_.data()); });
    return out_[0];
  }
  template <class... T> void expect(violation const& expected, T const&... what) {
    violation const found = find(what...);
    CHECK(found.broken == expected.broken);
    CHECK(found.code == expected.code);
    CHECK(found.sequence == expected.sequence);
    CHECK(found.kv_head == expected.kv_head);
    CHECK(found.at == expected.at);
    status const s = explain(found);
    CHECK(s.code == expected.code);
    CHECK((s.message[0] == 0) == s.ok());
  }
  template <class... T> void expect_good(T const&... what) { expect(violation{}, what...); }

  template <class... T> errc refused(T const&... what) {
    out_[0] = {rule::tile, errc::not_ready, 7, 7, 7, 7};
    errc const code = device_.status_of([&](gpu const& exec) { return validate(exec, what..., out_.data()); }).code;
    CHECK(out_[0].code == errc::not_ready);
    return code;
  }
  gpu const& exec() const { return device_.exec(); }

 private:
  test::gpu_device device_;
  fixtures::buffer<violation> out_;
};

/// Caches of both kinds with the same positions: [sequences, kv_heads] of these lengths.
struct caches {
  static constexpr int sequences = 3, kv_heads = 2;
  std::vector<int> lengths;
  fixtures::owned_contiguous<half> contiguous;
  fixtures::owned_ragged<half> ragged;

  caches(test::random& random, std::vector<int> const& n)
      : lengths(n),
        contiguous(sequences, kv_heads, *std::max_element(n.begin(), n.end()) + 2, 1),
        ragged(sequences, kv_heads, capacities(n), 1, 0, 3) {
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < kv_heads; ++h)
        for (int t = 0, position = random.between(0, 3); t < n[size(s * kv_heads + h)];
             ++t, position += random.between(1, 3)) {
          auto const zero = [](int) { return 0.0f; };
          fixtures::push(contiguous.view, s, h, position, zero, zero);
          fixtures::push(ragged.view, s, h, position, zero, zero);
        }
  }
  std::int32_t& position(bool of_ragged, int s, int h, int t) {
    return of_ragged ? *ragged.view.run(s, h, t).positions : *contiguous.view.run(s, h, t).positions;
  }
  template <class F> void both(F const& f) {
    f(contiguous.view);
    f(ragged.view);
  }

 private:
  static std::vector<std::int32_t> capacities(std::vector<int> const& n) {
    std::vector<std::int32_t> all;
    for (int length : n) all.push_back(length + 2);
    return all;
  }
};

/// Queries of `heads` heads at the newest positions, in sequences of these lengths.
struct queries {
  fixtures::buffer<std::int32_t> offset{0}, positions;
  fixtures::buffer<float> sinks;
  query_view<half> view;

  queries(test::random& random, std::vector<int> const& counts, int heads, int first = 0) {
    for (int count : counts) {
      std::int32_t position = first + random.between(0, 2);
      for (int i = 0; i < count; ++i, position += random.between(1, 3)) positions.push_back(position);
      offset.push_back(static_cast<std::int32_t>(positions.size()));
    }
    for (int h = 0; h < heads; ++h) sinks.push_back(h == 0 ? -HUGE_VALF : random.normal());
    view.rows = {nullptr, heads, offset.back(), 1, 0, 0};
    view.batch = {static_cast<std::int32_t>(counts.size()), offset.data(), positions.data()};
    view.sink_logits = sinks.data();
  }
};

/// Changes a number for as long as it lives.
template <class T> class with {
 public:
  with(T& place, T value) : place_(place), before_(place) { place_ = value; }
  with(with const&) = delete;
  ~with() { place_ = before_; }

 private:
  T& place_;
  T before_;
};

}  // namespace gpu_validate_test

using namespace gpu_validate_test;

TEST_CASE("validate on a GPU: caches") {
  SEEDED(random);
  inspector device(random);
  caches empty(random, {0, 0, 0, 0, 0, 0}), good(random, {5, 0, 1, 700, 256, 257});
  empty.both([&](auto const& cache) { device.expect_good(cache); });
  good.both([&](auto const& cache) { device.expect_good(cache); });
  for (bool ragged : {false, true}) {
    auto const expect = [&](violation const& v) {
      if (ragged)
        device.expect(v, good.ragged.view);
      else
        device.expect(v, good.contiguous.view);
    };
    for (int at : {0, 1, 255, 256, 699}) {
      CAPTURE(at);
      std::int32_t& position = good.position(ragged, 1, 1, at);
      with const changed(position, at == 0 ? -1 : good.position(ragged, 1, 1, at - 1) - random.between(0, 1));
      expect({rule::cache_position, errc::bad_positions, 1, 1, at});
      // What comes behind, in the same head and in others, does not matter; what comes before does.
      with const behind(good.position(ragged, 2, 0, 3), -1);
      expect({rule::cache_position, errc::bad_positions, 1, 1, at});
      with const before(good.position(ragged, 0, 0, 4), 0);
      expect({rule::cache_position, errc::bad_positions, 0, 0, 4});
    }
    std::int32_t& length = ragged ? good.ragged.extents[3].length : good.contiguous.lengths[3];
    int const capacity = ragged ? good.ragged.extents[3].capacity : good.contiguous.view.tokens;
    for (int wrong : {-1, capacity + 1}) {
      with const changed(length, wrong);
      expect({rule::cache_length, errc::bad_shape, 1, 1});
      with const before(good.position(ragged, 1, 0, 0), -3);
      expect({rule::cache_position, errc::bad_positions, 1, 0, 0});
    }
  }
  auto& extents = good.ragged.extents;
  {
    with const changed(extents[2].begin, extents[2].begin - 4);  // there are 3 slots between
    device.expect({rule::cache_extent, errc::bad_shape, 1, 0}, good.ragged.view);
  }
  {
    with const changed(extents[0].begin, std::int64_t{-1});
    device.expect({rule::cache_extent, errc::bad_shape, 0, 0}, good.ragged.view);
  }
  with const changed(extents[5].capacity, extents[5].capacity + 1);
  device.expect({rule::cache_extent, errc::bad_shape, 2, 1}, good.ragged.view);
}

TEST_CASE("validate on a GPU: queries") {
  SEEDED(random);
  inspector device(random);
  for (std::vector<int> const& counts : std::vector<std::vector<int>>{{0}, {1}, {0, 0, 0}, {3, 0, 600, 0}}) {
    queries q(random, counts, 3);
    device.expect_good(q.view);
    if (counts.size() == 1) q.view.batch.offset = nullptr;
    device.expect_good(q.view);
    q.view.sink_logits = nullptr;
    device.expect_good(q.view);
  }
  queries q(random, {3, 0, 600, 0}, 300);
  for (int at : {0, 2, 3, 602}) {
    CAPTURE(at);
    bool const first = at == 0 || at == 3;
    with const changed(q.positions[size(at)], first ? -1 : q.positions[size(at - 1)]);
    device.expect({rule::batch_position, errc::bad_positions, at < 3 ? 0 : 2, -1, at}, q.view);
    with const earlier(q.positions[1], q.positions[0] - 1);
    device.expect({rule::batch_position, errc::bad_positions, 0, -1, at == 0 ? 0 : 1}, q.view);
  }
  for (float wrong : {HUGE_VALF, fixtures::nan_of<float>()})
    for (int head : {0, 299}) {
      with const changed(q.sinks[size(head)], wrong);
      device.expect({rule::sink_logit, errc::bad_shape, -1, -1, head}, q.view);
      with const other(q.positions[0], -1);
      device.expect({rule::sink_logit, errc::bad_shape, -1, -1, head}, q.view);
    }
  auto const offset = [&](int which, int value, violation const& expected) {
    CAPTURE(which);
    with const changed(q.offset[size(which)], value);
    device.expect(expected, q.view);
  };
  offset(0, 1, {rule::batch_offset, errc::mismatch, 0, -1, 0});
  offset(0, -1, {rule::batch_offset, errc::mismatch, 0, -1, 0});
  offset(1, -1, {rule::batch_offset, errc::bad_shape, 0, -1, 1});
  offset(2, 2, {rule::batch_offset, errc::bad_shape, 1, -1, 2});
  offset(2, 604, {rule::batch_offset, errc::mismatch, 1, -1, 2});
  offset(4, 602, {rule::batch_offset, errc::bad_shape, 3, -1, 4});
  with const both(q.offset[3], 602);
  with const short_of(q.offset[4], 602);
  device.expect({rule::batch_offset, errc::mismatch, 3, -1, 4}, q.view);
}

TEST_CASE("validate on a GPU: what is to be appended") {
  SEEDED(random);
  inspector device(random);
  caches good(random, {5, 5, 0, 0, 40, 300});
  queries added(random, {2, 1, 0}, 1, 2000);
  batch_view const& batch = added.view.batch;
  good.both([&](auto const& cache) { device.expect_good(batch, 3, cache); });
  good.both([&](auto const& cache) {
    bool const ragged = requires { cache.extents; };
    {
      with const changed(added.positions[1], added.positions[0]);
      device.expect({rule::batch_position, errc::bad_positions, 0, -1, 1}, batch, 3, cache);
      with const older(good.position(ragged, 0, 0, 4), added.positions[0]);
      device.expect({rule::batch_position, errc::bad_positions, 0, -1, 1}, batch, 3, cache);
    }
    with const newest(good.position(ragged, 0, 1, 4), added.positions[0]);
    device.expect({rule::not_newer, errc::bad_positions, 0, 1, 0}, batch, 3, cache);
    with const same(good.position(ragged, 0, 0, 4), added.positions[0] + 1);
    device.expect({rule::not_newer, errc::bad_positions, 0, 0, 0}, batch, 3, cache);
  });
  queries many(random, {2, 0, 3}, 1, 2000);
  device.expect({rule::no_slot, errc::capacity_exceeded, 2, 0, 4}, many.view.batch, 5, good.ragged.view);
  device.expect({rule::no_slot, errc::capacity_exceeded, 2, 1, 4}, many.view.batch, 5, good.contiguous.view);
  with const changed(many.offset[3], 6);
  device.expect({rule::batch_offset, errc::mismatch, 2, -1, 3}, many.view.batch, 5, good.ragged.view);
}

TEST_CASE("validate on a GPU: selections") {
  SEEDED(random);
  inspector device(random);
  caches good(random, {5, 4, 0, 0, 300, 270});
  for (selection_scope scope : {selection_scope::kv_head, selection_scope::layer}) {
    bool const layer = scope == selection_scope::layer;
    fixtures::owned_selection kept(layer ? 3 : 6, 700, scope);
    std::int64_t end = 0;
    for (int r = 0; r < kept.view.rows; ++r) {
      kept.offset[size(r)] = end;
      int const length = layer ? good.lengths[size(2 * r + 1)] : good.lengths[size(r)];
      for (int t = 0; t < length; ++t)
        if (r == 0 || t > 250 || random.between(0, 3) > 0) kept.token[size(end++)] = t;
    }
    kept.offset[size(kept.view.rows)] = end;
    int const last_row = kept.view.rows - 1, last_head = layer ? 0 : 1;
    std::int64_t const count = end - kept.offset[size(last_row)];
    good.both([&](auto const& cache) {
      device.expect_good(kept.view, cache);
      {
        with const changed(kept.token[size(end - 1)], layer ? 270 : 270);
        device.expect({rule::selection_token, errc::bad_positions, 2, 1, count - 1}, kept.view, cache);
      }
      {
        with const changed(kept.token[size(end - 1)], kept.token[size(end - 2)]);
        device.expect({rule::selection_order, errc::bad_positions, 2, last_head, count - 1}, kept.view, cache);
        with const before(kept.token[1], -1);
        device.expect({rule::selection_token, errc::bad_positions, 0, 0, 1}, kept.view, cache);
      }
      {
        with const changed(kept.offset[0], std::int64_t{-1});
        device.expect({rule::selection_offset, errc::bad_shape, 0, 0, 0}, kept.view, cache);
      }
      {
        with const changed(kept.offset[size(last_row + 1)], std::int64_t{701});
        device.expect({rule::selection_offset, errc::bad_shape, 2, last_head, last_row + 1}, kept.view, cache);
      }
      with const changed(kept.offset[2], kept.offset[1] - 1);
      device.expect({rule::selection_offset, errc::bad_shape, layer ? 1 : 0, layer ? 0 : 1, 2}, kept.view, cache);
    });
  }
}

TEST_CASE("validate on a GPU: sources") {
  SEEDED(random);
  inspector device(random);
  fixtures::buffer<std::int32_t> positions(3 * 400, -1), tokens = {300, 0, 1};
  for (int s = 0; s < 3; ++s)
    for (int t = 0, at = random.between(0, 2); t < tokens[size(s)]; ++t, at += random.between(1, 3))
      positions[size(s * 400 + t)] = at;
  source_view const source{{nullptr, 3, 2, 350, 700, 350}, positions.data(), 400, tokens.data()};
  device.expect_good(source);
  {
    with const changed(positions[299], positions[298]);
    device.expect({rule::source_position, errc::bad_positions, 0, -1, 299}, source);
  }
  with const negative(positions[800], -1);
  device.expect({rule::source_position, errc::bad_positions, 2, -1, 0}, source);
  for (int wrong : {-1, 351}) {
    with const changed(tokens[1], wrong);
    device.expect({rule::source_tokens, errc::mismatch, 1}, source);
  }
}

TEST_CASE("validate on a GPU: patterns") {
  SEEDED(random);
  inspector device(random);
  queries q(random, {0, 20, 30}, 2);
  device.expect_good(dense{}, q.view);
  fixtures::buffer<segment> segments = {segment::text(0, 9), segment::video(9, 2, 5, 6), segment::text(69, 60)};
  spatial_temporal video{{segments.data(), 3}};
  device.expect_good(video, q.view);
  std::int32_t& last = q.positions[19];
  {
    with const late(q.positions[49], 129);
    device.expect({rule::pattern, errc::bad_positions, 2, -1, 129}, video, q.view);
    with const changed(last, 130);
    device.expect({rule::pattern, errc::bad_positions, 1, -1, 130}, video, q.view);
  }
  with const gap(segments[1].begin, 10);
  device.expect({rule::pattern, errc::bad_shape, 1, -1, last}, video, q.view);
  fixtures::buffer<std::uint8_t> const kinds = {0, 2};
  device.expect({rule::pattern, errc::bad_policy, 1, -1, last}, by_head<dense>{{}, kinds.data(), 2}, q.view);
  CHECK(device.refused(by_head<dense>{{}, kinds.data(), 3}, q.view) == errc::mismatch);
}

TEST_CASE("validate on a GPU: plans") {
  SEEDED(random);
  inspector device(random);
  caches good(random, {50, 50, 50, 50, 50, 50});
  queries q(random, {30, 0, 20}, 4);
  // Two tiles of sequence 0, one of sequence 2, and one that is not used.
  fixtures::buffer<query_tile> tiles = {{0, 0, 16, 2, 0, 0}, {0, 16, 14, 1, 2, 0}, {2, 30, 20, 1, 3, 0}, {},
                                        {0, 0, 16, 2, 4, 0}, {0, 16, 14, 1, 6, 0}, {2, 30, 20, 1, 7, 0}, {}};
  fixtures::buffer<key_run> runs = {{0, 3, 1}, {3, 40, 0}, {2, 48, 1}, {0, 50, 1},
                                    {0, 3, 1}, {5, 40, 0}, {2, 48, 1}, {0, 50, 1}};
  fixtures::buffer<std::int32_t> used = {3, 3};
  tile_plan plan{tiles.data(), runs.data(), nullptr, 4, true, 20, 3, 4, 2, 50, used.data()};
  good.both([&](auto const& cache) {
    device.expect_good(plan, q.view, cache);
    tile_plan shared = plan, exact = plan;
    shared.per_kv_head = false;
    device.expect_good(shared, q.view, cache);
    exact.per_kv_head = false;
    exact.tiles_used = nullptr;
    exact.tiles_per_head = 3;
    device.expect_good(exact, q.view, cache);
    auto const wrong_run = [&](int which, key_run const& run, violation const& expected) {
      CAPTURE(which);
      with const changed(runs[size(which)], run);
      device.expect(expected, plan, q.view, cache);
    };
    wrong_run(1, {2, 40, 0}, {rule::tile_run, errc::mismatch, 0, 0, 1});
    wrong_run(4, {-1, 3, 0}, {rule::tile_run, errc::mismatch, 0, 1, 0});
    wrong_run(6, {2, 49, 1}, {rule::tile_run, errc::mismatch, 0, 1, 0});
    wrong_run(7, {0, 0, 1}, {rule::tile_run, errc::mismatch, 2, 1, 0});
    auto const wrong_tile = [&](int which, query_tile const& tile, violation const& expected) {
      CAPTURE(which);
      with const changed(tiles[size(which)], tile);
      device.expect(expected, plan, q.view, cache);
    };
    wrong_tile(1, {0, 15, 15, 1, 2, 0}, {rule::tile, errc::mismatch, 0, 0, 1});
    wrong_tile(0, {0, 0, 21, 2, 0, 0}, {rule::tile, errc::mismatch, 0, 0, 0});
    wrong_tile(5, {0, 16, 13, 1, 6, 0}, {rule::tile, errc::mismatch, 2, 1, 2});
    wrong_tile(5, {0, 16, 15, 1, 6, 0}, {rule::tile, errc::mismatch, 0, 1, 1});
    wrong_tile(2, {1, 30, 20, 1, 3, 0}, {rule::tile, errc::mismatch, 1, 0, 2});
    wrong_tile(2, {3, 30, 20, 1, 3, 0}, {rule::tile, errc::mismatch, -1, 0, 2});
    wrong_tile(2, {2, 30, 19, 1, 3, 0}, {rule::tile, errc::mismatch, 2, 0, 2});
    for (int count : {0, 5}) {
      with const changed(used[1], count);
      device.expect({rule::tile, errc::mismatch, -1, 1, 0}, plan, q.view, cache);
    }
    with const changed(used[0], 2);
    device.expect({rule::tile, errc::mismatch, 0, 0, 1}, plan, q.view, cache);
  });
  good.contiguous.lengths[1] = 41;
  device.expect({rule::tile_run, errc::mismatch, 0, 1, 1}, plan, q.view, good.contiguous.view);
  plan.per_kv_head = false;
  device.expect({rule::tile_run, errc::mismatch, 0, 1, 1}, plan, q.view, good.contiguous.view);
  plan.queries = 49;
  CHECK(device.refused(plan, q.view, good.contiguous.view) == errc::mismatch);
}

TEST_CASE("validate on a GPU refuses what the host can see") {
  SEEDED(random);
  inspector device(random);
  caches good(random, {5, 4, 0, 0, 3, 2});
  queries q(random, {1, 2, 3}, 2);
  fixtures::owned_selection kept(5, 7);
  source_view source{};
  auto cache = good.contiguous.view;
  CHECK(device.refused(kept.view, cache) == errc::mismatch);
  CHECK(device.refused(source) == errc::bad_shape);
  source.scores.sequences = 1;
  CHECK(device.refused(source) == errc::null_data);
  CHECK(device.refused(q.view.batch, -1, cache) == errc::bad_shape);
  CHECK(device.refused(batch_view{2, q.offset.data(), q.positions.data()}, 6, cache) == errc::mismatch);
  q.view.batch.positions = nullptr;
  CHECK(device.refused(q.view) == errc::null_data);
  CHECK(device.refused(dense{}, q.view) == errc::null_data);
  cache.lengths = nullptr;
  CHECK(device.refused(cache) == errc::null_data);
  CHECK(validate(device.exec(), good.ragged.view, nullptr).code == errc::null_data);
  CHECK(validate(gpu{}, good.ragged.view, nullptr).code == errc::unsupported_device);
  CHECK(explain({.broken = static_cast<rule>(99)}).code == errc::mismatch);
}
