// SPDX-License-Identifier: Apache-2.0
// What does a top-k cost beside reading its scores, and beside sorting them with CUB?
#include "../support/scratch_memory.hpp"
#include "support/layer.cuh"

#include <purekv/budget/ratio.hpp>
#include <purekv/estimator/recency.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/select.cuh>

#include <cub/device/device_segmented_sort.cuh>

#include <cstring>

namespace {

using purekv::bfloat16;

purekv::compressor<purekv::recency, purekv::ratio, purekv::none> const fifth_kept{
    {}, purekv::ratio::compression(5), {}};

struct rows_of_scores {
  bench::layer<bfloat16> layer;
  bench::array<float> scores;
  bench::array<std::int64_t> offset;
  bench::array<std::int32_t> token;
  bench::array<std::byte> work;
  purekv::score_view view;
  purekv::selection kept;

  explicit rows_of_scores(bench::layer_shape const& n, bench::memory where = bench::memory::device)
      : layer(n, where),
        scores(std::int64_t{n.sequences} * n.kv_heads * n.tokens, where),
        offset(n.sequences * n.kv_heads + 1, bench::memory::managed),
        token(scores.size(), where) {
    if (!layer.fits() || scores.data() == nullptr || token.data() == nullptr) return;
    bench::fill(scores, bench::normal<float>{17});
    bench::wait();
    view = purekv::dense_scores(scores.data(), n.sequences, n.kv_heads, n.tokens);
    kept = {offset.data(), token.data(), token.size(), n.sequences * n.kv_heads};
    work = bench::array<std::byte>(
        static_cast<std::int64_t>(purekv::select_workspace(bench::device(), fifth_kept, layer.cache)));
  }
  bool fits(benchmark::State& state) const { return layer.fits(state) && bench::fits(state, scores, token, work); }
  void select() const {
    bench::must(purekv::select(bench::device(), fifth_kept, view, layer.cache, kept, bench::workspace_of(work)));
  }
};

bool right() {
  rows_of_scores const rows({2, 4, 4, 8, 900, 1}, bench::memory::managed);
  rows.select();
  bench::wait();
  std::vector<std::int64_t> offset(static_cast<std::size_t>(rows.offset.size()));
  std::vector<std::int32_t> token(static_cast<std::size_t>(rows.token.size()));
  purekv::selection const expected{offset.data(), token.data(), rows.token.size(), rows.kept.rows};
  scratch_memory const memory(purekv::select_workspace(purekv::cpu{}, fifth_kept, rows.layer.cache));
  bench::must(purekv::select(purekv::cpu{}, fifth_kept, rows.view, rows.layer.cache, expected, memory.view()));
  return std::memcmp(offset.data(), rows.offset.data(), offset.size() * sizeof(offset[0])) == 0 &&
         std::memcmp(token.data(), rows.token.data(), static_cast<std::size_t>(offset.back()) * sizeof(token[0])) == 0;
}

/// Scores and tokens by descending score: what a top-k is often made of.
struct sorted {
  rows_of_scores const& rows;
  bench::array<float> scores;
  bench::array<std::int32_t> tokens, order;
  bench::array<std::int64_t> begins;
  bench::array<std::byte> work;

  explicit sorted(rows_of_scores const& r)
      : rows(r),
        scores(r.scores.size()),
        tokens(r.token.size()),
        order(r.token.size()),
        begins(r.kept.rows + 1, bench::memory::managed) {
    for (std::int32_t row = 0; row <= rows.kept.rows; ++row) begins[row] = std::int64_t{row} * rows.view.tokens;
    std::size_t bytes = 0;
    call(nullptr, bytes);
    work = bench::array<std::byte>(static_cast<std::int64_t>(bytes));
  }
  void operator()() const {
    std::size_t bytes = static_cast<std::size_t>(work.size());
    call(work.data(), bytes);
  }

 private:
  void call(void* memory, std::size_t& bytes) const {
    bench::must(cub::DeviceSegmentedSort::SortPairsDescending(
        memory, bytes, rows.scores.data(), scores.data(), tokens.data(), order.data(), rows.scores.size(),
        rows.kept.rows, begins.data(), begins.data() + 1, bench::device().stream));
  }
};

void select(benchmark::State& state) {
  static bool const checked = right();
  if (!checked) return state.SkipWithError("differs from the CPU");
  int const kv_heads = static_cast<int>(state.range(1));
  rows_of_scores const rows(
      {static_cast<int>(state.range(0)), kv_heads, kv_heads, 8, static_cast<int>(state.range(2)), 1});
  if (!rows.fits(state)) return;
  sorted const sort(rows);
  if (!bench::fits(state, sort.scores, sort.tokens, sort.order, sort.work)) return;
  bench::fill(sort.tokens, bench::counting{rows.view.tokens});
  sort();
  std::vector<double> sorting;
  for (int i = 0; i < 9; ++i) {
    bench::clear_l2();
    sorting.push_back(bench::seconds(sort));
  }
  bench::run_beside(state, bench::limit::read, static_cast<double>(rows.scores.bytes()), bench::nothing,
                    [&] { rows.select(); });
  state.counters["sort_us"] = bench::median(sorting) * 1e6;
}
BENCHMARK(select)
    ->ArgNames({"sequences", "kv_heads", "tokens"})
    ->ArgsProduct({{1, 8}, {4, 8}, {8192, 32768, 131072}})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
