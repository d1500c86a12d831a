// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/selection.hpp>
#include <purekv/thread_team.hpp>

#include "support/buffer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <vector>

/// Caches, rows, scores and workspaces that own their memory and notice when something else is touched.
namespace fixtures {

using generator = std::mt19937_64;

inline std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

inline float normal(generator& random) { return std::normal_distribution<float>{}(random); }

/// Uniform in [low, high].
inline int between(generator& random, int low, int high) {
  return std::uniform_int_distribution<int>{low, high}(random);
}

template <class T> T nan_of() { return T(std::numeric_limits<float>::quiet_NaN()); }

/// Bytes that no operation would write by chance.
template <class T> buffer<T> untouched_memory(std::int64_t count) {
  buffer<T> memory(size(count));
  if (count > 0) std::memset(static_cast<void*>(memory.data()), 0xa5, size(count) * sizeof(T));
  return memory;
}

template <class T> bool same_bits(T const& a, T const& b) { return std::memcmp(&a, &b, sizeof(T)) == 0; }

template <class T> bool is_untouched(T const& x) {
  T const reference = untouched_memory<T>(1)[0];
  return same_bits(x, reference);
}

/// Copies of buffers, taken before a call that must leave them alone.
class snapshot {
 public:
  template <class T> void watch(T const* data, std::int64_t count) {
    if (data == nullptr || count <= 0) return;
    auto const* const bytes = reinterpret_cast<unsigned char const*>(data);
    kept_.push_back({bytes, {bytes, bytes + size(count) * sizeof(T)}});
  }
  template <class Buffer> void watch(Buffer const& memory) {
    watch(memory.data(), static_cast<std::int64_t>(memory.size()));
  }
  bool unchanged() const {
    return std::all_of(kept_.begin(), kept_.end(),
                       [](region const& r) { return std::memcmp(r.at, r.bytes.data(), r.bytes.size()) == 0; });
  }

 private:
  struct region {
    unsigned char const* at;
    std::vector<unsigned char> bytes;
  };
  std::vector<region> kept_;
};

/// `head_major`: [heads, tokens, dim]; `token_major`: [tokens, heads, dim].
enum class order { head_major, token_major };

/// Rows [heads, tokens, dim] in either order, with `gap` unused elements after each row and a last row that ends where
/// the memory does.
template <class T> struct owned_rows {
  buffer<T> memory;
  purekv::rows_view<T> view;

  owned_rows(int heads, int tokens, int dim, order o = order::head_major, int gap = 0) {
    std::ptrdiff_t const row = dim + gap;
    view = {nullptr,
            heads,
            tokens,
            dim,
            o == order::head_major ? row * tokens + gap : row,
            o == order::head_major ? row : row * heads + gap};
    std::int64_t const count =
        heads > 0 && tokens > 0 ? (heads - 1) * view.head_stride + (tokens - 1) * view.token_stride + dim : 0;
    memory = untouched_memory<T>(count);
    view.data = memory.data();
  }
  owned_rows(owned_rows&&) = default;

  purekv::rows_view<T const> rows() const {
    return {view.data, view.heads, view.tokens, view.dim, view.head_stride, view.token_stride};
  }
  void fill_normal(generator& random, float spread = 1) {
    for (int h = 0; h < view.heads; ++h)
      for (int t = 0; t < view.tokens; ++t)
        for (int c = 0; c < view.dim; ++c) view.row(h, t)[c] = T(spread * normal(random));
  }
  /// Whether everything between the rows is as it was.
  bool gaps_untouched() const {
    std::vector<bool> row(memory.size(), false);
    for (int h = 0; h < view.heads; ++h)
      for (int t = 0; t < view.tokens; ++t)
        for (int c = 0; c < view.dim; ++c) row[size(view.row(h, t) + c - memory.data())] = true;
    for (std::size_t i = 0; i < memory.size(); ++i)
      if (!row[i] && !is_untouched(memory[i])) return false;
    return true;
  }
};

/// Floats [sequences, rows, tokens] with `gap` unused ones after each row.
struct owned_scores {
  buffer<float> memory;
  purekv::score_view view;

  owned_scores(int sequences, int rows, int tokens, int gap = 0) {
    std::ptrdiff_t const row = tokens + gap;
    view = {nullptr, sequences, rows, tokens, row * rows + gap, row};
    std::int64_t const count = sequences > 0 && rows > 0 && tokens > 0
                                   ? (sequences - 1) * view.sequence_stride + (rows - 1) * view.row_stride + tokens
                                   : 0;
    memory = untouched_memory<float>(count);
    view.data = memory.data();
  }
  owned_scores(owned_scores&&) = default;

