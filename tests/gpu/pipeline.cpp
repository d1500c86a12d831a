// SPDX-License-Identifier: Apache-2.0
#define PUREKV_WIDTHS 64  // all that these tests need
#include <purekv/pipeline.cuh>
// The header under test comes first.
#include "support/gpu.hpp"

#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pipeline.hpp>
#include <purekv/presets.hpp>

#include <optional>

using namespace purekv;

namespace gpu_pipeline_test {

/// A model's queries, keys and values for a prompt and what comes after it, all layers.
template <class T> struct model_data {
  model_shape model;
  std::vector<std::int32_t> prompt;  // tokens of each sequence
  std::vector<fixtures::owned_rows<T>> q, k, v;
  fixtures::buffer<std::int32_t> offset, positions;

  model_data(test::random& random, model_shape const& shape, std::vector<std::int32_t> const& tokens,
             std::vector<std::int32_t> const& first)
      : model(shape), prompt(tokens) {
    offset.push_back(0);
    for (std::size_t s = 0; s < prompt.size(); ++s) {
      for (std::int32_t i = 0; i < prompt[s]; ++i) positions.push_back(first[s] + i);
      offset.push_back(offset.back() + prompt[s]);
    }
    for (int l = 0; l < model.layers; ++l) {
      q.emplace_back(model.heads, total(), model.dim, fixtures::order::token_major);
      k.emplace_back(model.kv_heads, total(), model.dim, fixtures::order::token_major);
      v.emplace_back(model.kv_heads, total(), model.value_width(), fixtures::order::token_major);
      q.back().fill_normal(random, 2);  // scores that lie apart, so that near-ties are rare
      for (auto* const rows : {&k.back(), &v.back()}) rows->fill_normal(random);
    }
  }

  std::int32_t total() const { return offset.back(); }
  std::int32_t sequences() const { return static_cast<std::int32_t>(prompt.size()); }
  query_view<T> queries(int l) const { return {q[at(l)].rows(), {sequences(), offset.data(), positions.data()}}; }

  /// row(s, i), i < count(s), of every sequence s.
  template <class Count, class Row> model_data only(Count const& count, Row const& row) const {
    model_data some;
    some.model = model;
    some.prompt = prompt;
    some.offset.push_back(0);
    std::vector<std::int32_t> from;
    for (int s = 0; s < sequences(); ++s) {
      for (int i = 0; i < count(s); ++i) from.push_back(offset[at(s)] + row(s, i));
      some.offset.push_back(static_cast<std::int32_t>(from.size()));
    }
    for (std::int32_t i : from) some.positions.push_back(positions[at(i)]);
    auto const pick = [&](auto const& all, auto& some_of) {
      for (fixtures::owned_rows<T> const& one : all) {
        auto const& to =
            some_of
                .emplace_back(one.view.heads, static_cast<int>(from.size()), one.view.dim, fixtures::order::token_major)
                .view;
        for (int h = 0; h < to.heads; ++h)
          for (int i = 0; i < to.tokens; ++i) std::copy_n(one.view.row(h, from[at(i)]), to.dim, to.row(h, i));
      }
    };
    pick(q, some.q);
    pick(k, some.k);
    pick(v, some.v);
    return some;
  }
  model_data only(selection const& rows) const {
    return only([&](int s) { return rows.count(s); }, [&](int s, int i) { return rows.tokens(s)[i]; });
  }

 private:
  model_data() = default;
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
};

/// How many of the next rows of each sequence come together, chunk after chunk.
using chunk_list = std::vector<std::vector<std::int32_t>>;

chunk_list random_chunks(test::random& random, std::vector<std::int32_t> const& prompt) {
  chunk_list chunks;
  for (auto left = prompt; std::any_of(left.begin(), left.end(), [](int n) { return n > 0; });) {
    auto& chunk = chunks.emplace_back();
    for (std::int32_t& n : left) {
      chunk.push_back(random.between(0, std::min(n, 20)));
      n -= chunk.back();
    }
  }
  return chunks;
}

/// The caches that an engine holds for it.
template <class T> struct engine_memory {
  std::vector<fixtures::owned_contiguous<T>> full;
  std::vector<fixtures::owned_ragged<T>> kept;
  std::vector<layer_storage<T>> storage;

  template <class Pipeline> engine_memory(Pipeline const& p, model_data<T> const& data, int new_tokens) {
    int const sequences = data.sequences(), longest = *std::max_element(data.prompt.begin(), data.prompt.end());
    for (int l = 0; l < data.model.layers; ++l) {
      full.emplace_back(sequences, data.model.kv_heads, longest + l % 2, data.model.dim, fixtures::order::head_major, 0,
                        fixtures::beyond::nan, data.model.value_dim);
      for (std::int32_t& length : full.back().lengths) length = longest;  // of what was there before
      std::int64_t slots = 0;
      for (std::int32_t n : data.prompt) slots += p.kept_slots(l, n, new_tokens);
      // One extent of all slots; the pipeline lays out its own.
      std::vector<std::int32_t> capacities(static_cast<std::size_t>(sequences * data.model.kv_heads), 0);
      capacities[0] = static_cast<std::int32_t>(slots);
      kept.emplace_back(sequences, data.model.kv_heads, capacities, data.model.dim, 0, 0, fixtures::beyond::nan,
                        data.model.value_dim);
    }
    for (std::size_t l = 0; l < full.size(); ++l) storage.push_back({full[l].view, kept[l].view});
  }
};

/// What a run leaves: results of every call, and the tokens of every layer and head.
struct outcome {
  std::vector<fixtures::owned_rows<float>> out;
  std::vector<std::vector<std::int32_t>> positions;
  std::vector<std::vector<std::uint16_t>> bits;  // of keys and values

