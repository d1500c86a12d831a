// SPDX-License-Identifier: Apache-2.0
// Your own sparsity pattern: the first tokens, the newest ones, and every stride-th in between.
#include <purekv/purekv.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

struct strided {
  std::int32_t first = 4, newest = 32, stride = 16;
  // Positions of a query and a key; causality is the library's. Tiles in which nothing is visible are skipped.
  bool visible(std::int32_t /*head*/, std::int32_t q, std::int32_t k) const {
    return k < first || q - k < newest || k % stride == 0;
  }
};
static_assert(purekv::Pattern<strided>);

int main() {
  constexpr int heads = 4, kv_heads = 2, tokens = 300, dim = 32;
  strided const pattern;
  std::vector<float> q(heads * tokens * dim, .1f), k(kv_heads * tokens * dim, .1f), v(k), out(q);
  std::vector<std::int32_t> positions(kv_heads * tokens), lengths(kv_heads, tokens);
  for (int i = 0; i < kv_heads * tokens; ++i) {
    positions[i] = i % tokens;
    // What the last query must not see would be noticed.
    if (!pattern.visible(0, tokens - 1, i % tokens)) v[i * dim] = NAN;
  }
  auto const cache =
      purekv::head_major_cache(k.data(), v.data(), positions.data(), lengths.data(), 1, kv_heads, tokens, dim);
  std::int32_t const last = tokens - 1;
  purekv::query_view<float> const query{purekv::head_major<float const>(q.data(), heads, 1, dim), {.positions = &last}};

  alignas(64) static char memory[1 << 22];
  purekv::attend(purekv::cpu{}, pattern, query, cache, purekv::head_major(out.data(), heads, 1, dim), {},
                 {memory, sizeof memory})
      .or_throw();

  int seen = 0;
  for (int t = 0; t < tokens; ++t) seen += pattern.visible(0, last, t);
  std::printf("the last of %d tokens sees %d and gets %.3f\n", tokens, seen, static_cast<double>(out[0]));
  return std::abs(out[0] - .1f) < 1e-6f ? 0 : 1;
}
