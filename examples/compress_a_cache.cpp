// examples/compress_a_cache.cpp: attend to a prompt, then keep a fifth of its cache.
#include <purekv/pattern/dense.hpp>
#include <purekv/presets.hpp>
#include <purekv/purekv.hpp>

#include <vector>

int main() {
  constexpr int heads = 8, kv_heads = 2, tokens = 500, dim = 64;
  std::vector<float> q(heads * tokens * dim, .1f), k(kv_heads * tokens * dim, .2f), v(k), out(q), lse(heads * tokens);
  std::vector<std::int32_t> positions(kv_heads * tokens), lengths(kv_heads, tokens);
  for (int i = 0; i < kv_heads * tokens; ++i) positions[i] = i % tokens;
  auto cache = purekv::head_major_cache(k.data(), v.data(), positions.data(), lengths.data(), 1, kv_heads, tokens, dim);
  purekv::query_view<float> queries{purekv::head_major<float const>(q.data(), heads, tokens, dim),
                                    {.positions = positions.data()}};
  auto result = purekv::head_major(out.data(), heads, tokens, dim);

  purekv::snapkv<purekv::ratio> compressor{.budget = purekv::ratio::compression(5)};
  std::vector<float> scores(kv_heads * tokens);
  std::vector<std::int64_t> offset(kv_heads + 1);
  std::vector<std::int32_t> kept_tokens(kv_heads * tokens);
  auto score_rows = purekv::dense_scores(scores.data(), 1, kv_heads, tokens);
  purekv::selection kept{offset.data(), kept_tokens.data(), kv_heads * tokens, kv_heads};

  purekv::cpu exec;  // one thread; an engine says which of its threads this is
  alignas(64) static char memory[1 << 24];
  purekv::workspace work{memory, sizeof memory};
  purekv::attend_taps taps{.lse = lse.data(), .lse_stride = tokens};
  purekv::attend(exec, purekv::dense{}, queries, cache, result, taps, work).or_throw();
  purekv::evidence seen{purekv::dense{}, queries, lse.data(), tokens};
  purekv::score(exec, compressor.estimator, seen, cache, {}, score_rows, work).or_throw();
  purekv::select(exec, compressor, score_rows, cache, kept, work).or_throw();
  purekv::compact(exec, kept, cache).or_throw();
  return cache.length(0, 0) == tokens / 5 ? 0 : 1;
}
