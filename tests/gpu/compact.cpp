// SPDX-License-Identifier: Apache-2.0
#include <purekv/compact.cuh>
// The header under test comes first.
#include "support/gpu.hpp"

using namespace purekv;

namespace gpu_compact_test {

struct sizes {
  int kv_heads, dim, value_dim;
  std::vector<int> lengths;  // per (sequence, head)
  int gap = 0;
};

/// Every array of a cache as it was, to be compared with and put back.
template <class Owned> class contents {
 public:
  explicit contents(Owned const& cache)
      : keys_(cache.keys), values_(cache.values), positions_(cache.positions), table_(table(cache)) {}

  bool operator==(contents const& other) const {
    return same(keys_, other.keys_) && same(values_, other.values_) && same(positions_, other.positions_) &&
           same(table_, other.table_);
  }
  void put_back(Owned& cache) const {
    std::copy(keys_.begin(), keys_.end(), cache.keys.begin());
    std::copy(values_.begin(), values_.end(), cache.values.begin());
    std::copy(positions_.begin(), positions_.end(), cache.positions.begin());
    auto& to = table(cache);
    std::copy(table_.begin(), table_.end(), to.begin());
  }

 private:
  template <class O> static auto& table(O& cache) {
    if constexpr (requires { cache.lengths; })
      return cache.lengths;
    else
      return cache.extents;
  }
  template <class B> static bool same(B const& a, B const& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
  }

  decltype(Owned::keys) keys_, values_;
  decltype(Owned::positions) positions_;
  std::remove_cvref_t<decltype(table(std::declval<Owned&>()))> table_;
};

float any_number(test::random& random) {
  switch (random.between(0, 60)) {
    case 0:
      return std::numeric_limits<float>::infinity();
    case 1:
      return -0.0f;
    case 2:
      return 70000.0f;
    case 3:
      return 1e-6f;
    default:
      return random.normal();
  }
}

template <class Owned> Owned make(test::random& random, sizes const& n) {
  int const sequences = static_cast<int>(n.lengths.size()) / n.kv_heads;
  auto cache = [&] {
    if constexpr (requires(Owned & o) { o.lengths; }) {
      auto const order = random.between(0, 1) == 0 ? fixtures::order::head_major : fixtures::order::token_major;
      int const capacity = *std::max_element(n.lengths.begin(), n.lengths.end()) + random.between(0, 2);
      return Owned(sequences, n.kv_heads, capacity, n.dim, order, n.gap, fixtures::beyond::nan, n.value_dim);
    } else {
      std::vector<std::int32_t> capacities;
      for (int const length : n.lengths) capacities.push_back(length + random.between(0, 2));
      return Owned(sequences, n.kv_heads, capacities, n.dim, n.gap, random.between(0, 2), fixtures::beyond::nan,
                   n.value_dim);
    }
  }();
  for (std::size_t row = 0; row < n.lengths.size(); ++row)
    for (int t = 0, position = random.between(0, 5); t < n.lengths[row]; ++t, position += random.between(1, 4))
      fixtures::push(
          cache.view, static_cast<int>(row) / n.kv_heads, static_cast<int>(row) % n.kv_heads, position,
          [&](int) { return any_number(random); }, [&](int) { return any_number(random); });
  return cache;
}

enum class keep { none, all, first, last, every_other, few, most };

/// Which tokens of a row are kept; `head_start` unused ones lie before the lists.
fixtures::owned_selection select(test::random& random, std::vector<int> const& lengths, keep which,
                                 selection_scope scope = selection_scope::kv_head) {
  std::int64_t end = random.between(0, 3);
  std::int64_t const capacity = std::accumulate(lengths.begin(), lengths.end(), end) + random.between(0, 5);
  fixtures::owned_selection kept(static_cast<int>(lengths.size()), capacity, scope);
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    kept.offset[row] = end;
    for (int t = 0; t < lengths[row]; ++t) {
      bool const yes = which == keep::all || (which == keep::first && t < lengths[row] / 3) ||
                       (which == keep::last && t >= lengths[row] - 3) || (which == keep::every_other && t % 2 == 1) ||
                       (which == keep::few && random.between(0, 4) == 0) ||
                       (which == keep::most && random.between(0, 30) != 0);
      if (yes) kept.token[static_cast<std::size_t>(end++)] = t;
    }
    kept.offset[row + 1] = end;
  }
  return kept;
}

