// SPDX-License-Identifier: Apache-2.0
// Your own estimator in ten lines: tokens with small keys matter (the L2 norm strategy, arXiv 2406.11430).
#include <purekv/presets.hpp>
#include <purekv/purekv.hpp>

#include <cstdio>
#include <vector>

struct small_key {
  static constexpr auto rows = purekv::score_rows::kv_heads;  // one score per KV head and token
  static constexpr std::int32_t mass_queries = 0;             // needs no attention
  static constexpr bool signed_scores = true;                 // may be negative: value_weighted refuses it
  static constexpr std::int64_t scratch(purekv::layer_shape) { return 0; }
  void score(purekv::Team auto const& team, auto const& in, purekv::score_out out, float*) const {
    for (std::int32_t h = 0; h < in.kv_heads(); ++h)
      purekv::for_share(team, in.tokens(h), [&](auto t) { out.row(h)[t] = -purekv::norm(in.key(h, t), in.dim()); });
    team.sync();
  }
};

int main() {
  // It composes like the library's own.
  using mine = purekv::compressor<purekv::pooled<small_key, 3, purekv::pooling::maximum>, purekv::ratio, purekv::sinks>;
  mine const compressor{.budget = purekv::ratio::compression(10)};

  constexpr int kv_heads = 2, tokens = 200, dim = 32, special = 77;
  std::vector<float> keys(kv_heads * tokens * dim, 1.f), values(keys);
  for (auto key = keys.begin() + special * dim; key != keys.begin() + (special + 1) * dim; ++key) *key = .1f;
  std::vector<std::int32_t> positions, lengths(kv_heads, tokens);
  for (int i = 0; i < kv_heads * tokens; ++i) positions.push_back(i % tokens);
  purekv::contiguous_cache<float> cache{keys.data(), values.data(), positions.data(), lengths.data()};
  cache.sequences = 1, cache.kv_heads = kv_heads, cache.tokens = tokens, cache.dim = dim;
  cache.sequence_stride = kv_heads * tokens * dim, cache.head_stride = tokens * dim, cache.token_stride = dim;

  std::vector<float> scores(kv_heads * tokens);
  std::vector<std::int64_t> offset(kv_heads + 1);
  std::vector<std::int32_t> kept_tokens(kv_heads * tokens);
  purekv::score_view const view = purekv::dense_scores(scores.data(), 1, kv_heads, tokens);
  purekv::selection const kept{offset.data(), kept_tokens.data(), kv_heads * tokens, kv_heads};
  purekv::evidence const none{purekv::dense{}, purekv::query_view<float>{}, nullptr, 0};  // no queries needed
  alignas(64) static char memory[1 << 16];
  purekv::workspace const work{memory, sizeof memory};

  purekv::cpu exec;
  purekv::score(exec, compressor.estimator, none, cache, {}, view, work).or_throw();
  purekv::select(exec, compressor, view, cache, kept, work).or_throw();
  purekv::compact(exec, kept, cache).or_throw();

  int found = 0;  // the special token and its two neighbours
  for (int i = 0; i < cache.length(0, 0); ++i) {
    int const position = *cache.run(0, 0, i).positions;
    found += special - 1 <= position && position <= special + 1;
  }
  std::printf("kept %d of %d tokens, %d of the 3 that matter\n", cache.length(0, 0), tokens, found);
  return found == 3 && cache.length(0, 0) == tokens / 10 ? 0 : 1;
}
