// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/carve.hpp>
#include <purekv/detail/decode_kernel.hpp>
#include <purekv/detail/pattern.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/detail/softmax.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Keys that are one task, whoever runs it; bench/decode.cpp. Logits and weights of a chunk stay in the first level of
/// cache, and its softmax needs no rescaling.
inline constexpr std::int32_t decode_chunk = 512;

/// How many bytes of keys lie between the row that is fetched and the one that is used, and how many bytes of values
/// are worked on while as many are fetched; bench/decode.cpp.
inline constexpr std::int32_t decode_ahead_bytes = 16384, decode_block_bytes = 16384;

/// Logits (or weights) of `rows` rows of a chunk.
PUREKV_HOST_INLINE constexpr std::int64_t chunk_logits(std::int32_t rows) {
  return std::int64_t{decode_chunk} * logit_stride(rows);
}

/// What one rank decodes with. T: element of the cache.
template <class T> struct decode_scratch {
  float* q;               // [decode_rows, padded], times scale and log2(e)
  float* out;             // [decode_rows, value_padded]
  float* logits;          // [decode_chunk, decode_rows]
  float* weights;         // the same
  std::int32_t* ordinal;  // [decode_chunk] which tokens a pattern shows
  std::uint32_t* seen;    // [decode_chunk] to which rows, a bit each
  T const** key_rows;     // [decode_chunk] where they lie
  T const** value_rows;

  static decode_scratch take(carve& memory, std::int64_t padded, std::int64_t value_padded) {
    decode_scratch s;
    s.q = memory.take<float>(decode_rows * padded);
    s.out = memory.take<float>(decode_rows * value_padded);
    s.logits = memory.take<float>(chunk_logits(decode_rows));
    s.weights = memory.take<float>(chunk_logits(decode_rows));
    s.ordinal = memory.take<std::int32_t>(decode_chunk);
    s.seen = memory.take<std::uint32_t>(decode_chunk);
    s.key_rows = memory.take<T const*>(decode_chunk);
    s.value_rows = memory.take<T const*>(decode_chunk);
    return s;
  }
};

/// A few rows of one KV head: row r is query head heads[r] at positions[r].
struct decode_row_list {
  std::int32_t count;
  std::int32_t head[decode_rows], position[decode_rows], token[decode_rows];  // token: in the packed batch
};

/// The keys of a chunk that some row sees.
template <class T> struct chunk_keys {
  row_source<T> keys, values;
  std::int32_t count;
  std::int32_t const* ordinal;  // null: first + i
  std::uint32_t const* seen;    // null: every row sees every key
  T const* after;               // the key behind the chunk, to be fetched early

  PUREKV_HOST_INLINE std::int32_t token(std::int32_t first, std::int32_t i) const {
    return ordinal != nullptr ? ordinal[i] : first + i;
  }
};

/// What is visible to whom among tokens [first, last) of a head, causality and pattern together.
template <bool everything, Pattern P, Cache C>
chunk_keys<typename C::element> find_keys(P const& pattern, C const& cache, std::int32_t sequence, std::int32_t kv_head,
                                          std::int32_t first, std::int32_t last, decode_row_list const& rows,
                                          decode_scratch<typename C::element> const& scratch) {
  using T = typename C::element;
  std::int32_t const all = last - first;
  std::uint32_t const every_row = (1u << rows.count) - 1u;
  auto const position = [&](std::int32_t i) { return *cache.run(sequence, kv_head, first + i).positions; };
  auto const run = cache.run(sequence, kv_head, first);
  chunk_keys<T> found{};

  bool hides = false;
  if constexpr (everything) {
    found.count = 0;
    std::int32_t bound[decode_rows];
    for (std::int32_t r = 0; r < rows.count; ++r) {
      if (r > 0 && rows.position[r] == rows.position[r - 1])
        bound[r] = bound[r - 1];
      else
        bound[r] = position(all - 1) <= rows.position[r]
                       ? all
                       : tokens_until(cache, sequence, kv_head, rows.position[r], first) - first;
      bound[r] = larger(0, smaller(bound[r], all));
      found.count = larger(found.count, bound[r]);
    }
    for (std::int32_t r = 0; r < rows.count; ++r) hides = hides || bound[r] < found.count;
    if (hides)
      for (std::int32_t i = 0; i < found.count; ++i) {
        scratch.seen[i] = 0;
        for (std::int32_t r = 0; r < rows.count; ++r) scratch.seen[i] |= std::uint32_t{i < bound[r]} << r;
      }
  } else {
    std::int32_t oldest = rows.position[0], newest = rows.position[0];
    for (std::int32_t r = 1; r < rows.count; ++r) {
      oldest = smaller(oldest, rows.position[r]);
      newest = larger(newest, rows.position[r]);
    }
    std::int32_t bound[decode_rows];
    for (std::int32_t r = 0; r < rows.count; ++r) bound[r] = last_visible(pattern, rows.position[r]);
    std::int32_t const begin = position(0), end = position(all - 1), furthest = last_visible(pattern, newest);
    std::int32_t next = 0;
    auto const take = [&](std::int32_t low, std::int32_t high, bool full) {
      if (high < begin || low > end) return;
      while (next < all && position(next) < low) ++next;
      for (; next < all && position(next) <= smaller(high, furthest); ++next) {
        std::int32_t const at = position(next);
        std::uint32_t seen = 0;
        for (std::int32_t r = 0; r < rows.count; ++r)
          seen |= std::uint32_t{at <= bound[r] && (full || pattern.visible(rows.head[r], rows.position[r], at))} << r;
        if (seen == 0) continue;
        hides = hides || seen != every_row;
        scratch.seen[found.count] = seen;
        scratch.ordinal[found.count++] = first + next;
      }
    };
    if constexpr (requires { pattern.runs(oldest, newest, take); })
      pattern.runs(oldest, newest, take);
    else
      take(begin, furthest, false);
  }
  if (hides) found.seen = scratch.seen;
  if (found.count == 0) return found;

  std::int32_t start = first;
  if constexpr (!everything) {
    start = scratch.ordinal[0];
    if (scratch.ordinal[found.count - 1] - start + 1 != found.count || start != first) found.ordinal = scratch.ordinal;
  }
  bool const scattered = found.ordinal != nullptr && found.ordinal[found.count - 1] - start + 1 != found.count;
  if (!scattered && run.tokens >= start - first + found.count) {
    found.keys = {run.keys + (start - first) * run.stride, run.stride, nullptr};
    found.values = {run.values + (start - first) * run.value_stride, run.value_stride, nullptr};
    found.after = run.tokens > all && last < cache.length(sequence, kv_head) ? run.keys + all * run.stride : run.keys;
  } else {
    for (std::int32_t i = 0; i < found.count; ++i) {
      auto const at = cache.run(sequence, kv_head, found.token(first, i));
      scratch.key_rows[i] = at.keys;
      scratch.value_rows[i] = at.values;
    }
    found.keys = {run.keys, 0, scratch.key_rows};
    found.values = {run.values, 0, scratch.value_rows};
    found.after = run.keys;
  }
  return found;
}