  /// Whether only the tokens below length(sequence, row) were written.
  template <class Length> bool rest_untouched(Length const& length) const {
    std::vector<bool> written(memory.size(), false);
    for (int s = 0; s < view.sequences; ++s)
      for (int r = 0; r < view.rows; ++r)
        for (int t = 0; t < length(s, r); ++t) written[size(view.row(s, r) + t - memory.data())] = true;
    for (std::size_t i = 0; i < memory.size(); ++i)
      if (!written[i] && !is_untouched(memory[i])) return false;
    return true;
  }
};

/// Exactly `bytes` of memory, aligned as promised, full of NaN, with guards on both sides.
class owned_workspace {
 public:
  explicit owned_workspace(std::size_t bytes) : bytes_(bytes), memory_(bytes + 3 * guard, 0xff) {
    auto const address = reinterpret_cast<std::uintptr_t>(memory_.data());
    begin_ = memory_.data() + guard + (guard - address % guard) % guard;
  }
  owned_workspace(owned_workspace&&) = default;
  purekv::workspace view() const { return {begin_, bytes_}; }
  purekv::workspace one_byte_less() const { return {begin_, bytes_ - 1}; }
  bool guards_untouched() const {
    auto const intact = [](unsigned char b) { return b == 0xff; };
    return std::all_of(memory_.data(), static_cast<unsigned char const*>(begin_), intact) &&
           std::all_of(static_cast<unsigned char const*>(begin_) + bytes_, memory_.data() + memory_.size(), intact);
  }

 private:
  static constexpr std::size_t guard = 64;
  std::size_t bytes_;
  buffer<unsigned char> memory_;
  unsigned char* begin_;
};

/// What lies behind the length of a head: position 0, which every query would see, NaN values, and keys that are NaN or
/// strongly attractive.
enum class beyond { nan, attractive };

template <class T> struct owned_cache_memory {
  buffer<T> keys, values;
  buffer<std::int32_t> positions;

  owned_cache_memory(std::int64_t key_elements, std::int64_t value_elements, std::int64_t slots, beyond poison)
      : keys(size(key_elements), poison == beyond::nan ? nan_of<T>() : T(3.0f)),
        values(size(value_elements), nan_of<T>()),
        positions(size(slots), 0) {}
  owned_cache_memory(owned_cache_memory&&) = default;
};

template <class T> struct owned_contiguous : owned_cache_memory<T> {
  buffer<std::int32_t> lengths;
  purekv::contiguous_cache<T> view;

  /// value_dim, if not 0: values of another width, in the other order and with other gaps than the keys.
  owned_contiguous(int sequences, int kv_heads, int capacity, int dim, order o = order::head_major, int gap = 0,
                   beyond poison = beyond::nan, int value_dim = 0)
      : owned_cache_memory<T>(elements(strided(sequences, kv_heads, capacity, dim, o, gap)),
                              elements(strided_values(sequences, kv_heads, capacity, dim, o, gap, value_dim)),
                              std::int64_t{sequences} * kv_heads * capacity, poison),
        lengths(size(sequences * kv_heads), 0),
        view(strided(sequences, kv_heads, capacity, dim, o, gap)) {
    if (value_dim != 0) {
      auto const wide = strided_values(sequences, kv_heads, capacity, dim, o, gap, value_dim);
      view.value_dim = value_dim;
      view.value_sequence_stride = wide.sequence_stride;
      view.value_head_stride = wide.head_stride;
      view.value_token_stride = wide.token_stride;
    }
    view.keys = this->keys.data();
    view.values = this->values.data();
    view.positions = this->positions.data();
    view.lengths = lengths.data();
  }

 private:
  static purekv::contiguous_cache<T> strided(int sequences, int kv_heads, int capacity, int dim, order o, int gap) {
    purekv::contiguous_cache<T> c;
    c.sequences = sequences;
    c.kv_heads = kv_heads;
    c.tokens = capacity;
    c.dim = dim;
    std::ptrdiff_t const row = dim + gap;
    c.token_stride = o == order::head_major ? row : row * kv_heads + gap;
    c.head_stride = o == order::head_major ? row * capacity + gap : row;
    c.sequence_stride = o == order::head_major ? c.head_stride * kv_heads + gap : c.token_stride * capacity + gap;
    return c;
  }
  static purekv::contiguous_cache<T> strided_values(int sequences, int kv_heads, int capacity, int dim, order o,
                                                    int gap, int value_dim) {
    if (value_dim == 0) return strided(sequences, kv_heads, capacity, dim, o, gap);
    order const other = o == order::head_major ? order::token_major : order::head_major;
    return strided(sequences, kv_heads, capacity, value_dim, other, gap + 8);
  }
  static std::int64_t elements(purekv::contiguous_cache<T> const& c) {
    if (c.tokens == 0) return 0;
    return (c.sequences - 1) * c.sequence_stride + (c.kv_heads - 1) * c.head_stride + (c.tokens - 1) * c.token_stride +
           c.dim;
  }
};

template <class T> struct owned_ragged : owned_cache_memory<T> {
  buffer<purekv::extent> extents;
  purekv::ragged_cache<T> view;

  /// capacities : [sequences, kv_heads]; `hole` unused slots lie before each extent.
  owned_ragged(int sequences, int kv_heads, std::vector<std::int32_t> const& capacities, int dim, int gap = 0,
               int hole = 0, beyond poison = beyond::nan, int value_dim = 0)
      : owned_cache_memory<T>(elements(slots(capacities, hole), dim, gap),
                              value_dim == 0 ? elements(slots(capacities, hole), dim, gap)
                                             : elements(slots(capacities, hole), value_dim, gap + 8),
                              slots(capacities, hole), poison) {
    std::int64_t begin = 0;
    for (std::int32_t capacity : capacities) {
      begin += hole;
      extents.push_back({begin, 0, capacity});
      begin += capacity;
    }
    view.keys = this->keys.data();
    view.values = this->values.data();
    view.positions = this->positions.data();
    view.extents = extents.data();
    view.sequences = sequences;
    view.kv_heads = kv_heads;
    view.dim = dim;
    view.slots = begin;
    view.token_stride = dim + gap;
    if (value_dim != 0) {
      view.value_dim = value_dim;
      view.value_token_stride = value_dim + gap + 8;
    }
  }

 private:
  static std::int64_t slots(std::vector<std::int32_t> const& capacities, int hole) {
    std::int64_t count = 0;
    for (std::int32_t capacity : capacities) count += capacity + hole;
    return count;
  }
  static std::int64_t elements(std::int64_t slots, int dim, int gap) {
    return slots == 0 ? 0 : (slots - 1) * (dim + gap) + dim;
  }
};

struct owned_selection {
  buffer<std::int64_t> offset;
  buffer<std::int32_t> token;
  purekv::selection view;

