// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/attend.hpp>
#include <purekv/detail/decode_chunk.hpp>
#include <purekv/detail/task_queue.hpp>
#include <purekv/pattern/dense.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What decoding leaves of each chunk until all are known: for every row of the sequence the unscaled result, its
/// largest logit and the sum of exp2(logit - largest), and for the mass tap the logits.
struct decode_part {
  float* out;  // [rows, value_padded]
  float* top;  // [rows]
  float* sum;  // [rows]
  float* logits;
};

template <class TQ, Cache C> struct decode_shape {
  query_view<TQ> const& q;
  C const& cache;
  std::int32_t group = q.rows.heads / cache.kv_heads;
  std::int32_t dim = q.rows.dim, value_dim = value_dim_of(cache);
  std::int64_t padded = whole_registers(dim), value_padded = whole_registers(value_dim);

  static std::int64_t whole_registers(std::int32_t n) { return (std::int64_t{n} + lanes - 1) / lanes * lanes; }

  std::int64_t rows(std::int32_t s) const { return std::int64_t{q.count(s)} * group; }
  std::int64_t chunks(std::int32_t s, std::int32_t h) const {
    return (std::int64_t{cache.length(s, h)} + decode_chunk - 1) / decode_chunk;
  }
  std::int64_t sets(std::int32_t s) const { return (rows(s) + decode_rows - 1) / decode_rows; }
  /// Rows of a sequence are worked on in sets of nearly equal size.
  std::int64_t set_begin(std::int32_t s, std::int64_t set) const { return rows(s) * set / sets(s); }
  /// Sets differ by a row at most; each has room for the larger ones.
  std::int64_t set_logits(std::int32_t s) const {
    return chunk_logits(rows(s) > decode_rows ? decode_rows : static_cast<std::int32_t>(rows(s)));
  }
  std::int64_t logits(std::int32_t s) const { return sets(s) * set_logits(s); }

  std::int64_t all_chunks() const {
    std::int64_t count = 0;
    for (std::int32_t s = 0; s < cache.sequences; ++s)
      for (std::int32_t h = 0; h < cache.kv_heads; ++h) count += chunks(s, h);
    return count;
  }
};

/// Walks over all chunks of all heads in order, forward only.
template <class TQ, Cache C> struct chunk_cursor {
  decode_shape<TQ, C> const& shape;
  std::int32_t sequence = 0, kv_head = 0;
  std::int64_t begin = 0;                           // number of the first chunk of this head
  std::int64_t rows_before = 0, logits_before = 0;  // (chunk, row) pairs and logits before it

  /// Moves to the head that chunk `task` belongs to.
  void seek(std::int64_t task) {
    while (task >= begin + shape.chunks(sequence, kv_head)) next_head();
  }
  void seek_head(std::int32_t s, std::int32_t h) {
    while (sequence != s || kv_head != h) next_head();
  }

 private:
  void next_head() {
    std::int64_t const count = shape.chunks(sequence, kv_head);
    begin += count;
    rows_before += count * shape.rows(sequence);
    logits_before += count * shape.logits(sequence);
    if (++kv_head == shape.cache.kv_heads) {
      kv_head = 0;
      ++sequence;
    }
  }
};