/// How many rows of keys lie between the one that is fetched and the one that is used.
template <class T> PUREKV_HOST_INLINE std::int32_t chunk_ahead(std::int32_t dim) {
  return static_cast<std::int32_t>(decode_ahead_bytes / (dim * std::int64_t{sizeof(T)})) + 1;
}

/// logits[i][r] = keys[i] . q[r] for `count` keys; false if one is infinite or NaN. q : [Rows, padded]; logits :
/// [count, logit_stride(Rows)], written up to a register beyond. Rows of keys are fetched before they are used, and at
/// the end chunk_ahead of `next`.
template <int Rows, class T>
bool multiply_chunk(float const* q, std::int32_t padded, std::int32_t dim, row_source<T> const& keys,
                    std::int32_t count, row_source<T> const& next, float* logits) {
  constexpr std::int32_t group_keys = decode_keys<Rows>;
  std::int32_t const ahead_rows = chunk_ahead<T>(dim);
  vec odd{};
  for (std::int32_t i = 0; i < count; i += group_keys) {
    T const* these[group_keys];
    PUREKV_UNROLL(16)
    for (std::int32_t j = 0; j < group_keys; ++j) these[j] = keys.at(smaller(i + j, count - 1));
    T const* ahead = these[0];
    if (keys.rows != nullptr)
      for (std::int32_t j = 0; j < group_keys; ++j)
        prefetch_row(keys.rows[smaller(i + j + ahead_rows, count - 1)], dim * std::int64_t{sizeof(T)});
    else
      ahead = i + ahead_rows < count ? keys.at(i + ahead_rows) : next.at(i + ahead_rows - count);
    odd += multiply_rows<Rows>(q, padded, dim, these, ahead, keys.stride, logits + i * logit_stride(Rows));
  }
  return !any(odd != odd);
}