  template <class T> void read(engine_memory<T> const& memory) {
    positions.clear();
    bits.clear();
    for (layer_storage<T> const& s : memory.storage)
      for (int i = 0; i < s.kept.sequences; ++i)
        for (int h = 0; h < s.kept.kv_heads; ++h) {
          auto& at = positions.emplace_back();
          auto& data = bits.emplace_back();
          for (int t = 0; t < s.kept.length(i, h); ++t) {
            auto const run = s.kept.run(i, h, t);
            at.push_back(*run.positions);
            for (int c = 0; c < s.kept.dim; ++c) data.push_back(run.keys[c].bits);
            for (int c = 0; c < value_dim_of(s.kept); ++c) data.push_back(run.values[c].bits);
          }
        }
  }
};

template <class Pipeline, class T> class driver {
 public:
  driver(Pipeline& p, model_data<T> const& data, int new_tokens, test::gpu_device* device)
      : pipeline_(p), data_(data), new_tokens_(new_tokens), device_(device), memory(p, data, new_tokens) {}

  void begin() {
    int const sequences = data_.sequences(), longest = *std::max_element(data_.prompt.begin(), data_.prompt.end());
    if constexpr (on_gpu) {
      host_.emplace(pipeline_.host_state_bytes(sequences));
      state_.emplace(pipeline_.state_bytes(sequences, longest, longest + 1));
      device_->run([&](gpu const& exec) {
        return pipeline_.begin(exec, sequences, data_.prompt.data(), new_tokens_, longest + 1, host_->view(),
                               state_->view());
      });
    } else {
      state_.emplace(pipeline_.state_bytes(sequences, longest));
      REQUIRE(pipeline_.begin(sequences, data_.prompt.data(), new_tokens_, state_->view()).ok());
    }
  }

  /// All layers; those that drop get the rows that are kept.
  void prefill(model_data<T> const& rows, bool keeps_plan) {
    if (keeps_plan) lend_plan(rows);
    for (int l = 0; l < data_.model.layers; ++l) {
      auto const come = [&](model_data<T> const& some) {
        call(
            l, some, [&](auto const& exec, auto const&... rest) { return pipeline_.prefill(exec, rest...); }, true);
      };
      if (pipeline_.drops(l))
        come(data_.only(pipeline_.kept_rows()));
      else
        come(rows);
    }
  }
  /// Nothing is evicted before the last of them.
  void prefill(chunk_list const& chunks, bool keeps_plan) {
    std::vector<std::int32_t> fed(data_.prompt.size());
    for (auto const& chunk : chunks) {
      auto const at = [](auto const& of, int s) { return of[static_cast<std::size_t>(s)]; };
      fixtures::snapshot before;
      for (int l = 0; l < data_.model.layers; ++l)
        if (pipeline_.needs_full(l)) before.watch(memory.kept[static_cast<std::size_t>(l)].extents);
      prefill(data_.only([&](int s) { return at(chunk, s); }, [&](int s, int i) { return at(fed, s) + i; }),
              keeps_plan);
      for (std::size_t s = 0; s < fed.size(); ++s) fed[s] += chunk[s];
      for (int l = 0; l < data_.model.layers; ++l)
        if (pipeline_.needs_full(l)) CHECK(pipeline_.released(l) == (fed == data_.prompt));
      CHECK(before.unchanged() == (fed != data_.prompt));
    }
  }
  void decode(model_data<T> const& next) {
    for (int l = 0; l < data_.model.layers; ++l)
      call(
          l, next, [&](auto const& exec, auto const&... rest) { return pipeline_.decode(exec, rest...); }, false);
  }
  void take_back(fixtures::buffer<std::int32_t> const& tokens) {
    with_exec([&](auto const& exec) { return pipeline_.take_back(exec, tokens.data(), memory.storage.data()); });
  }
  outcome result() {
    seen_.read(memory);
    return std::move(seen_);
  }

 private:
  static constexpr bool on_gpu = requires(Pipeline & p) { p.host_state_bytes(1); };

  template <class F> void with_exec(F const& f) {
    if constexpr (on_gpu) {
      device_->run([&](gpu const& exec) { return f(exec); });
    } else {
      status const s = f(cpu{});
      REQUIRE_MESSAGE(s.ok(), s.message);
    }
  }

  /// On a GPU memory that is large enough stays, for one chunk after the other.
  void lend_plan(model_data<T> const& rows) {
    auto const bytes = [&] {
      if constexpr (on_gpu)
        return pipeline_.plan_bytes(device_->exec(), rows.queries(0), memory.storage[0].full);
      else
        return pipeline_.plan_bytes(rows.queries(0), memory.storage.data());
    }();
    if (on_gpu && plan_.has_value() && bytes <= plan_->view().bytes) return;
    plan_.emplace(bytes);
    REQUIRE(pipeline_.keep_plan(plan_->view()).ok());
  }

  template <class F> void call(int layer, model_data<T> const& with, F const& f, bool prompt) {
    CAPTURE(layer);
    std::size_t const l = static_cast<std::size_t>(layer);
    fixtures::owned_rows<float> out(data_.model.heads, with.total(), data_.model.value_width(),
                                    fixtures::order::token_major);
    auto const q = with.queries(layer);
    auto const bytes = [&](auto const& exec) {
      if (!prompt) return pipeline_.decode_workspace(exec, layer, q, memory.storage.data());
      return pipeline_.prefill_workspace(exec, layer, q, memory.storage.data());
    };
    std::optional<fixtures::owned_workspace> work;
    if constexpr (on_gpu)
      work.emplace(bytes(device_->exec()));
    else
      work.emplace(bytes(cpu{}));
    with_exec([&](auto const& exec) {
      return f(exec, layer, q, with.k[l].rows(), with.v[l].rows(), memory.storage.data(), out.view, work->view());
    });
    CHECK(work->guards_untouched());
    seen_.out.push_back(std::move(out));
  }

  Pipeline& pipeline_;
  model_data<T> const& data_;
  int new_tokens_;
  test::gpu_device* device_;
  std::optional<fixtures::owned_workspace> host_, state_, plan_;
  outcome seen_;

 public:
  engine_memory<T> memory;
};

/// The whole life of a prompt on both: the same tokens are kept, to the bit, and the results differ by no more than the
/// precision of T explains.
template <class T, class Compressor, Pattern P>
void check_life(test::random& random, model_shape const& model, schedule const& plan, Compressor const& compressor,
                P const& pattern, bool keeps_plan) {
  std::vector<std::int32_t> const prompt = {41, 0, 58}, first = {0, 0, 5};
  int const room = 6;
  model_data<T> const data(random, model, prompt, first);
  model_data<T> const one(random, model, {1, 1, 1}, {41, 0, 63}), few(random, model, {2, 0, 3}, {42, 1, 64}),
      last(random, model, {1, 1, 0}, {44, 1, 70});
  fixtures::buffer<std::int32_t> const back = {1, 0, 2};
  chunk_list const chunks = random_chunks(random, prompt);
  auto const live = [&](auto& p, test::gpu_device* device) {
    driver d(p, data, room, device);
    d.begin();
    if (plan.chunked)
      d.prefill(chunks, keeps_plan);
    else
      d.prefill(data, keeps_plan);
    d.decode(one);
    d.decode(few);
    d.take_back(back);
    d.decode(last);
    return d.result();
  };
  pipeline<Compressor, P> on_cpu(model, plan, compressor, pattern);
  gpu_pipeline<Compressor, P> on_gpu(model, plan, compressor, pattern);
  test::gpu_device device(random);
  outcome const expected = live(on_cpu, nullptr), actual = live(on_gpu, &device);
  CHECK(actual.positions == expected.positions);
  CHECK(actual.bits == expected.bits);
  REQUIRE(actual.out.size() == expected.out.size());
  double worst = 0;
  for (std::size_t i = 0; i < actual.out.size(); ++i) {
    auto const &a = actual.out[i].view, &b = expected.out[i].view;
    REQUIRE(a.tokens == b.tokens);
    for (int h = 0; h < a.heads; ++h)
      for (int t = 0; t < a.tokens; ++t)
        for (int c = 0; c < a.dim; ++c)
          worst = std::max(worst, static_cast<double>(std::abs(a.row(h, t)[c] - b.row(h, t)[c])));
  }
  // Weights are rounded to so much of themselves, and values are of size 1.
  CHECK(worst < 8 * oracle::rounding_error<T>(1.0));
}

/// Pinned, few enough that scores say what else is kept of the prompts here.
constexpr any_of<sinks, recent> few{sinks{1}, recent{2}};

inline model_shape four_layers(int group, int value_dim) {
  return {.layers = 4, .heads = 2 * group, .kv_heads = 2, .dim = 64, .value_dim = value_dim};
}
constexpr source_band bands[] = {{0, 1}};

}  // namespace gpu_pipeline_test

