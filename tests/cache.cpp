// SPDX-License-Identifier: Apache-2.0
#include <purekv/cache.hpp>

#include "support/random.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <string>

using namespace purekv;

TEST_CASE_TEMPLATE("both cache models are caches of every element type", T, float, half, bfloat16) {
  static_assert(Cache<contiguous_cache<T>>);
  static_assert(Cache<ragged_cache<T>>);
}

static_assert(!Cache<contiguous_cache<double>>);
static_assert(!Cache<rows_view<float>>);

namespace {

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
constexpr std::ptrdiff_t wide = std::numeric_limits<std::ptrdiff_t>::max();

struct memory {
  std::vector<float> keys = std::vector<float>(4096), values = std::vector<float>(4096);
  std::vector<std::int32_t> positions = std::vector<std::int32_t>(4096), lengths = std::vector<std::int32_t>(64);
  std::vector<extent> extents = std::vector<extent>(64);

  /// [sequences 2, kv_heads 3, tokens 5, dim 4]
  contiguous_cache<float> contiguous() {
    return {keys.data(), values.data(), positions.data(), lengths.data(), 2, 3, 5, 4, 60, 20, 4};
  }
  /// Two heads of capacity 5 and 7 with a gap of 2 between them.
  ragged_cache<float> ragged() {
    extents[0] = {0, 3, 5};
    extents[1] = {7, 7, 7};
    return {keys.data(), values.data(), positions.data(), extents.data(), 1, 2, 4, 14, 4};
  }
};

template <class C> void bad(C const& cache, errc code) {
  status const s = cache.check();
  CHECK(s.code == code);
  CHECK(std::string(s.message).find("_cache: ") != std::string::npos);
}

template <class C, class Change> void bad(C cache, errc code, Change change) {
  REQUIRE(cache.check().ok());
  change(cache);
  bad(cache, code);
}

}  // namespace

TEST_CASE("contiguous_cache addresses rows, positions and slots") {
  memory m;
  contiguous_cache<float> const cache = m.contiguous();
  cache.set_length(1, 2, 4);
  CHECK(m.lengths[5] == 4);
  CHECK(cache.length(1, 2) == 4);
  CHECK(cache.capacity(1, 2) == 5);
  token_run<float> const run = cache.run(1, 2, 3);
  CHECK(run.keys == m.keys.data() + 60 + 40 + 12);
  CHECK(run.values == m.values.data() + 60 + 40 + 12);
  CHECK(run.positions == m.positions.data() + cache.slot(1, 2, 3));
  CHECK(cache.slot(1, 2, 3) == 28);
  CHECK(run.stride == 4);
  CHECK(run.tokens == 2);
}

TEST_CASE("ragged_cache addresses rows, positions and slots") {
  memory m;
  ragged_cache<float> const cache = m.ragged();
  CHECK(cache.length(0, 0) == 3);
  CHECK(cache.capacity(0, 1) == 7);
  cache.set_length(0, 0, 5);
  CHECK(m.extents[0].length == 5);
  token_run<float> const run = cache.run(0, 1, 2);
  CHECK(cache.slot(0, 1, 2) == 9);
  CHECK(run.keys == m.keys.data() + 36);
  CHECK(run.values == m.values.data() + 36);
  CHECK(run.positions == m.positions.data() + 9);
  CHECK(run.tokens == 5);
}

TEST_CASE("values of another width have strides of their own, else those of the keys") {
  memory m;
  contiguous_cache<float> c = m.contiguous();
  CHECK(value_dim_of(c) == 4);
  CHECK(c.run(1, 2, 3).value_stride == 4);
  c.value_dim = 7;
  c.value_sequence_stride = 7;  // [tokens, kv_heads, sequences]
  c.value_head_stride = 14;
  c.value_token_stride = 42;
  CHECK(c.check().ok());
  CHECK(value_dim_of(c) == 7);
  CHECK(c.run(1, 2, 3).keys == m.keys.data() + 60 + 40 + 12);
  CHECK(c.run(1, 2, 3).values == m.values.data() + 7 + 28 + 126);
  CHECK(c.run(1, 2, 3).value_stride == 42);
  CHECK(c.run(1, 2, 3).stride == 4);
  CHECK(one_sequence(c, 1).run(0, 2, 3).values == c.run(1, 2, 3).values);
  CHECK(one_sequence(m.contiguous(), 1).run(0, 2, 3).values == m.contiguous().run(1, 2, 3).values);
  bad(c, errc::bad_shape, [](auto& x) { x.value_dim = -1; });
  bad(c, errc::bad_shape, [](auto& x) { x.value_token_stride = 41; });
  bad(c, errc::bad_shape, [](auto& x) { x.value_head_stride = 13; });
  bad(c, errc::bad_shape, [](auto& x) { x.value_sequence_stride = 6; });
  bad(c, errc::bad_shape, [](auto& x) { x.value_token_stride = wide / 2; });

  ragged_cache<float> r = m.ragged();
  CHECK(value_dim_of(r) == 4);
  CHECK(r.run(0, 1, 2).value_stride == 4);
  r.value_dim = 3;
  r.value_token_stride = 5;
  CHECK(r.check().ok());
  CHECK(r.run(0, 1, 2).keys == m.keys.data() + 36);
  CHECK(r.run(0, 1, 2).values == m.values.data() + 45);
  CHECK(r.run(0, 1, 2).value_stride == 5);
  bad(r, errc::bad_shape, [](auto& x) { x.value_dim = -1; });
  bad(r, errc::bad_shape, [](auto& x) { x.value_token_stride = 2; });
  bad(r, errc::bad_shape, [](auto& x) { x.value_token_stride = wide / 4; });
}