/// Rows of bytes for every slot of a cache.
struct owned_tracks {
  std::vector<fixtures::buffer<unsigned char>> data;
  std::vector<token_track> view;

  owned_tracks(test::random& random, std::size_t slots, std::vector<int> const& row_bytes) {
    for (int const bytes : row_bytes) {
      data.emplace_back(slots * static_cast<std::size_t>(bytes) + 16);
      for (unsigned char& x : data.back()) x = static_cast<unsigned char>(random());
    }
    for (std::size_t i = 0; i < data.size(); ++i) view.push_back({data[i].data(), row_bytes[i]});
  }
};

/// In place by the GPU and by the CPU, which must leave the same bytes.
template <class Owned>
void check_in_place(test::random& random, Owned& cache, selection const& kept, std::vector<int> const& row_bytes,
                    int multiprocessors = 0) {
  CAPTURE(cache.view.dim);
  CAPTURE(multiprocessors);
  owned_tracks tracks(random, cache.positions.size(), row_bytes);
  int const count = static_cast<int>(row_bytes.size());
  contents<Owned> const before(cache);
  auto const data = tracks.data;
  test::gpu_device device(random);
  device.run([&](gpu exec) {
    if (multiprocessors != 0) exec.device.multiprocessors = multiprocessors;
    return compact(exec, kept, cache.view, tracks.view.data(), count);
  });
  contents<Owned> const by_gpu(cache);
  auto const data_by_gpu = tracks.data;
  before.put_back(cache);
  for (std::size_t i = 0; i < data.size(); ++i) std::copy(data[i].begin(), data[i].end(), tracks.data[i].begin());
  REQUIRE(compact(cpu{}, kept, cache.view, tracks.view.data(), count).ok());
  CHECK(contents<Owned>(cache) == by_gpu);
  CHECK(tracks.data == data_by_gpu);
}

/// Lays out a cache on the GPU and fills it; both as the CPU does.
template <class Source, class D>
void check_to_another(test::random& random, Source& source, selection const& kept, int gap, int value_dim) {
  auto const& view = source.view;
  CAPTURE(view.dim);
  int const rows = view.sequences * view.kv_heads, slack = random.between(0, 3);
  fixtures::buffer<extent> extents(fixtures::size(rows)), expected(fixtures::size(rows));
  fixtures::buffer<std::int64_t> slots(1, 7);
  test::gpu_device device(random);
  device.run([&](gpu const& exec) {
    return lay_out(exec, kept, view.sequences, view.kv_heads, slack, extents.data(), slots.data());
  });
  CHECK(slots[0] == lay_out(kept, view.sequences, view.kv_heads, slack, expected.data()));
  std::vector<std::int32_t> capacities;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    CHECK(extents[i].begin == expected[i].begin);
    CHECK(extents[i].length == expected[i].length);
    REQUIRE(extents[i].capacity == expected[i].capacity);
    capacities.push_back(extents[i].capacity);
  }
  auto const compare = [&](auto& destination) {
    using Owned = std::remove_reference_t<decltype(destination)>;
    contents<Owned> const before(destination);
    contents<Source> const source_before(source);
    device.run([&](gpu const& exec) { return compact(exec, kept, view, destination.view); });
    CHECK(contents<Source>(source) == source_before);
    contents<Owned> const by_gpu(destination);
    before.put_back(destination);
    REQUIRE(compact(cpu{}, kept, view, destination.view).ok());
    CHECK(contents<Owned>(destination) == by_gpu);
  };
  fixtures::owned_ragged<D> ragged(view.sequences, view.kv_heads, capacities, view.dim, gap, 1, fixtures::beyond::nan,
                                   value_dim);
  ragged.view.set_length(0, 0, capacities[0]);  // what it held is forgotten
  compare(ragged);
  fixtures::owned_contiguous<D> contiguous(view.sequences, view.kv_heads,
                                           *std::max_element(capacities.begin(), capacities.end()), view.dim,
                                           fixtures::order::token_major, gap, fixtures::beyond::nan, value_dim);
  compare(contiguous);
}

std::vector<keep> const all_ways = {keep::none,        keep::all, keep::first, keep::last,
                                    keep::every_other, keep::few, keep::most};
