// SPDX-License-Identifier: Apache-2.0
#include <purekv/source.cuh>
// The header under test comes first.
#include "support/gpu.hpp"

#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/protect/any_of.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/protect/sinks.hpp>
#include <purekv/protect/text.hpp>

using namespace purekv;

namespace gpu_source_test {

using fixtures::size;
using heads = group_mean<accumulated_attention>;
using largest = cross_layer<heads>;
using mean = cross_layer<heads, combine::mean>;

/// Layers of one prompt that hold the same tokens, and the source they are folded into. Ragged caches hide how long
/// their heads may be.
template <class Owned> struct band {
  std::vector<int> lengths;
  int kv_heads, longest;
  Owned cache;
  std::vector<fixtures::owned_scores> layers;
  fixtures::owned_scores source_scores;
  fixtures::buffer<std::int32_t> positions, tokens;

  band(test::random& random, std::vector<int> of_sequences, int kv_head_count, int layer_count)
      : lengths(std::move(of_sequences)),
        kv_heads(kv_head_count),
        longest(*std::max_element(lengths.begin(), lengths.end())),
        cache(make()),
        source_scores(sequences(), kv_heads, longest + random.between(1, 2), 3),  // a source has data, be it empty
        positions(size(sequences() * (longest + 1)), -1),
        tokens(lengths.begin(), lengths.end()) {
    for (int s = 0; s < sequences(); ++s)
      for (int t = 0, p = random.between(0, 2); t < lengths[size(s)]; ++t, p += random.between(1, 2)) {
        positions[size(s * (longest + 1) + t)] = p;
        for (int h = 0; h < kv_heads; ++h)
          fixtures::push(
              cache.view, s, h, p, [](int) { return 0.0f; }, [](int) { return 1.0f; });
      }
    float const strange[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 0.0f};
    for (int l = 0; l < layer_count; ++l) {
      layers.emplace_back(sequences(), kv_heads, longest + random.between(0, 2), 2);
      for (int s = 0; s < sequences(); ++s)
        for (int h = 0; h < kv_heads; ++h)
          for (int t = 0; t < lengths[size(s)]; ++t)
            layers.back().view.row(s, h)[t] =
                random.between(0, 40) == 0 ? strange[random.between(0, 2)] : random.uniform(0, l == 1 ? 100.0f : 1.0f);
    }
  }
  int sequences() const { return static_cast<int>(lengths.size()); }
  source_view source(fixtures::owned_scores const& scores) const {
    return {scores.view, positions.data(), longest + 1, tokens.data()};
  }

 private:
  Owned make() const {
    if constexpr (std::is_same_v<Owned, fixtures::owned_contiguous<half>>)
      return Owned(sequences(), kv_heads, longest + 2, 4);
    else {
      std::vector<std::int32_t> capacities;
      for (int n : lengths)
        for (int h = 0; h < kv_heads; ++h) capacities.push_back(n + h);
      return Owned(sequences(), kv_heads, capacities, 4, 0, 1);
    }
  }
};

/// Folds layer after layer on both; the source is the same to the bit after each.
template <class E, class Owned, class P> void check(test::random& random, band<Owned> const& b, P const& protect) {
  E const e;
  test::gpu_device device(random);
  fixtures::owned_scores by_cpu(b.sequences(), b.kv_heads, b.source_scores.view.tokens, 3),
      by_gpu(b.sequences(), b.kv_heads, b.source_scores.view.tokens, 3);
  fixtures::owned_workspace cpu_work(accumulate_source_workspace(cpu{}, e, b.cache.view));
  std::size_t const bytes = accumulate_source_workspace(device.exec(), e, b.cache.view);
  CHECK((bytes > 0) == (E::combination == combine::mean));
  for (std::size_t l = 0; l < b.layers.size(); ++l) {
    CAPTURE(l);
    bool const first = l == 0;
    REQUIRE(
        accumulate_source(cpu{}, e, protect, b.layers[l].view, b.cache.view, first, b.source(by_cpu), cpu_work.view())
            .ok());
    fixtures::owned_workspace work(bytes);
    std::vector<float> const before(by_gpu.memory.begin(), by_gpu.memory.end());
    auto const call = [&](gpu const& exec, workspace const& lent) {
      return accumulate_source(exec, e, protect, b.layers[l].view, b.cache.view, first, b.source(by_gpu), lent);
    };
    if (bytes > 0) {
      CHECK(device.status_of([&](gpu const& exec) { return call(exec, work.one_byte_less()); }).code ==
            errc::workspace_too_small);
      CHECK(std::memcmp(before.data(), by_gpu.memory.data(), before.size() * sizeof(float)) == 0);
    }
    device.run([&](gpu const& exec) { return call(exec, work.view()); });
    CHECK(work.guards_untouched());
    CHECK(by_gpu.rest_untouched([&](int s, int) { return b.lengths[size(s)]; }));
    int wrong = 0;
    for (int s = 0; s < b.sequences(); ++s)
      for (int h = 0; h < b.kv_heads; ++h)
        for (int t = 0; t < b.lengths[size(s)]; ++t) {
          float const x = by_gpu.view.row(s, h)[t], y = by_cpu.view.row(s, h)[t];
          wrong += !(std::memcmp(&x, &y, sizeof x) == 0 || (std::isnan(x) && std::isnan(y)));
        }
    CHECK(wrong == 0);
  }
}

template <class Owned> void check_bands(test::random& random) {
  any_of<sinks, recent> const ends{{2}, {3}};
  for (std::vector<int> const& lengths :
       {std::vector<int>{0}, {1}, {40, 0, 1, 333}, {127, 128, 129}, {2, 1025, 256, 255, 257}}) {
    CAPTURE(lengths.size());
    band<Owned> const b(random, lengths, random.between(1, 3), 3);
    check<largest>(random, b, ends);
    check<mean>(random, b, ends);
    check<mean>(random, b, none{});
  }
}

}  // namespace gpu_source_test

