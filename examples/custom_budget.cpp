// SPDX-License-Identifier: Apache-2.0
// Your own eviction budget: the first layers keep more, because the others can be scored by them.
#include <purekv/presets.hpp>
#include <purekv/purekv.hpp>

#include <cstdio>
#include <vector>

struct early_layers_keep_more {
  purekv::ratio first{1, 2}, rest{1, 10};
  std::int32_t layers = 4;
  static constexpr bool varies_by_layer = true;
  std::int32_t keep(purekv::budget_input in) const { return in.layer < layers ? first.keep(in) : rest.keep(in); }
  purekv::status check() const {
    if (layers < 0) return {purekv::errc::bad_policy, "early_layers_keep_more: layers is negative"};
    return first.check().ok() ? rest.check() : first.check();
  }
};
static_assert(purekv::Budget<early_layers_keep_more>);

int main() {
  constexpr int kv_heads = 2, tokens = 200, dim = 32, layers = 12;
  purekv::streaming<early_layers_keep_more> const compressor;
  std::vector<float> keys(kv_heads * tokens * dim), values(keys), scores(kv_heads * tokens);
  std::vector<std::int32_t> positions(kv_heads * tokens), lengths(kv_heads, tokens), kept_tokens(kv_heads * tokens);
  for (int i = 0; i < kv_heads * tokens; ++i) positions[i] = i % tokens, scores[i] = static_cast<float>(i % tokens);
  auto const cache =
      purekv::head_major_cache(keys.data(), values.data(), positions.data(), lengths.data(), 1, kv_heads, tokens, dim);
  std::vector<std::int64_t> offset(kv_heads + 1);
  purekv::selection const kept{offset.data(), kept_tokens.data(), kv_heads * tokens, kv_heads};

  alignas(64) static char memory[1 << 16];
  std::int64_t count[2];
  for (int i = 0; i < 2; ++i) {
    purekv::layer_position const where{i == 0 ? 0 : layers - 1, layers};
    purekv::select(purekv::cpu{}, compressor, purekv::dense_scores(scores.data(), 1, kv_heads, tokens), cache, kept,
                   {memory, sizeof memory}, where)
        .or_throw();
    count[i] = kept.count(0);
  }
  std::printf("of %d tokens layer 0 keeps %lld, layer %d keeps %lld\n", tokens, static_cast<long long>(count[0]),
              layers - 1, static_cast<long long>(count[1]));
  return count[0] == tokens / 2 && count[1] == tokens / 10 ? 0 : 1;
}
