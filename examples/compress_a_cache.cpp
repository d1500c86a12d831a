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

  purekv::cpu exec;  // one thread; an engine says which of its threads this is
  purekv::contiguous_cache<float> cache{k.data(), v.data(), positions.data(),        lengths.data(), 1,  kv_heads,
                                        tokens,   dim,      kv_heads * tokens * dim, tokens * dim,   dim};
  purekv::query_view<float> queries{purekv::head_major<float const>(q.data(), heads, tokens, dim),
                                    {.positions = positions.data()}};
  purekv::snapkv<purekv::ratio> compressor{.budget = purekv::ratio::compression(5)};
  purekv::evidence seen{purekv::dense{}, queries, lse.data(), tokens};
  std::vector<float> scores(kv_heads * tokens);
  std::vector<std::int64_t> offset(kv_heads + 1);
  std::vector<std::int32_t> kept_tokens(purekv::selection_capacity(cache));
  purekv::score_view score_rows = purekv::dense_scores(scores.data(), 1, kv_heads, tokens);
  purekv::selection kept{offset.data(), kept_tokens.data(), purekv::selection_capacity(cache), kv_heads};

  purekv::attend_taps taps{.lse = lse.data(), .lse_stride = tokens};
  alignas(64) static char memory[1 << 24];
  purekv::workspace work{memory, sizeof memory};
  purekv::attend(exec, purekv::dense{}, queries, cache, purekv::head_major(out.data(), heads, tokens, dim), taps, work)
      .or_throw();
  purekv::score(exec, compressor.estimator, seen, cache, {}, score_rows, work).or_throw();
  purekv::select(exec, compressor, score_rows, cache, kept, work).or_throw();
  purekv::compact(exec, kept, cache).or_throw();
  return cache.length(0, 0) == tokens / 5 ? 0 : 1;
}