using namespace gpu_pipeline_test;

TEST_CASE("a pipeline on a GPU leads the life of one on the CPU") {
  SEEDED(random);
  auto const budget = ratio::compression(4);
  layer_plan layers[4];
  SUBCASE("every layer by its own score") {
    own_source(layers, 4, evict_when::after_attending);
    layers[2] = {evict_when::never, -1};
    check_life<half>(random, four_layers(4, 0), {.layers = layers, .layer_count = 4},
                     snapkv<ratio>{.budget = budget, .protect = few}, dense{}, false);
  }
  SUBCASE("one source, layers above it prune first") {
    one_source(layers, 4, bands[0]);
    check_life<half>(random, four_layers(7, 32), {.layers = layers, .layer_count = 4, .bands = bands, .band_count = 1},
                     purekv_early<ratio>{.budget = budget, .protect = few}, sinks_and_window{4, 24}, true);
  }
  SUBCASE("one source, layers above it drop") {
    one_source(layers, 4, bands[0], evict_when::dropping);
    check_life<half>(random, four_layers(1, 0), {.layers = layers, .layer_count = 4, .bands = bands, .band_count = 1},
                     purekv_early<ratio>{.budget = budget, .protect = few}, dense{}, false);
  }
}

TEST_CASE("a prompt in chunks on a GPU ends as it does on the CPU") {
  SEEDED(random);
  auto const budget = ratio::compression(4);
  layer_plan layers[4];
  schedule const alone{.layers = layers, .layer_count = 4, .chunked = true};
  schedule const by_band{.layers = layers, .layer_count = 4, .bands = bands, .band_count = 1, .chunked = true};
  own_source(layers, 4, evict_when::after_attending);
  SUBCASE("the mass of a window, and a layer that keeps all") {
    layers[2] = {evict_when::never, -1};
    check_life<half>(random, four_layers(4, 0), alone, snapkv<ratio>{.budget = budget, .protect = few}, dense{}, false);
  }
  SUBCASE("the mass of all queries") {
    check_life<bfloat16>(random, four_layers(1, 32), alone, h2o<ratio>{.budget = budget, .protect = few}, dense{},
                         false);
  }
  SUBCASE("the largest share that any query gives") {
    check_life<bfloat16>(random, four_layers(4, 0), alone, probes<ratio>{.budget = budget, .protect = few}, dense{},
                         false);
  }
  one_source(layers, 4, bands[0]);
  attend_first(layers, 4);
  SUBCASE("one source, and a plan for each chunk") {
    check_life<half>(random, four_layers(7, 32), by_band, purekv_early<ratio>{.budget = budget, .protect = few},
                     sinks_and_window{4, 24}, true);
  }
  SUBCASE("one source, by the mass of all queries") {
    check_life<bfloat16>(random, four_layers(8, 0), by_band, purekv_paper<ratio>{.budget = budget, .protect = few},
                         dense{}, false);
  }
}