std::vector<int> const odd_lengths = {0, 1, 17, 300, 256, 530};

}  // namespace gpu_compact_test

using namespace gpu_compact_test;

TEST_CASE("compact on a GPU leaves what the CPU leaves, to the bit") {
  SEEDED(random);
  for (sizes const& n : std::vector<sizes>{{3, 1, 0, odd_lengths},
                                           {2, 7, 0, odd_lengths, 1},
                                           {6, 33, 7, odd_lengths},
                                           {2, 72, 40, odd_lengths},
                                           {3, 72, 0, odd_lengths},
                                           {1, 128, 0, {700}}}) {
    keep const which = all_ways[static_cast<std::size_t>(random.between(0, 6))];
    auto const kept = select(random, n.lengths, which);
    CAPTURE(static_cast<int>(which));
    auto contiguous = make<fixtures::owned_contiguous<half>>(random, n);
    check_in_place(random, contiguous, kept.view, {});
    auto floats = make<fixtures::owned_ragged<float>>(random, n);
    check_in_place(random, floats, kept.view, {1, 3});
    auto ragged = make<fixtures::owned_ragged<bfloat16>>(random, n);
    check_in_place(random, ragged, kept.view, {16});
  }
}

TEST_CASE("compact on a GPU moves any share of the tokens") {
  SEEDED(random);
  for (keep const which : all_ways) {
    CAPTURE(static_cast<int>(which));
    sizes const n = {2, 64, 0, {300, 0, 513, 129}};
    auto const kept = select(random, n.lengths, which);
    auto cache = make<fixtures::owned_ragged<half>>(random, n);
    check_in_place(random, cache, kept.view, {20});
  }
}

TEST_CASE("columns of any width move alike, and tracks in any number") {
  SEEDED(random);
  sizes const n = {2, 72, 0, {270, 40}};
  for (int const multiprocessors : {1, 10, 40, 1000}) {
    auto const kept = select(random, n.lengths, keep::few);
    auto cache = make<fixtures::owned_contiguous<bfloat16>>(random, n);
    check_in_place(random, cache, kept.view, {1, 3, 16, 20, 160, 200, 7, 32, 48, 2}, multiprocessors);
  }
}

TEST_CASE("rows of more columns than a grid has blocks for move whole") {
  SEEDED(random);
  sizes const n = {1, 8, 0, {12}};
  auto const kept = select(random, n.lengths, keep::every_other);
  auto cache = make<fixtures::owned_ragged<half>>(random, n);
  check_in_place(random, cache, kept.view, {5000}, 1000);
}

TEST_CASE("single numbers move by tiles of thousands") {
  SEEDED(random);
  for (keep const which : {keep::every_other, keep::most}) {
    sizes const n = {1, 1, 0, {5000}};
    auto const kept = select(random, n.lengths, which);
    auto cache = make<fixtures::owned_ragged<float>>(random, n);
    check_in_place(random, cache, kept.view, {1});
  }
}

TEST_CASE("rows that begin at no multiple of 16 bytes move on a GPU as well") {
  SEEDED(random);
  sizes const n = {2, 64, 0, {290, 41}};
  auto const kept = select(random, n.lengths, keep::few);
  auto cache = make<fixtures::owned_ragged<half>>(random, n);
  auto shifted = cache.keys;
  shifted.insert(shifted.begin(), half(1.0f));
  shifted.swap(cache.keys);
  cache.view.keys = cache.keys.data() + 1;
  owned_tracks tracks(random, cache.positions.size(), {});
  check_in_place(random, cache, kept.view, {});
}

TEST_CASE("on a GPU a selection of scope layer speaks for every head of a sequence") {
  SEEDED(random);
  std::vector<int> const lengths = {270, 270, 270, 9, 9, 9};
  auto const kept = select(random, {270, 9}, keep::few, selection_scope::layer);
  sizes const n = {3, 16, 0, lengths};
  auto cache = make<fixtures::owned_contiguous<half>>(random, n);
  check_to_another<decltype(cache), half>(random, cache, kept.view, 0, 0);
  check_in_place(random, cache, kept.view, {4});
}