template <class T> struct decode_memory {
  task_queue queue;
  decode_scratch<T> scratch;  // of this rank
  float* out;                 // for each (sequence, kv head, chunk, row), padded
  float* top;
  float* sum;
  float* logits;  // null unless mass is wanted
  float* lse;     // [heads, queries], where the mass tap needs it and the caller does not want it

  template <class TQ, Cache C>
  static decode_memory take(carve& memory, cpu exec, query_view<TQ> const& q, C const& cache, attend_taps const& taps) {
    decode_shape<TQ, C> const shape{q, cache};
    decode_memory m{task_queue(memory), {}, nullptr, nullptr, nullptr, nullptr, nullptr};
    for (std::int32_t r = 0; r < exec.size(); ++r) {
      decode_scratch<T> const scratch = decode_scratch<T>::take(memory, shape.padded, shape.value_padded);
      if (r == exec.rank()) m.scratch = scratch;
    }
    std::int64_t rows = 0, logits = 0;
    bool overflow = false;
    for (std::int32_t s = 0; s < cache.sequences; ++s) {
      std::int64_t chunks = 0, product = 0;
      for (std::int32_t h = 0; h < cache.kv_heads; ++h) chunks += shape.chunks(s, h);
      overflow = overflow || __builtin_mul_overflow(chunks, shape.rows(s), &product) ||
                 __builtin_add_overflow(rows, product, &rows) ||
                 __builtin_mul_overflow(chunks, shape.logits(s), &product) ||
                 __builtin_add_overflow(logits, product, &logits);
    }
    std::int64_t out = 0;
    overflow = overflow || __builtin_mul_overflow(rows, shape.value_padded, &out);
    m.out = memory.take<float>(overflow ? -1 : out);
    m.top = memory.take<float>(rows);
    m.sum = memory.take<float>(rows);
    if (taps.mass.data != nullptr) {
      m.logits = memory.take<float>(overflow ? -1 : logits);
      if (taps.lse == nullptr) m.lse = memory.take<float>(std::int64_t{q.rows.heads} * q.rows.tokens);
    }
    return m;
  }

  /// What chunk `task` of the cursor's head leaves.
  template <class TQ, Cache C> decode_part part(chunk_cursor<TQ, C> const& at, std::int64_t task) const {
    std::int64_t const row = at.rows_before + (task - at.begin) * at.shape.rows(at.sequence);
    float* const kept =
        logits == nullptr ? nullptr : logits + at.logits_before + (task - at.begin) * at.shape.logits(at.sequence);
    return {out + row * at.shape.value_padded, top + row, sum + row, kept};
  }
};

/// One chunk of one KV head: all rows of the sequence, a set of them at a time.
template <Pattern P, class TQ, Cache C> struct decode_task {
  using element = typename C::element;
  static constexpr bool everything = std::is_same_v<P, dense>;

  P const& pattern;
  decode_shape<TQ, C> const& shape;
  decode_scratch<element> const& scratch;
  std::int32_t sequence, kv_head, first, last;

  decode_row_list rows_of(std::int64_t set) const {
    decode_row_list rows{};
    std::int64_t const begin = shape.set_begin(sequence, set), end = shape.set_begin(sequence, set + 1);
    for (std::int64_t row = begin; row < end; ++row) {
      std::int32_t const token = shape.q.begin(sequence) + static_cast<std::int32_t>(row / shape.group);
      rows.head[rows.count] = kv_head * shape.group + static_cast<std::int32_t>(row % shape.group);
      rows.token[rows.count] = token;
      rows.position[rows.count++] = shape.q.batch.positions[token];
    }
    return rows;
  }
  chunk_keys<element> keys_of(decode_row_list const& rows) const {
    return find_keys<everything>(pattern, shape.cache, sequence, kv_head, first, last, rows, scratch);
  }
  std::int64_t logits_begin(std::int64_t set) const { return set * shape.set_logits(sequence); }

  void run(decode_part const& part) const {
    for (std::int64_t set = 0; set < shape.sets(sequence); ++set) {
      decode_row_list const rows = rows_of(set);
      std::int64_t const row = shape.set_begin(sequence, set);
      chunk_keys<element> const found = keys_of(rows);
      if (found.count == 0) {
        for (std::int32_t r = 0; r < rows.count; ++r) part.top[row + r] = hidden_logit;
        continue;
      }
      float* const logits = part.logits == nullptr ? scratch.logits : part.logits + logits_begin(set);
      attend_rows(rows, found, logits, part.out + row * shape.value_padded, part.top + row, part.sum + row);
    }
  }

  void attend_rows(decode_row_list const& rows, chunk_keys<element> const& found, float* logits, float* out, float* top,
                   float* sum) const {
    pack(rows);
    dispatch_group<decode_rows>(rows.count, 0, [&]<int Rows>(std::int32_t) {
      chunk_attention<Rows, element>{found,
                                     soft_cap(shape.q),
                                     shape.dim,
                                     static_cast<std::int32_t>(shape.padded),
                                     shape.value_dim,
                                     static_cast<std::int32_t>(shape.value_padded),
                                     scratch.q,
                                     logits,
                                     scratch.weights,
                                     scratch.out,
                                     top,
                                     sum}
          .run();
    });
    for (std::int64_t i = 0; i < rows.count * shape.value_padded; i += lanes) store(out + i, load(scratch.out + i));
  }

  void pack(decode_row_list const& rows) const {
    for (std::int32_t r = 0; r < rows.count; ++r)
      scale_row(shape.q.rows.row(rows.head[r], rows.token[r]), shape.dim, logit_scale(shape.q),
                scratch.q + r * shape.padded);
  }

  /// What the rows in [begin, end) give to the chunk's tokens, exp2(logit - lse), reduced as the taps say.
  void add_mass(decode_part const& part, float const* lse, std::ptrdiff_t lse_stride, std::int32_t begin,
                std::int32_t end, attend_taps const& taps) const {
    bool const by_head = taps.mass_rows == score_rows::heads, maximum = taps.mass_by == mass_reduction::maximum;
    score_view const& mass = taps.mass;
    for (std::int32_t r = 0; r < (by_head ? shape.group : 1); ++r) {
      float* const to = mass.row(sequence, by_head ? kv_head * shape.group + r : kv_head);
      for (std::int32_t t = first; t < last; ++t) to[t] = 0;
    }
    for (std::int64_t set = 0; set < shape.sets(sequence); ++set) {
      decode_row_list const rows = rows_of(set);
      if (rows.token[rows.count - 1] < begin || rows.token[0] >= end) continue;
      chunk_keys<element> const found = keys_of(rows);
      if (found.count == 0) continue;
      float* to[decode_rows];
      float shift[lanes] = {}, factor[lanes] = {};
      std::int32_t const per_key = logit_stride(rows.count);
      for (std::int32_t i = 0; i < lanes; ++i) {
        std::int32_t const r = i % per_key;
        if (r >= rows.count) continue;
        float const of_row = lse[rows.head[r] * lse_stride + rows.token[r]];
        shift[i] = of_row == hidden_logit ? 0 : of_row;
        factor[i] = rows.token[r] >= begin && rows.token[r] < end ? 1 : 0;
        to[r] = mass.row(sequence, by_head ? rows.head[r] : kv_head);
      }
      float const* const logits = part.logits + logits_begin(set);
      for (std::int32_t i = 0; i < found.count * per_key; i += lanes) {
        float share[lanes];
        store(share, exp2(load(logits + i) - load(shift)) * load(factor));
        std::int32_t const keys = smaller(lanes / per_key, found.count - i / per_key);
        for (std::int32_t j = 0; j < keys; ++j) {
          std::int32_t const token = found.token(first, i / per_key + j);
          for (std::int32_t r = 0; r < rows.count; ++r) {
            float& of_token = to[r][token];
            float const more = share[j * per_key + r];
            of_token = !maximum ? of_token + more : more > of_token ? more : of_token;
          }
        }
      }
    }
  }
};

