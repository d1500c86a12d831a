// SPDX-License-Identifier: Apache-2.0
#include "odr/operations.hpp"

#include <purekv/convert.hpp>
#include <purekv/dispatch.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/presets.hpp>
#include <purekv/purekv.hpp>

// Compiled once per instruction set: every operation, on plain memory.

#define NAME_OF(x) #x
#define TEXT_OF(x) NAME_OF(x)

namespace {

using namespace purekv;
using p = problem;

constexpr std::int32_t all = p::tokens + p::steps;

class memory {
 public:
  explicit memory(workspace scratch) : data_(static_cast<char*>(scratch.data)), left_(scratch.bytes) {}

  template <class T> T* take(std::int64_t count) {
    return reinterpret_cast<T*>(bytes(count * std::int64_t{sizeof(T)}));
  }
  workspace rest() const { return {data_, left_}; }

 private:
  char* bytes(std::int64_t count) {
    auto const rounded = (static_cast<std::size_t>(count) + 63) / 64 * 64;
    if (rounded > left_) __builtin_trap();
    left_ -= rounded;
    return (data_ += rounded) - rounded;
  }
  char* data_;
  std::size_t left_;
};

rows_view<float const> some(float const* data, std::int32_t heads, std::int32_t first, std::int32_t tokens) {
  return {data + first * p::dim, heads, tokens, p::dim, all * p::dim, p::dim};
}

query_view<float> queries(problem const& in, std::int32_t first, std::int32_t tokens) {
  return {some(in.q, p::heads, first, tokens), {.positions = in.positions + first}};
}

template <class T> contiguous_cache<T> empty_cache(memory& m) {
  auto* const lengths = m.take<std::int32_t>(p::kv_heads);
  for (std::int32_t h = 0; h < p::kv_heads; ++h) lengths[h] = 0;
  std::int64_t const slots = p::kv_heads * all;
  return {m.take<T>(slots * p::dim),
          m.take<T>(slots * p::dim),
          m.take<std::int32_t>(slots),
          lengths,
          1,
          p::kv_heads,
          all,
          p::dim,
          p::kv_heads * all * p::dim,
          all * p::dim,
          p::dim};
}

status attend_and_compress(problem const& in, answer const& out, memory m) {
  cpu const exec;
  auto const cache = empty_cache<half>(m);
  auto const k = some(in.k, p::kv_heads, 0, p::tokens), v = some(in.v, p::kv_heads, 0, p::tokens);
  if (status const s = append(exec, k, v, {.positions = in.positions}, cache); !s.ok()) return s;

  auto const q = queries(in, 0, p::tokens);
  attend_taps const taps{.lse = out.lse,
                         .lse_stride = p::tokens,
                         .mass = dense_scores(out.mass, 1, p::kv_heads, p::tokens),
                         .mass_rows = score_rows::kv_heads};
  auto const attended = head_major(out.attended, p::heads, p::tokens, p::dim);
  sinks_and_window const pattern{4, 32};
  memory planning = m;
  std::size_t const bytes = plan_workspace(pattern, q, cache);
  tile_plan tiles;
  if (status const s =
          plan(exec, pattern, q, cache, {planning.take<char>(static_cast<std::int64_t>(bytes)), bytes}, tiles);
      !s.ok())
    return s;
  if (status const s = attend(exec, pattern, tiles, q, cache, attended, taps, planning.rest()); !s.ok()) return s;
  if (status const s = attend(exec, dense{}, q, cache, attended, taps, m.rest()); !s.ok()) return s;

  auto const scores = dense_scores(out.scores, 1, p::kv_heads, p::tokens);
  evidence const seen{dense{}, q, out.lse, p::tokens};
  query_moments const to_come{m.take<float>(p::heads * p::dim), m.take<float>(p::heads * p::dim * p::dim), 1, p::heads,
                              p::dim};
  float const frequency = 0.1f;
  std::int32_t const next = p::tokens;
  if (status const s = moments(exec, q, 4, to_come); !s.ok()) return s;
  if (status const s = average_rotation(exec, {&frequency, 1}, &next, 8, to_come); !s.ok()) return s;
  expected_attention<ratio> expected;
  expected.estimator.estimator.estimator.future = to_come;
  if (status const s = score(exec, expected.estimator, seen, cache, {}, scores, m.rest()); !s.ok()) return s;

  snapkv<ratio> compressor{.budget = ratio::compression(5)};
  if (status const s = score(exec, compressor.estimator, seen, cache, {}, scores, m.rest()); !s.ok()) return s;
  selection const kept{out.offset, out.kept, p::kv_heads * p::tokens, p::kv_heads};
  if (status const s = select(exec, compressor, scores, cache, kept, m.rest()); !s.ok()) return s;

  auto* const extents = m.take<extent>(p::kv_heads);
  std::int64_t const slots = lay_out(kept, 1, p::kv_heads, p::steps, extents);
  ragged_cache<bfloat16> const small{m.take<bfloat16>(slots * p::dim),
                                     m.take<bfloat16>(slots * p::dim),
                                     m.take<std::int32_t>(slots),
                                     extents,
                                     1,
                                     p::kv_heads,
                                     p::dim,
                                     slots,
                                     p::dim};
  if (status const s = compact(exec, kept, cache, small); !s.ok()) return s;
  if (status const s = compact(exec, kept, cache); !s.ok()) return s;

  batch_view const step{.positions = in.positions + p::tokens};
  auto const new_k = some(in.k, p::kv_heads, p::tokens, p::steps), new_v = some(in.v, p::kv_heads, p::tokens, p::steps);
  if (status const s = append(exec, new_k, new_v, step, small); !s.ok()) return s;
  auto const decoded = head_major(out.decoded, p::heads, p::steps, p::dim);
  auto* const lse = m.take<float>(p::heads * p::steps);
  if (status const s = decode(exec, dense{}, queries(in, p::tokens, p::steps), small, decoded,
                              {.lse = lse, .lse_stride = p::steps}, m.rest());
      !s.ok())
    return s;

  partial<float> const halves[2] = {{head_major<float const>(out.decoded, p::heads, p::steps, p::dim), lse, p::steps},
                                    {head_major<float const>(out.decoded, p::heads, p::steps, p::dim), lse, p::steps}};
  return merge(exec, halves, 2, head_major(out.merged, p::heads, p::steps, p::dim), static_cast<float*>(nullptr), 0);
}

status through_a_pipeline(problem const& in, answer const& out, memory m) {
  cpu const exec;
  layer_plan layers[p::layers];
  source_band const band{0, 1};
  one_source(layers, p::layers, band);
  schedule const plan{layers, p::layers, &band, 1};
  purekv_early<ratio> const compressor{.budget = ratio::compression(3)};
  pipeline driver({p::layers, p::heads, p::kv_heads, p::dim}, plan, compressor, dense{});

  std::int32_t const prompt = p::tokens;
  std::size_t const state = driver.state_bytes(1, prompt);
  if (status const s = driver.begin(1, &prompt, p::steps, {m.take<char>(static_cast<std::int64_t>(state)), state});
      !s.ok())
    return s;
  layer_storage<half> storage[p::layers];
  for (std::int32_t l = 0; l < p::layers; ++l) {
    storage[l].full = empty_cache<half>(m);
    std::int64_t const slots = driver.kept_slots(l, prompt, p::steps);
    storage[l].kept = {m.take<half>(slots * p::dim),
                       m.take<half>(slots * p::dim),
                       m.take<std::int32_t>(slots),
                       m.take<extent>(p::kv_heads),
                       1,
                       p::kv_heads,
                       p::dim,
                       slots,
                       p::dim};
  }
  auto const whole = head_major(m.take<float>(p::heads * p::tokens * p::dim), p::heads, p::tokens, p::dim);
  auto const piped = head_major(out.piped, p::heads, p::steps, p::dim);
  for (std::int32_t l = 0; l < p::layers; ++l)
    if (status const s = driver.prefill(exec, l, queries(in, 0, p::tokens), some(in.k, p::kv_heads, 0, p::tokens),
                                        some(in.v, p::kv_heads, 0, p::tokens), storage, whole, m.rest());
        !s.ok())
      return s;
  for (std::int32_t l = 0; l < p::layers; ++l)
    if (status const s =
            driver.decode(exec, l, queries(in, p::tokens, p::steps), some(in.k, p::kv_heads, p::tokens, p::steps),
                          some(in.v, p::kv_heads, p::tokens, p::steps), storage, piped, m.rest());
        !s.ok())
      return s;
  return {};
}

char const* run(problem const& in, answer const& out, workspace scratch) {
  if (status const s = attend_and_compress(in, out, memory(scratch)); !s.ok()) return s.message;
  if (status const s = through_a_pipeline(in, out, memory(scratch)); !s.ok()) return s.message;
  return nullptr;
}

template <class TQ, class T> on_cache<TQ, T> all_on_cache() {
  using o = on_cache<TQ, T>;
  return {
      [](cpu exec, typename o::queries const& q, typename o::cache const& cache, attend_taps const& taps) {
        return attend_workspace(exec, dense{}, q, cache, taps);
      },
      [](cpu exec, typename o::queries const& q, typename o::cache const& cache, rows_view<float> const& out,
         attend_taps const& taps, workspace const& work) { return attend(exec, dense{}, q, cache, out, taps, work); },
      [](cpu exec, typename o::queries const& q, typename o::cache const& cache, attend_taps const& taps) {
        return decode_workspace(exec, dense{}, q, cache, taps);
      },
      [](cpu exec, typename o::queries const& q, typename o::cache const& cache, rows_view<float> const& out,
         attend_taps const& taps, workspace const& work) { return decode(exec, dense{}, q, cache, out, taps, work); },
      convert<T, float>,
      convert<float, T>};
}

operations all_operations() {
  return {TEXT_OF(PUREKV_ISA),
          run,
          all_on_cache<float, float>(),
          all_on_cache<half, half>(),
          all_on_cache<float, bfloat16>(),
          all_on_cache<bfloat16, bfloat16>()};
}

}  // namespace

template <> operations purekv::compiled<operations, purekv::this_isa>() { return all_operations(); }