TEST_CASE("on a GPU values of another width at aligned strides move by words of 16 bytes") {
  SEEDED(random);
  sizes const n = {2, 64, 24, {280, 33}};
  auto const kept = select(random, n.lengths, keep::few);
  auto cache = make<fixtures::owned_ragged<half>>(random, n);
  cache.view.value_token_stride = 24;
  for (half& x : cache.values) x = half(random.normal());
  REQUIRE(detail::aligned16(cache.view));
  check_in_place(random, cache, kept.view, {});
}

TEST_CASE("on a GPU values that are part of the key rows move with them, once") {
  SEEDED(random);
  for (int const dim : {64, 13}) {
    sizes const n = {1, dim, 0, {300, 50}};
    auto const kept = select(random, n.lengths, keep::every_other);
    auto cache = make<fixtures::owned_ragged<half>>(random, n);
    cache.view.values = cache.view.keys + (dim == 64 ? 0 : 3);
    cache.view.value_dim = dim - 8;
    cache.view.value_token_stride = cache.view.token_stride;
    check_in_place(random, cache, kept.view, {});
  }
}

TEST_CASE("to another cache a GPU converts as the CPU does") {
  SEEDED(random);
  for (sizes const& n : std::vector<sizes>{{2, 1, 0, odd_lengths},
                                           {3, 72, 0, odd_lengths},
                                           {6, 33, 7, odd_lengths, 1},
                                           {1, 160, 0, {90, 0}},
                                           {2, 64, 24, odd_lengths}}) {
    keep const which = all_ways[static_cast<std::size_t>(random.between(0, 6))];
    CAPTURE(static_cast<int>(which));
    auto const kept = select(random, n.lengths, which);
    int const gap = random.between(0, 1) * 3;
    auto halves = make<fixtures::owned_contiguous<half>>(random, n);
    check_to_another<decltype(halves), half>(random, halves, kept.view, gap, n.value_dim);
    check_to_another<decltype(halves), bfloat16>(random, halves, kept.view, gap, n.value_dim);
    auto floats = make<fixtures::owned_ragged<float>>(random, n);
    check_to_another<decltype(floats), half>(random, floats, kept.view, gap, n.value_dim);
    check_to_another<decltype(floats), float>(random, floats, kept.view, gap, n.value_dim);
    auto brains = make<fixtures::owned_ragged<bfloat16>>(random, n);
    check_to_another<decltype(brains), float>(random, brains, kept.view, gap, n.value_dim);
  }
}

TEST_CASE("to another cache a GPU copies heads that keep many times the average") {
  SEEDED(random);
  sizes const n = {1, 64, 0, {2100, 1, 0, 1, 0, 2, 1, 0, 1, 1, 0, 1}};
  auto const kept = select(random, n.lengths, keep::all);
  auto cache = make<fixtures::owned_ragged<half>>(random, n);
  check_to_another<decltype(cache), half>(random, cache, kept.view, 0, 0);
}

TEST_CASE("what a head of the destination cannot hold a GPU drops") {
  SEEDED(random);
  sizes const n = {2, 16, 0, {40, 30}};
  auto const source = make<fixtures::owned_ragged<half>>(random, n);
  auto const kept = select(random, n.lengths, keep::all);
  fixtures::owned_ragged<half> destination(1, 2, {9, 30}, 16, 0, 3);
  auto const keys = destination.keys;
  auto const positions = destination.positions;
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return compact(exec, kept.view, source.view, destination.view); });
  CHECK(destination.view.length(0, 0) == 9);
  CHECK(destination.view.length(0, 1) == 30);
  for (int t = 0; t < 9; ++t) CHECK(*destination.view.run(0, 0, t).positions == *source.view.run(0, 0, t).positions);
  for (std::size_t slot = 0; slot < positions.size(); ++slot) {
    if ((slot >= 3 && slot < 12) || slot >= 15) continue;
    CHECK(destination.positions[slot] == positions[slot]);
    CHECK(std::memcmp(&destination.keys[slot * 16], &keys[slot * 16], 16 * sizeof(half)) == 0);
  }
}