/// One row of the result from what its chunks left, in order, and the logit of its head's sink; returns its lse.
template <class TO>
float merge_chunks(decode_part const& first, std::int64_t chunks, std::int64_t rows_per_chunk, std::int64_t row,
                   float sink, std::int64_t padded, std::int32_t dim, TO* out) {
  float top = sink;
  for (std::int64_t c = 0; c < chunks; ++c) {
    float const t = first.top[c * rows_per_chunk + row];
    top = t > top ? t : top;
  }
  // Weights are formed again for each block of dims, so that any number of chunks needs no memory.
  constexpr std::int32_t block = 16;
  float sum = sink == hidden_logit ? 0 : __builtin_exp2f(sink - top);
  for (std::int64_t c = 0; c < chunks; ++c) {
    float const t = first.top[c * rows_per_chunk + row];
    if (t != hidden_logit) sum += __builtin_exp2f(t - top) * first.sum[c * rows_per_chunk + row];
  }
  for (std::int32_t begin = 0; begin < dim; begin += block * lanes) {
    std::int32_t const width = smaller(block * lanes, dim - begin);
    vec total[block] = {};
    for (std::int64_t c = 0; c < chunks; ++c) {
      float const t = first.top[c * rows_per_chunk + row];
      float const weight = t == hidden_logit ? 0 : __builtin_exp2f(t - top) / sum;
      if (weight == 0) continue;  // what counts for nothing may hold NaN or inf
      float const* const part = first.out + (c * rows_per_chunk + row) * padded + begin;
      for (std::int32_t d = 0; d < width; d += lanes)
        total[d / lanes] = fma(splat(weight), load(part + d), total[d / lanes]);
    }
    std::int32_t d = 0;
    for (; d + lanes <= width; d += lanes) narrow(out + begin + d, total[d / lanes]);
    if (d < width) narrow(out + begin + d, total[d / lanes], width - d);
  }
  return top == hidden_logit ? hidden_logit : top + __builtin_log2f(sum);
}

}  // namespace detail

