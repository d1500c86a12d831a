// SPDX-License-Identifier: Apache-2.0
#include <purekv/validate.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

using namespace purekv;
using namespace fixtures;

namespace {

/// Two sequences, two heads each, of different lengths; what lies beyond a length is not read.
struct positions_only {
  static constexpr std::int32_t rest = -1;
  std::vector<std::int32_t> positions = {0, 1, 2, 3, 0, 7, 9, rest, 5, rest, rest, rest, rest, rest, rest, rest};
  std::vector<std::int32_t> lengths = {4, 3, 1, 0};
  std::vector<extent> extents = {{0, 4, 4}, {4, 3, 4}, {8, 1, 4}, {12, 0, 4}};
  float nothing[16] = {};

  contiguous_cache<float> contiguous() {
    return head_major_cache(nothing, nothing, positions.data(), lengths.data(), 2, 2, 4, 1);
  }
  ragged_cache<float> ragged() { return {nothing, nothing, positions.data(), extents.data(), 2, 2, 1, 16, 1}; }
  void expect(errc code) {
    CHECK(validate(contiguous()).code == code);
    CHECK(validate(ragged()).code == code);
  }
};

}  // namespace

TEST_CASE("validate: positions of every head are not negative and ascend strictly") {
  positions_only good;
  good.expect(errc::ok);

  for (int const at : {1, 2, 3, 5, 6}) {
    CAPTURE(at);
    positions_only equal, falling;
    equal.positions[size(at)] = equal.positions[size(at) - 1];
    equal.expect(errc::bad_positions);
    falling.positions[size(at)] = falling.positions[size(at) - 1] - 1;
    falling.expect(errc::bad_positions);
  }
  for (int const at : {0, 4, 8}) {
    CAPTURE(at);
    positions_only negative;
    negative.positions[size(at)] = -1;
    negative.expect(errc::bad_positions);
  }
}

TEST_CASE("validate: a view that makes no sense is named before positions are read") {
  positions_only bad;
  bad.lengths[2] = 5;
  bad.extents[2].length = 5;
  bad.expect(errc::bad_shape);
  contiguous_cache<float> cache = bad.contiguous();
  cache.positions = nullptr;
  CHECK(validate(cache).code == errc::null_data);
}