TEST_CASE("masses of prompts of any length grow by those of a chunk, that of a new token from nothing") {
  SEEDED(random);
  int const sequences = 3, heads = 4, room = 17000;
  fixtures::buffer<std::int32_t> lengths = {random.between(16500, 17000), 0, 300}, offset = {0};
  for (std::int32_t n : lengths) offset.push_back(offset.back() + random.between(0, n));
  contiguous_cache<half> const cache{.lengths = lengths.data(), .sequences = sequences, .kv_heads = 1, .tokens = room};
  batch_view const batch{sequences, offset.data(), nullptr};
  for (auto by : {mass_reduction::sum, mass_reduction::maximum}) {
    fixtures::owned_scores all(sequences, heads, room, 3), more(sequences, heads, room);
    for (fixtures::owned_scores* scores : {&all, &more})
      for (int s = 0; s < sequences; ++s)
        for (int h = 0; h < heads; ++h)
          for (int t = 0; t < lengths[fixtures::size(s)]; ++t) scores->view.row(s, h)[t] = random.uniform();
    auto const before = all.memory;
    test::gpu_device device(random);
    using kernel = detail::grow_masses<half>;
    device.run([&](gpu const& exec) {
      return simt::launch({.x = sequences * heads, .y = kernel::most_blocks}, 0, exec.stream,
                          kernel{cache, batch, offset.back(), all.view, more.view, by});
    });
    CHECK(all.rest_untouched([&](int s, int) { return lengths[fixtures::size(s)]; }));
    int wrong = 0;
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < heads; ++h)
        for (int t = 0; t < lengths[fixtures::size(s)]; ++t) {
          std::size_t const first = fixtures::size(s) + 1;
          bool const is_new = t >= lengths[fixtures::size(s)] - (offset[first] - offset[first - 1]);
          float const* const row = all.view.row(s, h);
          float const held = is_new ? 0 : before[fixtures::size(static_cast<int>(row - all.memory.data()) + t)];
          float const added = more.view.row(s, h)[t];
          wrong += row[t] != (by == mass_reduction::sum ? held + added : std::max(held, added));
        }
    CHECK(wrong == 0);
  }
}