/// Bytes that `decode` wants; reads shapes and lengths, no data. SIZE_MAX when they overflow.
template <Pattern P, class TQ, Cache C>
std::size_t decode_workspace(cpu exec, P const&, query_view<TQ> const& q, C const& cache,
                             attend_taps const& taps = {}) {
  if (!cache.check().ok() || !detail::check_shapes(q, cache).ok()) return 0;
  detail::carve memory;
  detail::decode_memory<typename C::element>::take(memory, exec, q, cache, taps);
  return memory.bytes();
}

/// out[head, query] = sum over visible keys of exp2(logit - lse) * value, as `attend` computes it, made for one or few
/// queries per sequence and long caches: each key and value is read once for all heads of its group and all queries,
/// and the work is cut along the keys (flash-decoding) into chunks of a fixed size.
/// q : [heads, queries, dim], out : [heads, queries, value dim]; taps: see attend_taps. The cache already holds the
/// queries' own keys. Bit-equal for any number of ranks. On error nothing is written.
template <Pattern P, class TQ, Cache C, class TO>
status decode(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache, rows_view<TO> const& out,
              attend_taps const& taps, workspace const& work) {
  using element = typename C::element;
  if (status const s = detail::check_attend(pattern, q, cache, out, taps); !s.ok()) return s;
  if (status const s = detail::check_decode_taps(taps); !s.ok()) return s;
  detail::carve memory(work);
  auto const m = detail::decode_memory<element>::take(memory, exec, q, cache, taps);
  if (!memory.fits())
    return {errc::workspace_too_small, "decode: workspace smaller than decode_workspace(), or not aligned to 64 bytes"};

  detail::decode_shape<TQ, C> const shape{q, cache};
  auto const for_each_chunk = [&](auto const& f) {
    detail::chunk_cursor<TQ, C> at{shape};
    m.queue.run(exec, shape.all_chunks(), [&](std::int64_t task) {
      at.seek(task);
      std::int32_t const first = static_cast<std::int32_t>(task - at.begin) * detail::decode_chunk;
      std::int32_t const last = detail::smaller(detail::decode_chunk, cache.length(at.sequence, at.kv_head) - first);
      f(detail::decode_task<P, TQ, C>{pattern, shape, m.scratch, at.sequence, at.kv_head, first, first + last},
        m.part(at, task));
    });
  };
  for_each_chunk([&](auto const& task, detail::decode_part const& part) { task.run(part); });

  float* const lse = taps.lse != nullptr ? taps.lse : m.lse;
  std::ptrdiff_t const lse_stride = taps.lse != nullptr ? taps.lse_stride : q.rows.tokens;
  detail::chunk_cursor<TQ, C> at{shape};
  std::int32_t s = 0;
  std::int64_t row = 0;
  for (std::int32_t h = 0; s < cache.sequences; h == cache.kv_heads - 1 ? (h = 0, ++s) : ++h) {
    at.seek_head(s, h);
    detail::decode_part const first = m.part(at, at.begin);
    for (std::int64_t r = 0; r < shape.rows(s); ++r, ++row) {
      if (row % exec.size() != exec.rank()) continue;
      std::int32_t const head = h * shape.group + static_cast<std::int32_t>(r % shape.group);
      std::int32_t const token = q.begin(s) + static_cast<std::int32_t>(r / shape.group);
      float const merged =
          detail::merge_chunks(first, shape.chunks(s, h), shape.rows(s), r, detail::sink_logit(q, head),
                               shape.value_padded, shape.value_dim, out.row(head, token));
      if (lse != nullptr) lse[head * lse_stride + token] = merged;
    }
  }
  exec.sync();

  if (taps.mass.data != nullptr)
    for_each_chunk([&](auto const& task, detail::decode_part const& part) {
      std::int32_t const count = q.count(task.sequence), begin = q.begin(task.sequence);
      task.add_mass(part, lse, lse_stride, begin + taps.mass_queries.first(count),
                    begin + taps.mass_queries.last(count), taps);
    });
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