TEST_CASE("a selection that breaks its promise makes a GPU write nothing outside the heads") {
  SEEDED(random);
  sizes const n = {2, 16, 0, {40, 30}};
  auto cache = make<fixtures::owned_ragged<half>>(random, n);
  fixtures::owned_selection kept(2, 90);
  for (int i = 0; i < 90; ++i) kept.token[static_cast<std::size_t>(i)] = i % 7 == 0 ? 1 << 20 : i % 3 == 0 ? -i : i + 2;
  kept.offset[0] = 0;
  kept.offset[1] = 60;
  kept.offset[2] = 90;
  cache.extents[0].capacity = 20;
  cache.extents[0].length = 20;
  fixtures::snapshot outside;
  std::int64_t const end = cache.extents[0].begin + 20, next = cache.extents[1].begin;
  outside.watch(cache.positions.data() + end, next - end);
  outside.watch(cache.keys.data() + end * 16, (next - end) * 16);
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return compact(exec, kept.view, cache.view); });
  CHECK(outside.unchanged());
  CHECK(cache.view.length(0, 0) == 20);
}

TEST_CASE("lay_out on a GPU says -1 and writes no extent where no layout exists") {
  SEEDED(random);
  fixtures::buffer<std::int64_t> offset{0, 3, 3 + std::int64_t{INT32_MAX}}, slots{0};
  selection const kept{offset.data(), nullptr, 0, 2};
  fixtures::buffer<extent> extents(2, {5, 6, 7});
  test::gpu_device device(random);
  device.run([&](gpu const& exec) { return lay_out(exec, kept, 1, 2, 1, extents.data(), slots.data()); });
  CHECK(slots[0] == -1);
  CHECK(extents[0].begin == 5);
  CHECK(extents[1].capacity == 7);
  device.run([&](gpu const& exec) { return lay_out(exec, kept, 2, 1, 0, extents.data(), slots.data()); });
  CHECK(slots[0] == 3 + std::int64_t{INT32_MAX});
  CHECK(extents[1].begin == 3);
  CHECK(extents[1].capacity == INT32_MAX);
}

TEST_CASE("lay_out on a GPU writes more extents than its block has threads") {
  SEEDED(random);
  for (selection_scope const scope : {selection_scope::kv_head, selection_scope::layer}) {
    int const sequences = 30, kv_heads = 35, rows = scope == selection_scope::layer ? sequences : sequences * kv_heads;
    fixtures::buffer<std::int64_t> offset{5}, slots{0};
    for (int i = 0; i < rows; ++i) offset.push_back(offset.back() + random.between(0, 9));
    selection const kept{offset.data(), nullptr, 0, rows, scope};
    fixtures::buffer<extent> extents(1050), expected(1050);
    test::gpu_device device(random);
    device.run(
        [&](gpu const& exec) { return lay_out(exec, kept, sequences, kv_heads, 2, extents.data(), slots.data()); });
    CHECK(slots[0] == lay_out(kept, sequences, kv_heads, 2, expected.data()));
    for (std::size_t i = 0; i < extents.size(); ++i) {
      CHECK(extents[i].begin == expected[i].begin);
      CHECK(extents[i].length == 0);
      CHECK(extents[i].capacity == expected[i].capacity);
    }
  }
}