TEST_CASE("a pipeline on a GPU refuses what it can see, and launches nothing") {
  SEEDED(random);
  model_shape const model{.layers = 2, .heads = 2, .kv_heads = 1, .dim = 64};
  layer_plan layers[2];
  own_source(layers, 2, evict_when::after_attending);
  schedule const plan{.layers = layers, .layer_count = 2};
  model_data<half> const data(random, model, {20}, {0});
  using pipeline_type = gpu_pipeline<snapkv<ratio>, dense>;
  pipeline_type p(model, plan, snapkv<ratio>{.budget = ratio::compression(2)}, dense{});
  test::gpu_device device(random);
  engine_memory<half> memory(p, data, 3);
  fixtures::owned_rows<float> out(2, 20, 64);
  auto const prefill = [&](int layer, query_view<half> const& q, workspace const& work) {
    return device
        .status_of([&](gpu const& exec) {
          return p.prefill(exec, layer, q, data.k[0].rows(), data.v[0].rows(), memory.storage.data(), out.view, work);
        })
        .code;
  };
  auto const q = data.queries(0);
  CHECK(prefill(0, q, {}) == errc::not_ready);
  fixtures::owned_workspace host(p.host_state_bytes(1)), state(p.state_bytes(1, 20, 20));
  auto const begin = [&](workspace const& of_host, workspace const& of_device) {
    return device
        .status_of([&](gpu const& exec) { return p.begin(exec, 1, data.prompt.data(), 3, 20, of_host, of_device); })
        .code;
  };
  CHECK(begin(host.one_byte_less(), state.view()) == errc::workspace_too_small);
  CHECK(begin(host.view(), state.one_byte_less()) == errc::workspace_too_small);
  CHECK(begin(host.view(), state.view()) == errc::ok);
  fixtures::owned_workspace work(p.prefill_workspace(device.exec(), 0, q, memory.storage.data()));
  fixtures::snapshot before;
  before.watch(memory.full[0].keys);
  before.watch(memory.full[0].lengths);
  before.watch(memory.kept[0].extents);
  before.watch(out.memory);
  CHECK(prefill(0, q, work.one_byte_less()) == errc::workspace_too_small);
  CHECK(prefill(2, q, work.view()) == errc::bad_shape);
  query_view<half> fewer = q;
  fewer.rows.tokens = 19;
  CHECK(prefill(0, fewer, work.view()) == errc::bad_policy);  // the schedule is not `chunked`
  fixtures::owned_workspace tiles(p.plan_bytes(device.exec(), q, memory.storage[0].full));
  REQUIRE(p.keep_plan(tiles.one_byte_less()).ok());
  CHECK(prefill(0, q, work.view()) == errc::workspace_too_small);
  REQUIRE(p.keep_plan(tiles.view()).ok());
  layer_storage<half> const whole = memory.storage[0];
  memory.storage[0].kept.slots = 5;
  CHECK(prefill(0, q, work.view()) == errc::capacity_exceeded);
  memory.storage[0].kept = {};
  CHECK(prefill(0, q, work.view()) == errc::mismatch);
  memory.storage[0] = whole;
  CHECK(before.unchanged());
  CHECK(prefill(0, q, work.view()) == errc::ok);
  CHECK(prefill(0, q, work.view()) == errc::bad_policy);
  layers[0] = {evict_when::deferred, 0};
  pipeline_type const bad(model, plan, snapkv<ratio>{.budget = ratio::compression(2)}, dense{});
  CHECK(!bad.check().ok());
}

