// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/head_blocks.cuh>
#include <purekv/detail/mass_queries.cuh>
#include <purekv/detail/mass_unit.cuh>
#include <purekv/simt/warp.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Mass of the keys of one block from the query heads [first_head, first_head + heads) of their group; all threads of
/// the block call run(), and then give_out().
template <Pattern P, simt::Half T, Cache C, std::int32_t Width> struct mass_of_keys {
  using shape = mass_shape<Width>;
  using tile = mma_tile<T, Width>;
  using queries_of = mass_queries<P, T, C>;
  using arithmetic = mass_unit<T, Width>;

  // A unit of 16 columns has one head, so the masses of heads fall apart by themselves. Words say which of 32 keys a
  // column sees: those of all heads are the same unless the pattern tells heads apart.
  static constexpr std::int32_t words = shape::keys / 32, fragments = arithmetic::fragments,
                                row_sums = arithmetic::row_sums;

  static constexpr std::int32_t lse_at = shape::stages * tile::bytes(shape::columns);
  static constexpr std::int32_t words_at = lse_at + shape::stages * shape::columns * 4;
  static constexpr std::int32_t positions_at = words_at + shape::columns * words * 4;
  static constexpr std::int32_t pieces_at = positions_at + shape::keys * 4;
  static constexpr std::int32_t counts_at = pieces_at + shape::threads * static_cast<std::int32_t>(sizeof(mass_piece));
  static constexpr std::int32_t sums_at = counts_at + 16 * shape::warps;
  /// Shared memory for so many rows of masses.
  static constexpr std::int32_t bytes(std::int32_t rows) { return sums_at + rows * shape::keys * 4; }
  static_assert(sums_at + mass_heads * shape::keys * 4 <= 99 * 1024, "mass: every device gives a block so much");

  queries_of const& queries;
  C const& cache;
  logit_rule rule;
  float const* lse;
  std::ptrdiff_t lse_stride;
  mass_reduction by;
  bool per_head;  // a row of masses for each head, or one for all
  std::int32_t first_head, heads;
  std::int32_t split, splits;  // this block has every `splits`th piece of queries
  mass_key_block keys;

  PUREKV_DEVICE mass_of_keys(queries_of const& of, C const& in, mass_key_block const& block)
      : queries(of), cache(in), keys(block) {}

  static PUREKV_DEVICE mass_key_block block_of(head_block const& at, std::int32_t length) {
    std::int32_t const first = static_cast<std::int32_t>(at.first);
    return {at.sequence, at.head, first, smaller(shape::keys, length - first),
            simt::shared_memory<std::int32_t>(positions_at)};
  }

  PUREKV_DEVICE void run() const {
    simt::a_fragment left[fragments][Width / 16];
    start_keys();
    auto const selected = queries.select(keys);
    std::int32_t const candidates = queries.candidates(selected);
    std::int32_t listed = list_pieces(selected, 0, candidates);  // while the keys are on their way
    take_keys(left);
    for (std::int32_t base = shape::threads * splits;; base += shape::threads * splits) {
      add_pieces(left, listed);
      if (base >= candidates) return;
      listed = list_pieces(selected, base, candidates);
    }
  }

  /// to(row)[key] = mass, row counted from 0, for the keys of the block.
  template <class To> PUREKV_DEVICE void give_out(To const& to) const {
    if (quarter() >= row_sums || own_key() >= keys.count) return;
    for (std::int32_t row = 0; row < (per_head ? heads : 1); ++row)
      to(row)[own_key()] = sums().load(row * shape::keys + own_key());
  }

 private:
  PUREKV_DEVICE static tile stage(std::int32_t i) { return {simt::shared_memory<T>(i * tile::bytes(shape::columns))}; }
  PUREKV_DEVICE static simt::shared<float> stage_lse(std::int32_t i) {
    return simt::shared_memory<float>(lse_at) + i * shape::columns;
  }
  PUREKV_DEVICE static simt::shared<std::uint32_t> seen_words() { return simt::shared_memory<std::uint32_t>(words_at); }
  PUREKV_DEVICE static simt::shared<mass_piece> pieces() { return simt::shared_memory<mass_piece>(pieces_at); }
  PUREKV_DEVICE static simt::shared<float> sums() { return simt::shared_memory<float>(sums_at); }

  /// A lane ends up with the mass of one key: of the rows lane / 4 + 8 i that its quad shares, that of i = lane % 4.
  PUREKV_DEVICE static std::int32_t quarter() { return arithmetic::quarter(); }
  PUREKV_DEVICE static std::int32_t own_key() {
    return simt::warp_index() * shape::warp_keys + quarter() * 8 + simt::lane_index() / 4;
  }

  /// Positions are there after it, keys once they have been waited for.
  PUREKV_DEVICE void start_keys() const {
    std::int32_t const thread = simt::thread_index();
    stage(0).fetch(shape::keys, cache.dim, thread, shape::threads, [&](std::int32_t key) -> T const* {
      return key < keys.count ? cache.run(keys.sequence, keys.kv_head, keys.first + key).keys : nullptr;
    });
    simt::cp_async_commit();
    for (std::int32_t k = thread; k < keys.count; k += shape::threads)
      keys.positions.store(k, *cache.run(keys.sequence, keys.kv_head, keys.first + k).positions);
    for (std::int32_t i = thread; i < (per_head ? heads : 1) * shape::keys; i += shape::threads) sums().store(i, 0);
    simt::sync();
  }

  PUREKV_DEVICE void take_keys(simt::a_fragment (&left)[fragments][Width / 16]) const {
    simt::cp_async_wait<0>();
    simt::sync();
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < fragments; ++i) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t k = 0; k < Width / 16; ++k)
        left[i][k] = stage(0).left(simt::warp_index() * shape::warp_keys + i * 16, k * 16);
    }
    simt::sync();
  }

  /// Each thread looks at one candidate; those that see a key of the block are listed in order. How many there are.
  PUREKV_DEVICE std::int32_t list_pieces(typename queries_of::selected const& selected, std::int32_t base,
                                         std::int32_t candidates) const {
    simt::shared<std::int32_t> const counts = simt::shared_memory<std::int32_t>(counts_at);
    std::int32_t const candidate = base + simt::thread_index() * splits + split;
    mass_piece piece{0, 0, 0, 0};
    if (candidate < candidates) piece = queries.piece(selected, candidate, keys);
    std::uint32_t const found = simt::ballot(piece.count > 0);
    if (simt::lane_index() == 0) counts.store(simt::warp_index(), __builtin_popcount(found));
    simt::sync();
    std::int32_t before = 0, all = 0;
    for (std::int32_t w = 0; w < shape::warps; ++w) {
      std::int32_t const count = counts.load(w);
      if (w < simt::warp_index()) before += count;
      all += count;
    }
    std::uint32_t const lower = (std::uint32_t{1} << simt::lane_index()) - 1;
    if (piece.count > 0) pieces().store(before + __builtin_popcount(found & lower), piece);
    simt::sync();
    return all;
  }

  /// 16 queries of a head: the unit number `unit` of a piece, of which every head has `units`.
  struct place {
    std::int32_t head, unit;

    PUREKV_DEVICE void advance(std::int32_t units) {
      if (++unit < units) return;
      unit = 0;
      ++head;
    }
  };

  /// Up to 64 columns: units of a piece from `first` on, head after head.
  struct step {
    std::int32_t listed;
    place first;
    mass_piece piece;

    PUREKV_DEVICE std::int32_t units_of_head() const { return (piece.count + shape::unit - 1) / shape::unit; }
  };

  PUREKV_DEVICE std::int32_t units_of(step const& s) const {
    return smaller(shape::units, (heads - s.first.head) * s.units_of_head() - s.first.unit);
  }

  PUREKV_DEVICE step after(step s, std::int32_t listed) const {
    std::int32_t const of_head = s.units_of_head();
    for (std::int32_t u = 0; u < shape::units; ++u) s.first.advance(of_head);
    if (s.first.head < heads) return s;
    s.first = {0, 0};
    if (++s.listed < listed) s.piece = pieces().load(s.listed);
    return s;
  }

  PUREKV_DEVICE std::int32_t query_head(std::int32_t head) const {
    return keys.kv_head * queries.group + first_head + head;
  }

  PUREKV_DEVICE void add_pieces(simt::a_fragment const (&left)[fragments][Width / 16], std::int32_t listed) const {
    if (listed == 0) return;
    step now{0, {0, 0}, pieces().load(0)};
    fetch(now, 0);
    simt::cp_async_commit();
    for (std::int32_t i = 0; now.listed < listed; ++i) {
      step const next = after(now, listed);
      if (next.listed < listed) fetch(next, (i + 1) % shape::stages);
      simt::cp_async_commit();
      bool const first = now.first.head == 0 && now.first.unit == 0;
      if (now.piece.run != mass_piece::all && (is_per_head<P>() || first)) look(now);
      simt::cp_async_wait<1>();
      simt::sync();
      add(left, now, i % shape::stages);
      simt::sync();
      now = next;
    }
  }

  /// Starts to copy the queries of a step, and their lse; columns without a query weigh nothing. The caller commits.
  PUREKV_DEVICE void fetch(step const& s, std::int32_t to) const {
    std::int32_t const thread = simt::thread_index(), of_head = s.units_of_head(), units = units_of(s);
    place at = s.first;
    for (std::int32_t u = 0; u < units; ++u, at.advance(of_head)) {
      std::int32_t const head = query_head(at.head), query = s.piece.first + at.unit * shape::unit;
      std::int32_t const count = s.piece.count - at.unit * shape::unit;
      T const* const rows = queries.q.rows.row(head, query);
      std::ptrdiff_t const stride = queries.q.rows.token_stride;
      tile{stage(to).at(u * shape::unit, 0)}.fetch(
          shape::unit, cache.dim, thread, shape::threads,
          [&](std::int32_t row) -> T const* { return row < count ? rows + row * stride : nullptr; });
      std::int32_t const column = thread - u * shape::unit;
      if (column < 0 || column >= shape::unit) continue;
      if (column < count)
        simt::cp_async<4>(stage_lse(to) + thread, lse + head * lse_stride + query + column);
      else
        stage_lse(to).store(thread, -hidden_logit);
    }
  }

  /// Says for every column of a step, or where heads see the same for every query of its piece, which keys it sees.
  PUREKV_DEVICE void look(step const& s) const {
    for (std::int32_t i = simt::thread_index(); i < shape::columns * words; i += shape::threads) {
      std::int32_t const column = i / words, from = i % words * 32;
      std::int32_t head = 0, query = column;
      if constexpr (is_per_head<P>()) {
        std::int32_t const of_head = s.units_of_head(), unit = s.first.unit + column / shape::unit;
        head = s.first.head + unit / of_head;
        query = unit % of_head * shape::unit + column % shape::unit;
      }
      bool const used = head < heads && query < s.piece.count;
      seen_words().store(i, used ? queries.seen(s.piece, s.piece.first + query, query_head(head), keys, from) : 0);
    }
  }

  PUREKV_DEVICE void add(simt::a_fragment const (&left)[fragments][Width / 16], step const& s,
                         std::int32_t from) const {
    std::int32_t const of_head = s.units_of_head(), units = units_of(s);
    bool const masked = s.piece.run != mass_piece::all;
    float own[row_sums] = {};
    place at = s.first;
    for (std::int32_t u = 0; u < units; ++u) {
      std::uint32_t visible[4] = {};
      if (!masked || look_up((is_per_head<P>() ? u : at.unit) * shape::unit, visible)) {
        simt::c_fragment shares[fragments][2];
        arithmetic::multiply(left, stage(from), u * shape::unit, shares);
        arithmetic::weigh(shares, stage_lse(from) + u * shape::unit, rule);
        if (masked) arithmetic::hide(shares, visible);
        arithmetic::gather(shares, own, by);
      }
      std::int32_t const row = per_head ? at.head : 0;
      at.advance(of_head);
      if (u + 1 == units || (per_head && at.head != row)) flush(own, row);
    }
  }

  /// The visible keys of this warp for the four columns of this lane, from bit 0 on; false: no lane has any.
  PUREKV_DEVICE bool look_up(std::int32_t first, std::uint32_t (&visible)[4]) const {
    std::int32_t const key = simt::warp_index() * shape::warp_keys;
    std::uint32_t some = 0;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t x = 0; x < 4; ++x) {
      std::uint32_t const word = seen_words().load((first + arithmetic::column_of(x)) * words + key / 32) >> key % 32;
      visible[x] = word;
      some |= word;
    }
    return simt::any((some & (~0u >> (32 - shape::warp_keys))) != 0);
  }

  /// Adds what the lanes of a quad have to a row of masses, and starts anew. A key belongs to the same lane throughout.
  PUREKV_DEVICE void flush(float (&own)[row_sums], std::int32_t row) const {
    float mine = 0;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t j = 0; j < row_sums; ++j) {
      float all = own[j];
      all = join_mass(all, simt::shuffle_xor(all, 1), by);
      all = join_mass(all, simt::shuffle_xor(all, 2), by);
      if (quarter() == j) mine = all;
      own[j] = 0;
    }
    if (quarter() >= row_sums) return;
    std::int32_t const at = row * shape::keys + own_key();
    sums().store(at, join_mass(sums().load(at), mine, by));
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