TEST_CASE("contiguous_cache::check names what is wrong") {
  memory m;
  auto const good = m.contiguous();
  bad(good, errc::bad_shape, [](auto& c) { c.sequences = 0; });
  bad(good, errc::bad_shape, [](auto& c) { c.kv_heads = 0; });
  bad(good, errc::bad_shape, [](auto& c) { c.kv_heads = -3; });
  bad(good, errc::bad_shape, [](auto& c) { c.dim = 0; });
  bad(good, errc::bad_shape, [](auto& c) { c.tokens = -1; });
  bad(good, errc::null_data, [](auto& c) { c.keys = nullptr; });
  bad(good, errc::null_data, [](auto& c) { c.values = nullptr; });
  bad(good, errc::null_data, [](auto& c) { c.positions = nullptr; });
  bad(good, errc::null_data, [](auto& c) { c.lengths = nullptr; });
  for (int i = 0; i < 6; ++i) {
    m.lengths[static_cast<std::size_t>(i)] = 6;
    bad(good, errc::bad_shape);
    m.lengths[static_cast<std::size_t>(i)] = -1;
    bad(good, errc::bad_shape);
    m.lengths[static_cast<std::size_t>(i)] = 5;
  }
  CHECK(good.check().ok());
}

TEST_CASE("a cache without room needs no keys") {
  memory m;
  auto contiguous = m.contiguous();
  contiguous.tokens = 0;
  contiguous.keys = contiguous.values = nullptr;
  contiguous.positions = nullptr;
  CHECK(contiguous.check().ok());
  auto ragged = m.ragged();
  m.extents[0] = m.extents[1] = {};
  ragged.slots = 0;
  ragged.keys = ragged.values = nullptr;
  ragged.positions = nullptr;
  CHECK(ragged.check().ok());
}

TEST_CASE("contiguous_cache::check accepts nested strides in any order and refuses what overlaps") {
  memory m;
  auto strides = [&](std::ptrdiff_t sequence, std::ptrdiff_t head, std::ptrdiff_t token) {
    auto c = m.contiguous();
    c.sequence_stride = sequence;
    c.head_stride = head;
    c.token_stride = token;
    return c;
  };
  CHECK(strides(60, 20, 4).check().ok());    // [sequence, head, token]
  CHECK(strides(60, 4, 12).check().ok());    // [sequence, token, head]
  CHECK(strides(4, 8, 24).check().ok());     // [token, head, sequence]
  CHECK(strides(20, 40, 4).check().ok());    // [head, sequence, token]
  CHECK(strides(4, 40, 8).check().ok());     // [head, token, sequence]
  CHECK(strides(200, 32, 6).check().ok());   // padded everywhere
  CHECK(strides(140, 44, 10).check().ok());  // the last row of a head needs no padding
  CHECK(strides(132, 44, 10).check().ok());  // nor the last head of a sequence
  bad(strides(131, 44, 10), errc::bad_shape);
  bad(strides(132, 43, 10), errc::bad_shape);
  bad(strides(60, 20, 3), errc::bad_shape);  // rows overlap
  bad(strides(60, 19, 4), errc::bad_shape);  // heads overlap, head outside
  bad(strides(59, 20, 4), errc::bad_shape);  // sequences overlap
  bad(strides(60, 3, 12), errc::bad_shape);  // rows overlap, token outside
  bad(strides(60, 4, 11), errc::bad_shape);  // heads overlap, token outside
  bad(strides(60, 4, 4), errc::bad_shape);
  bad(strides(0, 20, 4), errc::bad_shape);
  bad(strides(60, 20, -4), errc::bad_shape);
  bad(strides(-60, 20, 4), errc::bad_shape);

  auto one = strides(0, 0, 4);  // a single sequence or head needs no stride
  one.sequences = one.kv_heads = 1;
  CHECK(one.check().ok());
  one.tokens = 1;
  one.token_stride = 0;
  CHECK(one.check().ok());
}

