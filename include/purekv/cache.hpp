// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/view.hpp>

#include <concepts>

namespace purekv::inline v0_1 {

/// Where the tokens of one (sequence, KV head) lie: slots [begin, begin + capacity), the first `length` in use.
struct extent {
  std::int64_t begin = 0;
  std::int32_t length = 0;
  std::int32_t capacity = 0;
};

/// Consecutive cached tokens of one head at constant strides: row i at keys + i * stride and values + i * value_stride,
/// position at positions[i]. `tokens` counts slots up to where the run ends (a head's capacity here; a page's end in a
/// paged cache).
template <class T> struct token_run {
  T* keys;
  T* values;
  std::int32_t* positions;
  std::ptrdiff_t stride;
  std::int32_t tokens;
  std::ptrdiff_t value_stride;
};

/// A cache: for each (sequence, KV head) a growing list of tokens with key, value and position, positions ascending.
/// Models: contiguous_cache, ragged_cache. Operations walk a head by `run`s and so never assume one block of memory.
template <class C>
concept Cache = Element<typename C::element> && std::is_trivially_copyable_v<C> &&
    requires(C const& c, std::int32_t i, std::int32_t n) {
  { c.sequences } -> std::convertible_to<std::int32_t>;
  { c.kv_heads } -> std::convertible_to<std::int32_t>;
  { c.dim } -> std::convertible_to<std::int32_t>;
  { c.length(i, i) } -> std::same_as<std::int32_t>;
  { c.capacity(i, i) } -> std::same_as<std::int32_t>;
  { c.set_length(i, i, n) } -> std::same_as<void>;
  { c.run(i, i, n) } -> std::same_as<token_run<typename C::element>>;
  { c.slot(i, i, n) } -> std::same_as<std::int64_t>;
  { c.check_view() } -> std::same_as<status>;
  { c.check() } -> std::same_as<status>;
};

/// How wide the values of a cache are: its `value_dim`, or as wide as the keys if it has none or says 0.
template <Cache C> PUREKV_INLINE std::int32_t value_dim_of(C const& cache) {
  if constexpr (requires { cache.value_dim; })
    return cache.value_dim != 0 ? cache.value_dim : cache.dim;
  else
    return cache.dim;
}

/// k, v : [sequences, kv_heads, capacity, dim] with strides in elements, dim contiguous.
/// positions : [sequences, kv_heads, capacity]; lengths : [sequences, kv_heads].
/// value_dim 0: values are as wide as keys and lie at the same strides. Otherwise they are `value_dim` wide and have
/// strides of their own; they may be part of the key rows, as in multi-head latent attention.
template <class T> struct contiguous_cache {
  using element = T;
  T* keys = nullptr;
  T* values = nullptr;
  std::int32_t* positions = nullptr;
  std::int32_t* lengths = nullptr;
  std::int32_t sequences = 0, kv_heads = 0, tokens = 0, dim = 0;  // tokens: capacity of every head
  std::ptrdiff_t sequence_stride = 0, head_stride = 0, token_stride = 0;
  std::int32_t value_dim = 0;
  std::ptrdiff_t value_sequence_stride = 0, value_head_stride = 0, value_token_stride = 0;

  PUREKV_INLINE std::int32_t length(std::int32_t sequence, std::int32_t head) const {
    return lengths[sequence * kv_heads + head];
  }
  PUREKV_INLINE std::int32_t capacity(std::int32_t, std::int32_t) const { return tokens; }
  PUREKV_INLINE void set_length(std::int32_t sequence, std::int32_t head, std::int32_t length) const {
    lengths[sequence * kv_heads + head] = length;
  }
  PUREKV_INLINE std::int64_t slot(std::int32_t sequence, std::int32_t head, std::int32_t token) const {
    return (std::int64_t{sequence} * kv_heads + head) * tokens + token;
  }
  PUREKV_INLINE token_run<T> run(std::int32_t sequence, std::int32_t head, std::int32_t token) const {
    std::ptrdiff_t const at = sequence * sequence_stride + head * head_stride + token * token_stride;
    std::ptrdiff_t const value_at =
        value_dim == 0 ? at : sequence * value_sequence_stride + head * value_head_stride + token * value_token_stride;
    return {keys + at,    values + value_at, positions + slot(sequence, head, token),
            token_stride, tokens - token,    value_dim == 0 ? token_stride : value_token_stride};
  }

  /// Whether the view itself makes sense: sizes, overlap, overflow, null data. Reads no array, so that those may lie
  /// on a device.
  PUREKV_HOST_INLINE status check_view() const;
  /// And whether lengths lie within the capacity.
  PUREKV_HOST_INLINE status check() const;

 private:
  PUREKV_HOST_INLINE status check_strides(std::int32_t width, std::ptrdiff_t of_sequences, std::ptrdiff_t of_heads,
                                          std::ptrdiff_t of_tokens) const;
};

/// k, v : [slots, dim], dim contiguous, rows `token_stride` elements apart; positions : [slots];
/// extents : [sequences, kv_heads], disjoint and ascending. What per-head eviction leaves, and grows by `append`.
/// value_dim 0: values are as wide as keys and as far apart. Otherwise v : [slots, value_dim], rows
/// `value_token_stride` apart.
template <class T> struct ragged_cache {
  using element = T;
  T* keys = nullptr;
  T* values = nullptr;
  std::int32_t* positions = nullptr;
  extent* extents = nullptr;
  std::int32_t sequences = 0, kv_heads = 0, dim = 0;
  std::int64_t slots = 0;
  std::ptrdiff_t token_stride = 0;
  std::int32_t value_dim = 0;
  std::ptrdiff_t value_token_stride = 0;

  PUREKV_INLINE extent& at(std::int32_t sequence, std::int32_t head) const {
    return extents[sequence * kv_heads + head];
  }
  PUREKV_INLINE std::int32_t length(std::int32_t sequence, std::int32_t head) const {
    return at(sequence, head).length;
  }
  PUREKV_INLINE std::int32_t capacity(std::int32_t sequence, std::int32_t head) const {
    return at(sequence, head).capacity;
  }
  PUREKV_INLINE void set_length(std::int32_t sequence, std::int32_t head, std::int32_t length) const {
    at(sequence, head).length = length;
  }
  PUREKV_INLINE std::int64_t slot(std::int32_t sequence, std::int32_t head, std::int32_t token) const {
    return at(sequence, head).begin + token;
  }
  PUREKV_INLINE token_run<T> run(std::int32_t sequence, std::int32_t head, std::int32_t token) const {
    std::int64_t const first = slot(sequence, head, token);
    std::ptrdiff_t const value_stride = value_dim == 0 ? token_stride : value_token_stride;
    return {keys + first * token_stride,
            values + first * value_stride,
            positions + first,
            token_stride,
            capacity(sequence, head) - token,
            value_stride};
  }

  PUREKV_HOST_INLINE status check_view() const;
  PUREKV_HOST_INLINE status check() const;
};

/// A contiguous cache without gaps: keys, values : [sequences, kv_heads, tokens, dim].
template <class T>
PUREKV_INLINE contiguous_cache<T> head_major_cache(T* keys, T* values, std::int32_t* positions, std::int32_t* lengths,
                                                   std::int32_t sequences, std::int32_t kv_heads, std::int32_t tokens,
                                                   std::int32_t dim) {
  std::ptrdiff_t const head = std::ptrdiff_t{tokens} * dim;
  return {keys, values, positions, lengths, sequences, kv_heads, tokens, dim, kv_heads * head, head, dim};
}

/// The part of a cache that belongs to one sequence of the batch.
template <class T> PUREKV_INLINE contiguous_cache<T> one_sequence(contiguous_cache<T> cache, std::int32_t sequence) {
  std::int64_t const first = cache.slot(sequence, 0, 0);
  cache.keys += sequence * cache.sequence_stride;
  cache.values += sequence * (cache.value_dim == 0 ? cache.sequence_stride : cache.value_sequence_stride);
  cache.positions += first;
  cache.lengths += sequence * cache.kv_heads;
  cache.sequences = 1;
  return cache;
}

template <class T> PUREKV_INLINE ragged_cache<T> one_sequence(ragged_cache<T> cache, std::int32_t sequence) {
  cache.extents += sequence * cache.kv_heads;
  cache.sequences = 1;
  return cache;
}

template <class T> PUREKV_HOST_INLINE status contiguous_cache<T>::check_view() const {
  if (sequences <= 0 || kv_heads <= 0 || dim <= 0 || tokens < 0 || value_dim < 0)
    return {errc::bad_shape,
            "contiguous_cache: sequences, kv_heads and dim must be positive, tokens and value_dim not negative"};
  if (tokens > 0 && (keys == nullptr || values == nullptr || positions == nullptr))
    return {errc::null_data, "contiguous_cache: keys, values or positions is null"};
  if (lengths == nullptr) return {errc::null_data, "contiguous_cache: lengths is null"};
  std::int64_t const rows = std::int64_t{sequences} * kv_heads;
  std::int64_t bytes = 0;
  if (rows > INT32_MAX || __builtin_mul_overflow(rows * std::int64_t{sizeof(std::int32_t)}, tokens, &bytes))
    return {errc::bad_shape, "contiguous_cache: sizes overflow 64 bits, or more than 2^31 - 1 heads in all"};
  if (status const s = check_strides(dim, sequence_stride, head_stride, token_stride); !s.ok()) return s;
  if (value_dim > 0)
    if (status const s = check_strides(value_dim, value_sequence_stride, value_head_stride, value_token_stride);
        !s.ok())
      return s;
  return {};
}

template <class T> PUREKV_HOST_INLINE status contiguous_cache<T>::check() const {
  if (status const s = check_view(); !s.ok()) return s;
  for (std::int64_t i = 0; i < std::int64_t{sequences} * kv_heads; ++i)
    if (lengths[i] < 0 || lengths[i] > tokens)
      return {errc::bad_shape, "contiguous_cache: a length is negative or larger than the capacity"};
  return {};
}

template <class T>
PUREKV_HOST_INLINE status contiguous_cache<T>::check_strides(std::int32_t width, std::ptrdiff_t of_sequences,
                                                             std::ptrdiff_t of_heads, std::ptrdiff_t of_tokens) const {
  if (tokens == 0) return {};
  // Sequences, heads and tokens may nest in any order; each must step over all that lies within the next smaller.
  struct axis {
    std::int32_t count;
    std::ptrdiff_t stride;
  } axes[3] = {{tokens, of_tokens}, {kv_heads, of_heads}, {sequences, of_sequences}};
  for (int n = 0; n < 3; ++n) {
    int const i = n % 2;
    if (axes[i].stride > axes[i + 1].stride) {
      axis const larger = axes[i];
      axes[i] = axes[i + 1];
      axes[i + 1] = larger;
    }
  }
  std::int64_t span = width, bytes = 0;
  for (axis const& a : axes) {
    if (a.count == 1) continue;
    if (a.stride < span) return {errc::bad_shape, "contiguous_cache: strides overlap"};
    std::int64_t steps = 0;
    if (__builtin_mul_overflow(std::int64_t{a.count - 1}, std::int64_t{a.stride}, &steps) ||
        __builtin_add_overflow(span, steps, &span))
      return {errc::bad_shape, "contiguous_cache: sizes overflow 64 bits"};
  }
  if (__builtin_mul_overflow(span, std::int64_t{sizeof(T)}, &bytes))
    return {errc::bad_shape, "contiguous_cache: sizes overflow 64 bits"};
  return {};
}

template <class T> PUREKV_HOST_INLINE status ragged_cache<T>::check_view() const {
  if (sequences <= 0 || kv_heads <= 0 || dim <= 0 || slots < 0 || value_dim < 0)
    return {errc::bad_shape,
            "ragged_cache: sequences, kv_heads and dim must be positive, slots and value_dim not negative"};
  if (slots > 0 && (keys == nullptr || values == nullptr || positions == nullptr))
    return {errc::null_data, "ragged_cache: keys, values or positions is null"};
  if (extents == nullptr) return {errc::null_data, "ragged_cache: extents is null"};
  std::int64_t const rows = std::int64_t{sequences} * kv_heads;
  if (slots > 1 && (token_stride < dim || (value_dim > 0 && value_token_stride < value_dim)))
    return {errc::bad_shape, "ragged_cache: strides overlap"};
  std::ptrdiff_t const widest = value_dim > 0 && value_token_stride > token_stride ? value_token_stride : token_stride;
  std::int64_t bytes = 0;
  if (rows > INT32_MAX || __builtin_mul_overflow(slots, std::int64_t{sizeof(std::int32_t)}, &bytes) ||
      (slots > 1 && (__builtin_mul_overflow(slots, std::int64_t{widest}, &bytes) ||
                     __builtin_mul_overflow(bytes, std::int64_t{sizeof(T)}, &bytes))))
    return {errc::bad_shape, "ragged_cache: sizes overflow 64 bits, or more than 2^31 - 1 heads in all"};
  return {};
}

template <class T> PUREKV_HOST_INLINE status ragged_cache<T>::check() const {
  if (status const s = check_view(); !s.ok()) return s;
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < std::int64_t{sequences} * kv_heads; ++i) {
    extent const& e = extents[i];
    if (e.length < 0 || e.length > e.capacity)
      return {errc::bad_shape, "ragged_cache: a length is negative or larger than the capacity"};
    if (e.begin < end || e.capacity > slots - e.begin)
      return {errc::bad_shape, "ragged_cache: extents overlap, do not ascend or exceed the slots"};
    end = e.begin + e.capacity;
  }
  return {};
}

}  // namespace purekv::inline v0_1