/// Attention of a few rows over the keys of one chunk: out = sum of exp2(logit - top) * value, and top and sum of the
/// exponentials for each row. top is -inf for a row that sees nothing of it.
template <int Rows, class T> struct chunk_attention {
  static constexpr std::int32_t group_keys = decode_keys<Rows>;
  static constexpr std::int32_t per_key = logit_stride(Rows);

  chunk_keys<T> const& found;
  soft_cap cap;
  std::int32_t dim, padded, value_dim, value_padded;
  float const* q;
  float* logits;
  float* weights;
  float* out;
  float* top;
  float* sum;

  void run() const {
    bool const finite = multiply_keys();
    if (cap) cap.apply(logits, found.count * per_key);
    if (!finite) clamp();
    if (found.seen != nullptr) hide();
    weigh();
    add_values();
  }

  std::int64_t value_bytes() const { return value_dim * std::int64_t{sizeof(T)}; }

  /// False if some logit is infinite or NaN.
  bool multiply_keys() const {
    return multiply_chunk<Rows>(q, padded, dim, found.keys, found.count, found.values, logits);
  }

  void clamp() const {
    for (std::int32_t i = 0; i < found.count * per_key; ++i) {
      float& s = logits[i];
      if (s > largest_logit) s = largest_logit;
      if (s < -largest_logit) s = -largest_logit;
      if (!(s == s)) s = hidden_logit;
    }
  }

  void hide() const {
    for (std::int32_t i = 0; i < found.count; ++i)
      for (std::int32_t r = 0; r < Rows; ++r)
        if ((found.seen[i] >> r & 1u) == 0) logits[i * per_key + r] = hidden_logit;
  }

  /// Of the first `end` logits, lane by lane. A function of its own: g++ would keep the result in weigh's array.
  [[gnu::noinline]] vec largest_logits(std::int32_t end) const {
    vec most = splat(hidden_logit);
    for (std::int32_t i = 0; i < end; i += lanes) most = max(load(logits + i), most);
    return most;
  }

  void weigh() const {
    std::int32_t const end = (found.count + group_keys - 1) / group_keys * group_keys * per_key;
    for (std::int32_t i = found.count * per_key; i < end; ++i) logits[i] = hidden_logit;

    float lane[lanes];
    store(lane, largest_logits(end));
    for (std::int32_t r = 0; r < Rows; ++r) {
      top[r] = lane[r];
      for (std::int32_t j = 1; j < lanes / per_key; ++j)
        top[r] = lane[j * per_key + r] > top[r] ? lane[j * per_key + r] : top[r];
    }
    for (std::int32_t i = 0; i < lanes; ++i) {
      std::int32_t const r = i % per_key;
      lane[i] = r < Rows && top[r] != hidden_logit ? top[r] : 0;
    }

    vec const shift = load(lane);
    vec total{};
    for (std::int32_t i = 0; i < end; i += lanes) {
      vec const p = exp2(load(logits + i) - shift);
      store(weights + i, p);
      total += p;
    }
    store(lane, total);
    for (std::int32_t r = 0; r < Rows; ++r) {
      sum[r] = lane[r];
      for (std::int32_t j = 1; j < lanes / per_key; ++j) sum[r] += lane[j * per_key + r];
    }
  }

  void add_values() const {
    for (std::int32_t i = 0; i < Rows * value_padded; ++i) out[i] = 0;
    std::int32_t const block = larger(8, static_cast<std::int32_t>(decode_block_bytes / value_bytes()));
    for (std::int32_t first = 0; first < found.count; first += block) {
      std::int32_t const last = smaller(first + block, found.count);
      T const* ahead = found.values.at(first);
      if (found.values.rows != nullptr)
        for (std::int32_t i = last; i < smaller(last + block, found.count); ++i)
          prefetch_row(found.values.rows[i], value_bytes());
      else
        ahead = last < found.count ? found.values.at(last) : found.after;
      add_block(first, last, ahead);
    }
    bool poisoned = false;
    for (std::int32_t i = 0; i < Rows * value_padded; i += lanes) {
      vec const x = load(out + i);
      poisoned = poisoned || any(x != x);
    }
    if (poisoned) add_values_guarded();
  }

  void add_block(std::int32_t first, std::int32_t last, T const* ahead) const {
    // Rows without gaps are fetched in the order of memory, others in that of the passes over their dims.
    bool const gapless = found.values.stride == value_dim;
    constexpr std::int32_t part = rows_together<Rows>, parts = part < Rows ? 2 : 1;
    auto const rows = [&]<int First, int Part>() {
      auto const pass = [&]<int Vectors, bool partial>(std::int32_t d) {
        std::int32_t const width = gapless ? last - first : 1;
        multiply_weights<Part, parts, Vectors, partial>(
            weights + First, per_key, found.values, first, last, d, value_dim - d,
            ahead + (std::ptrdiff_t{First > 0} * value_dim + d) * width / parts,
            gapless ? std::ptrdiff_t{Vectors * lanes / parts} : found.values.stride, out + First * value_padded,
            value_padded);
      };
      for_each_group<decode_vectors<Part>>(value_dim / lanes, [&]<int Vectors>(std::int32_t vector) {
        pass.template operator()<Vectors, false>(vector * lanes);
      });
      if (value_dim % lanes != 0) pass.template operator()<1, true>(value_dim / lanes * lanes);
    };
    rows.template operator()<0, part>();
    if constexpr (parts > 1) rows.template operator()<part, Rows - part>();
  }

  /// The same sums, but a weight of zero takes nothing from its value, even if that is inf or NaN.
  void add_values_guarded() const {
    for (std::int32_t i = 0; i < Rows * value_padded; ++i) out[i] = 0;
    for (std::int32_t i = 0; i < found.count; ++i) {
      T const* const row = found.values.at(i);
      for (std::int32_t r = 0; r < Rows; ++r) {
        float const p = weights[i * per_key + r];
        if (p == 0) continue;
        for (std::int32_t d = 0; d < value_dim; ++d) out[r * value_padded + d] += p * static_cast<float>(row[d]);
      }
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
