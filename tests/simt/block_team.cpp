// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/block_team.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/estimator/key_norm.hpp>
#include <purekv/estimator/pooled.hpp>
#include <purekv/estimator/value_weighted.hpp>
#include <purekv/estimator/window_attention.hpp>

#include "support/estimator_checks.hpp"

using namespace purekv;

namespace block_team_test {

/// An estimator's body, by the threads of one block.
template <class E, class Input> struct score_by_block {
  static constexpr std::int32_t threads = 64;
  E estimator;
  Input in;
  score_out out;
  float* scratch;

  PUREKV_DEVICE void operator()() const { estimator.score(simt::block_team{}, in, out, scratch); }
};

/// sum over a team, by a block.
struct sum_by_block {
  static constexpr std::int32_t threads = 96;
  float const* x;
  std::int32_t n;
  float* scratch;
  float* out;  // [threads]

  PUREKV_DEVICE void operator()() const {
    out[simt::thread_index()] = sum(
        simt::block_team{}, n, [&](std::int32_t i) { return x[i]; }, scratch);
  }
};

/// The bits of a block are those of the CPU.
template <class E, class Layer> void check_layer(E const& estimator, Layer const& layer) {
  auto const in = layer.input();
  std::int32_t longest = 0;
  for (std::int32_t h = 0; h < in.kv_heads(); ++h) longest = std::max(longest, in.tokens(h));
  std::int32_t const per_kv_head = E::rows == score_rows::heads ? in.group() : 1, rows = in.kv_heads() * per_kv_head;
  std::int64_t const scratch_floats = E::scratch({in.heads, in.kv_heads(), longest, in.dim(), in.value_dim()});
  std::size_t const count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(longest);
  test::array<float> by_cpu(count, -1), by_block(count, -1), scratch(static_cast<std::size_t>(scratch_floats), -1);
  estimator.score(cpu{}, in, score_out{by_cpu.data(), longest}, scratch.data());
  std::fill(scratch.begin(), scratch.end(), -1.0f);
  using kernel = score_by_block<E, std::remove_const_t<decltype(in)>>;
  test::run({}, 0, kernel{estimator, in, {by_block.data(), longest}, scratch.data()});
  CHECK(std::memcmp(by_block.data(), by_cpu.data(), count * sizeof(float)) == 0);
}

template <class E> void check_estimator(test::random& random, E const& estimator) {
  for (test::layer_case const& c : test::layer_cases(random, false)) {
    CAPTURE(c.dim);
    CAPTURE(c.group);
    check_layer(estimator, test::layer<fixtures::owned_ragged<float>>(random, c));
    check_layer(estimator, test::layer<fixtures::owned_contiguous<half>>(random, c));
  }
}

}  // namespace block_team_test

using block_team_test::check_estimator;

TEST_CASE("block_team: estimators run in a block by the body that the CPU runs") {
  SEEDED(random);
  check_estimator(random, key_norm{});
  check_estimator(random, window_attention<16>{});
  check_estimator(random, accumulated_attention{});
  check_estimator(random, pooled<value_weighted<group_mean<window_attention<16>>>, 7>{});
}

TEST_CASE("block_team: sums have the same bits for a block as for one thread") {
  SEEDED(random);
  for (std::int32_t n : {0, 1, 1024, 5000}) {
    test::array<float> x(static_cast<std::size_t>(n)), out(96), scratch(static_cast<std::size_t>(sum_scratch(n)));
    for (float& y : x) y = random.normal();
    float const expected = sum(
        cpu{}, n, [&](std::int32_t i) { return x[static_cast<std::size_t>(i)]; }, scratch.data());
    test::run({}, 0, block_team_test::sum_by_block{x.data(), n, scratch.data(), out.data()});
    for (float y : out) REQUIRE(std::memcmp(&y, &expected, 4) == 0);
  }
}