TEST_CASE("compact on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  sizes const n = {2, 16, 0, {20, 30}};
  auto cache = make<fixtures::owned_contiguous<half>>(random, n);
  auto other = make<fixtures::owned_contiguous<half>>(random, n);
  auto const kept = select(random, n.lengths, keep::every_other);
  owned_tracks tracks(random, cache.positions.size(), {4});
  fixtures::buffer<extent> extents(2, {5, 6, 7});
  fixtures::buffer<std::int64_t> slots{3};
  test::gpu_device device(random);
  fixtures::snapshot before;
  for (auto* const c : {&cache, &other}) {
    before.watch(c->keys);
    before.watch(c->values);
    before.watch(c->positions);
    before.watch(c->lengths);
  }
  before.watch(tracks.data[0]);
  before.watch(extents);
  before.watch(slots);
  auto const in_place = [&](auto const& change) {
    gpu exec = device.exec();
    auto selected = kept.view;
    auto view = cache.view;
    auto track = tracks.view[0];
    int count = 1;
    change(exec, selected, view, track, count);
    return device.status_of([&](gpu const&) { return compact(exec, selected, view, &track, count); }).code;
  };
  CHECK(in_place([](auto& exec, auto&, auto&, auto&, auto&) { exec.device = {}; }) == errc::unsupported_device);
  CHECK(in_place([](auto& exec, auto&, auto&, auto&, auto&) { exec.device.major = 7; }) == errc::unsupported_device);
  CHECK(in_place([](auto&, auto& k, auto&, auto&, auto&) { k.offset = nullptr; }) == errc::null_data);
  CHECK(in_place([](auto&, auto& k, auto&, auto&, auto&) { k.token = nullptr; }) == errc::null_data);
  CHECK(in_place([](auto&, auto& k, auto&, auto&, auto&) { k.rows = 1; }) == errc::mismatch);
  CHECK(in_place([](auto&, auto& k, auto&, auto&, auto&) { k.scope = selection_scope::layer; }) == errc::mismatch);
  CHECK(in_place([](auto&, auto&, auto& c, auto&, auto&) { c.dim = 0; }) == errc::bad_shape);
  CHECK(in_place([](auto&, auto&, auto& c, auto&, auto&) { c.token_stride = 15; }) == errc::bad_shape);
  CHECK(in_place([](auto&, auto&, auto& c, auto&, auto&) { c.positions = nullptr; }) == errc::null_data);
  CHECK(in_place([](auto&, auto&, auto&, auto& t, auto&) { t.row_bytes = 0; }) == errc::bad_shape);
  CHECK(in_place([](auto&, auto&, auto&, auto& t, auto&) { t.data = nullptr; }) == errc::null_data);
  CHECK(in_place([](auto&, auto&, auto&, auto&, auto& n_tracks) { n_tracks = -1; }) == errc::bad_shape);
  CHECK(device.status_of([&](gpu const& exec) { return compact(exec, kept.view, cache.view, nullptr, 1); }).code ==
        errc::null_data);

  auto const to_another = [&](auto const& change) {
    gpu exec = device.exec();
    auto selected = kept.view;
    auto from = cache.view, to = other.view;
    change(exec, selected, from, to);
    return device.status_of([&](gpu const&) { return compact(exec, selected, from, to); }).code;
  };
  CHECK(to_another([](auto& exec, auto&, auto&, auto&) { exec.stream = nullptr, exec.device = {}; }) ==
        errc::unsupported_device);
  CHECK(to_another([](auto&, auto& k, auto&, auto&) { k.rows = 3; }) == errc::mismatch);
  CHECK(to_another([](auto&, auto&, auto& from, auto&) { from.kv_heads = 1; }) == errc::mismatch);
  CHECK(to_another([](auto&, auto&, auto&, auto& to) { to.dim = 8; }) == errc::mismatch);
  CHECK(to_another([](auto&, auto&, auto&, auto& to) { to.keys = nullptr; }) == errc::null_data);
  CHECK(to_another([](auto&, auto&, auto& from, auto& to) { to.lengths = from.lengths; }) == errc::bad_shape);
  CHECK(to_another([](auto&, auto&, auto& from, auto& to) { to.values = from.keys; }) == errc::bad_shape);

  auto const laying = [&](auto const& change) {
    gpu exec = device.exec();
    auto selected = kept.view;
    int sequences = 1, kv_heads = 2, slack = 0;
    extent* where = extents.data();
    std::int64_t* needed = slots.data();
    change(exec, selected, sequences, kv_heads, slack, where, needed);
    return device
        .status_of([&](gpu const&) { return lay_out(exec, selected, sequences, kv_heads, slack, where, needed); })
        .code;
  };
  CHECK(laying([](auto& e, auto&, auto&, auto&, auto&, auto&, auto&) { e.device = {}; }) == errc::unsupported_device);
  CHECK(laying([](auto&, auto& k, auto&, auto&, auto&, auto&, auto&) { k.offset = nullptr; }) == errc::null_data);
  CHECK(laying([](auto&, auto&, auto& s, auto&, auto&, auto&, auto&) { s = 0; }) == errc::bad_shape);
  CHECK(laying([](auto&, auto&, auto&, auto& h, auto&, auto&, auto&) { h = 3; }) == errc::mismatch);
  CHECK(laying([](auto&, auto&, auto&, auto&, auto& extra, auto&, auto&) { extra = -1; }) == errc::bad_shape);
  CHECK(laying([](auto&, auto&, auto&, auto&, auto&, auto& x, auto&) { x = nullptr; }) == errc::null_data);
  CHECK(laying([](auto&, auto&, auto&, auto&, auto&, auto&, auto& x) { x = nullptr; }) == errc::null_data);
  CHECK(before.unchanged());
}
