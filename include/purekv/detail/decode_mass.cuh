// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/decode_split.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The attention mass of every cached token from the logits that decoding kept and the lse of each row: a thread takes
/// a token of a KV head.
template <Pattern P, class TQ, Cache C> struct decode_mass {
  static constexpr std::int32_t threads = 256;

  query_view<TQ> q;
  C cache;
  decode_tables tables;
  decode_results results;
  float const* lse;
  std::ptrdiff_t lse_stride;
  score_view mass;
  score_rows by_rows;
  mass_reduction reduction;
  std::int32_t tile_keys;

  PUREKV_HD static std::int64_t chunks(score_view const& mass) {
    return (std::int64_t{mass.tokens} + threads - 1) / threads;
  }
  /// A few waves: what there is of tokens, only the device knows.
  static std::int32_t blocks(C const& cache, score_view const& mass, std::int32_t multiprocessors) {
    std::int64_t const all = chunks(mass) * cache.sequences * cache.kv_heads, most = std::int64_t{multiprocessors} * 32;
    return static_cast<std::int32_t>(all < most ? all : most);
  }

  PUREKV_DEVICE void operator()() const {
    std::int64_t const each = chunks(mass), all = each * cache.sequences * cache.kv_heads;
    for (std::int64_t i = simt::block_index().x; i < all; i += simt::grid_size().x) {
      std::int32_t const head = static_cast<std::int32_t>(i / each);
      std::int32_t const s = head / cache.kv_heads, h = head % cache.kv_heads;
      std::int32_t const token = static_cast<std::int32_t>(i % each) * threads + simt::thread_index();
      if (token < smaller(cache.length(s, h), mass.tokens)) of_token(s, h, token);
    }
  }

 private:
  PUREKV_DEVICE void of_token(std::int32_t s, std::int32_t h, std::int32_t token) const {
    std::int32_t const group = q.rows.heads / cache.kv_heads, queries = q.count(s);
    bool const seen = is_seen(s, h, token);
    std::int32_t const begin = q.begin(s) + results.mass_queries.first(queries);
    std::int32_t const end = seen ? q.begin(s) + results.mass_queries.last(queries) : begin;
    float all = 0;
    for (std::int32_t r = 0; r < group; ++r) {
      std::int32_t const head = h * group + r;
      float of_head = 0;
      for (std::int32_t t = begin; t < end; ++t) {
        float const logit = results.logits[(std::int64_t{head} * q.rows.tokens + t) * results.logit_stride + token];
        float const share = logit == hidden_logit ? 0 : simt::exp2(logit - lse[head * lse_stride + t]);
        of_head = reduce(of_head, share);
      }
      if (by_rows == score_rows::heads)
        mass.row(s, head)[token] = of_head;
      else
        all = reduce(all, of_head);
    }
    if (by_rows == score_rows::kv_heads) mass.row(s, h)[token] = all;
  }

  /// Whether logits were kept of the token.
  PUREKV_DEVICE bool is_seen(std::int32_t s, std::int32_t h, std::int32_t token) const {
    if (token >= tables.heads[s * cache.kv_heads + h].end) return false;
    if constexpr (lists_tiles<P>())
      return tables.visibility[first_tile(cache, s, h, tile_keys) + token / tile_keys] != 0;
    else
      return true;
  }

  PUREKV_DEVICE float reduce(float all, float more) const {
    if (reduction == mass_reduction::sum) return all + more;
    return more > all ? more : all;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