using namespace gpu_source_test;

TEST_CASE("accumulate_source on a GPU has the bits of the CPU") {
  SEEDED(random);
  check_bands<fixtures::owned_contiguous<half>>(random);
  check_bands<fixtures::owned_ragged<float>>(random);
}

TEST_CASE("accumulate_source on a GPU: pins of a table in the device's memory") {
  SEEDED(random);
  fixtures::buffer<segment> const segments{segment::text(0, 30), segment::video(30, 9, 3, 5), segment::text(165, 700)};
  band<fixtures::owned_contiguous<half>> const b(random, {80, 200}, 2, 2);
  check<mean>(random, b, text{{segments.data(), 3}});
}

TEST_CASE("accumulate_source on a GPU: more tokens than the blocks of a row take at once") {
  SEEDED(random);
  band<fixtures::owned_contiguous<half>> const b(random, {16384 + 300}, 1, 2);
  check<mean>(random, b, none{});
}

TEST_CASE("accumulate_source on a GPU refuses what it can see, and leaves the source alone") {
  SEEDED(random);
  band<fixtures::owned_contiguous<half>> const b(random, {30, 20}, 2, 1);
  test::gpu_device device(random);
  fixtures::owned_workspace work(accumulate_source_workspace(device.exec(), mean{}, b.cache.view));
  auto const refuse = [&](errc code, auto const& change) {
    gpu exec = device.exec();
    source_view source = b.source(b.source_scores);
    score_view scores = b.layers[0].view;
    auto cache = b.cache.view;
    change(exec, source, scores, cache);
    status const s = device.status_of(
        [&](gpu const&) { return accumulate_source(exec, mean{}, none{}, scores, cache, true, source, work.view()); });
    CAPTURE(s.message);
    CHECK(s.code == code);
    CHECK(b.source_scores.rest_untouched([](int, int) { return 0; }));
  };
  refuse(errc::unsupported_device, [](auto& exec, auto&, auto&, auto&) { exec.device = {}; });
  refuse(errc::null_data, [](auto&, auto& s, auto&, auto&) { s.scores.data = nullptr; });
  refuse(errc::null_data, [](auto&, auto& s, auto&, auto&) { s.positions = nullptr; });
  refuse(errc::null_data, [](auto&, auto& s, auto&, auto&) { s.tokens = nullptr; });
  refuse(errc::null_data, [](auto&, auto&, auto& l, auto&) { l.data = nullptr; });
  refuse(errc::mismatch, [](auto&, auto& s, auto&, auto&) { s.scores.rows = 3; });
  refuse(errc::mismatch, [](auto&, auto&, auto& l, auto&) { l.sequences = 1; });
  refuse(errc::bad_shape, [](auto&, auto& s, auto&, auto&) { s.scores.row_stride = 29; });
  refuse(errc::bad_shape, [](auto&, auto&, auto&, auto& cache) { cache.kv_heads = 0; });
}