  owned_selection(int rows, std::int64_t capacity, purekv::selection_scope scope = purekv::selection_scope::kv_head)
      : offset(untouched_memory<std::int64_t>(rows + 1)), token(untouched_memory<std::int32_t>(capacity)) {
    view = {offset.data(), token.data(), capacity, rows, scope};
  }
  owned_selection(owned_selection&&) = default;
  std::vector<std::int32_t> row(int r) const { return {view.tokens(r), view.tokens(r) + view.count(r)}; }
};

/// Adds a token behind the last one of a head; the caller has seen to the capacity.
template <class C, class Key, class Value>
void push(C const& cache, int sequence, int head, std::int32_t position, Key const& key, Value const& value) {
  using T = typename C::element;
  int const at = cache.length(sequence, head);
  auto const run = cache.run(sequence, head, at);
  for (int c = 0; c < cache.dim; ++c) run.keys[c] = T(key(c));
  for (int c = 0; c < purekv::value_dim_of(cache); ++c) run.values[c] = T(value(c));
  run.positions[0] = position;
  cache.set_length(sequence, head, at + 1);
}

/// Calls f(exec) on `ranks` threads; one rank is the calling thread without any barrier.
template <class F> void on_ranks(int ranks, F&& f) {
  if (ranks == 1) return f(purekv::cpu{});
  static std::map<int, std::unique_ptr<purekv::thread_team>> teams;
  auto& team = teams[ranks];
  if (!team) team = std::make_unique<purekv::thread_team>(ranks);
  team->run(f);
}

/// The status that all ranks agree on; disagreement is an error of its own.
template <class F> purekv::status status_on_ranks(int ranks, F&& f) {
  std::vector<purekv::status> all(size(ranks));
  on_ranks(ranks, [&](purekv::cpu exec) { all[size(exec.rank())] = f(exec); });
  for (purekv::status const& s : all)
    if (s.code != all[0].code) return {purekv::errc::mismatch, "fixtures: the ranks returned different statuses"};
  return all[0];
}

/// A pattern from any function of (head, query position, key position).
template <bool PerHead> struct any_pattern {
  static constexpr bool per_head = PerHead;
  bool (*see)(void const* context, std::int32_t head, std::int32_t q, std::int32_t k);
  void const* context;
  bool visible(std::int32_t head, std::int32_t q, std::int32_t k) const { return see(context, head, q, k); }
};

template <bool PerHead, class F> any_pattern<PerHead> pattern_of(F const& f) {
  return {[](void const* context, std::int32_t head, std::int32_t q, std::int32_t k) -> bool {
            return (*static_cast<F const*>(context))(head, q, k);
          },
          &f};
}

PUREKV_HD inline std::uint64_t hash(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// A random predicate that is constant on blocks of `block` x `block` positions: empty, mixed and full tiles all occur.
struct scattered {
  std::uint64_t seed;
  int percent, block;
  PUREKV_HD bool operator()(std::int32_t head, std::int32_t q, std::int32_t k) const {
    auto const mix = [](std::uint64_t state, std::int32_t x) {
      return hash(state * 31 + static_cast<std::uint32_t>(x));
    };
    return static_cast<int>(mix(mix(mix(seed, head), q / block), k / block) % 100) < percent;
  }
};

}  // namespace fixtures