TEST_CASE("contiguous_cache::check agrees with a count of the elements that rows touch") {
  SEEDED(random);
  memory m;
  int fine = 0;
  for (int n = 0; n < 3000; ++n) {
    auto c = m.contiguous();
    c.sequences = random.between(1, 3);
    c.kv_heads = random.between(1, 3);
    c.tokens = random.between(1, 4);
    c.dim = random.between(1, 5);
    std::ptrdiff_t* const strides[3] = {&c.token_stride, &c.head_stride, &c.sequence_stride};
    int const counts[3] = {c.tokens, c.kv_heads, c.sequences};
    int order[3] = {0, 1, 2};
    std::shuffle(order, order + 3, random);
    std::ptrdiff_t span = c.dim;
    for (int const i : order) {
      *strides[i] = std::max<std::ptrdiff_t>(0, span + random.between(-1, 2) * random.between(0, 1));
      span += (counts[i] - 1) * *strides[i];
    }
    std::multiset<std::ptrdiff_t> touched;
    for (int s = 0; s < c.sequences; ++s)
      for (int h = 0; h < c.kv_heads; ++h)
        for (int t = 0; t < c.tokens; ++t)
          for (int d = 0; d < c.dim; ++d) touched.insert(c.run(s, h, t).keys + d - c.keys);
    bool const distinct = std::set(touched.begin(), touched.end()).size() == touched.size();
    CAPTURE(c.sequence_stride);
    CAPTURE(c.head_stride);
    CAPTURE(c.token_stride);
    if (c.check().ok()) {
      ++fine;
      CHECK(distinct);
    } else if (c.tokens == 1 || (c.kv_heads == 1 && c.sequences == 1)) {
      CHECK_FALSE(distinct);  // with one axis left, what is refused really overlaps
    }
  }
  CHECK(fine > 500);
}

TEST_CASE("caches refuse sizes that overflow") {
  memory m;
  auto const good = m.contiguous();
  bad(good, errc::bad_shape, [](auto& c) { c.sequences = c.kv_heads = most; });
  bad(good, errc::bad_shape, [](auto& c) { c.sequence_stride = wide; });
  bad(good, errc::bad_shape, [](auto& c) { c.sequence_stride = wide / 2; });  // bytes
  bad(good, errc::bad_shape, [](auto& c) { c.head_stride = c.sequence_stride = wide / 2; });
  bad(good, errc::bad_shape, [](auto& c) { c.token_stride = wide / 4; });
  bad(m.ragged(), errc::bad_shape, [](auto& c) { c.sequences = c.kv_heads = most; });
  bad(m.ragged(), errc::bad_shape, [](auto& c) { c.token_stride = wide; });
  bad(m.ragged(), errc::bad_shape, [](auto& c) { c.slots = wide / 2; });
}

TEST_CASE("ragged_cache::check names what is wrong") {
  memory m;
  auto const good = m.ragged();
  bad(good, errc::bad_shape, [](auto& c) { c.sequences = 0; });
  bad(good, errc::bad_shape, [](auto& c) { c.kv_heads = -1; });
  bad(good, errc::bad_shape, [](auto& c) { c.dim = 0; });
  bad(good, errc::bad_shape, [](auto& c) { c.slots = -1; });
  bad(good, errc::bad_shape, [](auto& c) { c.slots = 13; });
  bad(good, errc::bad_shape, [](auto& c) { c.token_stride = 3; });
  bad(good, errc::bad_shape, [](auto& c) { c.token_stride = -4; });
  bad(good, errc::null_data, [](auto& c) { c.keys = nullptr; });
  bad(good, errc::null_data, [](auto& c) { c.values = nullptr; });
  bad(good, errc::null_data, [](auto& c) { c.positions = nullptr; });
  bad(good, errc::null_data, [](auto& c) { c.extents = nullptr; });

  auto with = [&](extent first, extent second) {
    m.extents[0] = first;
    m.extents[1] = second;
    return good;
  };
  CHECK(with({0, 0, 0}, {0, 14, 14}).check().ok());
  CHECK(with({14, 0, 0}, {14, 0, 0}).check().ok());
  bad(with({0, 3, 8}, {7, 7, 7}), errc::bad_shape);   // overlap
  bad(with({7, 7, 7}, {0, 3, 5}), errc::bad_shape);   // descend
  bad(with({-1, 3, 5}, {7, 7, 7}), errc::bad_shape);  // before the first slot
  bad(with({0, 3, 5}, {8, 7, 7}), errc::bad_shape);   // beyond the last slot
  bad(with({0, 6, 5}, {7, 7, 7}), errc::bad_shape);
  bad(with({0, -1, 5}, {7, 7, 7}), errc::bad_shape);
  bad(with({0, 0, -1}, {7, 7, 7}), errc::bad_shape);
  bad(with({0, 3, 5}, {wide - 3, 7, 7}), errc::bad_shape);
}