TEST_CASE("a pipeline on a GPU wants the memory of what a layer keeps no sooner than it evicts") {
  SEEDED(random);
  model_shape const model{.layers = 2, .heads = 2, .kv_heads = 1, .dim = 64};
  layer_plan layers[2];
  one_source(layers, 2, bands[0]);
  model_data<half> const data(random, model, {20}, {0});
  gpu_pipeline<purekv_early<ratio>, dense> p(model,
                                             {.layers = layers, .layer_count = 2, .bands = bands, .band_count = 1},
                                             purekv_early<ratio>{.budget = ratio::compression(2)}, dense{});
  test::gpu_device device(random);
  engine_memory<half> memory(p, data, 3);
  fixtures::owned_workspace host(p.host_state_bytes(1)), state(p.state_bytes(1, 20, 21));
  device.run([&](gpu const& exec) { return p.begin(exec, 1, data.prompt.data(), 3, 21, host.view(), state.view()); });
  fixtures::owned_rows<float> out(2, 20, 64);
  auto const prefill = [&](int layer) {
    std::size_t const l = static_cast<std::size_t>(layer);
    auto const q = data.queries(layer);
    fixtures::owned_workspace work(p.prefill_workspace(device.exec(), layer, q, memory.storage.data()));
    return device
        .status_of([&](gpu const& exec) {
          return p.prefill(exec, layer, q, data.k[l].rows(), data.v[l].rows(), memory.storage.data(), out.view,
                           work.view());
        })
        .code;
  };
  ragged_cache<half> const kept = memory.storage[0].kept;
  memory.storage[0].kept = {};
  CHECK(prefill(0) == errc::ok);
  fixtures::snapshot before;
  before.watch(memory.full[1].keys);
  before.watch(memory.kept[1].extents);
  CHECK(prefill(1) == errc::mismatch);
  CHECK(before.unchanged());
  memory.storage[0].kept = kept;
  CHECK(prefill(1) == errc::ok);
  CHECK(p.released(0));
  CHECK(kept.length(0, 0) == p.kept_tokens(0, 20));
}
