// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/atomic.hpp>
#include <purekv/simt/barrier.hpp>
#include <purekv/simt/launch.hpp>
#include <purekv/violation.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The threads of a block that look through a row together.
class row_search {
 public:
  static constexpr std::int32_t threads = 256, shared_bytes = 4;

  /// The first i of [0, n) for which bad(i), in every thread; -1 if there is none.
  template <class F> PUREKV_DEVICE std::int64_t first(std::int64_t n, F const& bad) const {
    simt::shared<std::uint32_t> const found = simt::shared_memory<std::uint32_t>();
    std::int64_t mine = simt::thread_index();
    while (mine < n && !bad(mine)) mine += threads;
    simt::sync();
    if (simt::thread_index() == 0) found.store(0, nowhere);
    simt::sync();
    if (mine < n) simt::atomic_min(found, static_cast<std::uint32_t>(mine));
    simt::sync();
    std::uint32_t const at = found.load(0);
    return at == nowhere ? std::int64_t{-1} : std::int64_t{at};
  }

  /// The same for positions that must not be negative and ascend strictly.
  PUREKV_DEVICE std::int64_t first_descent(std::int64_t n, std::int32_t const* positions) const {
    return first(n, [&](std::int64_t i) { return positions[i] <= (i > 0 ? positions[i - 1] : -1); });
  }

 private:
  static constexpr std::uint32_t nowhere = ~0u;
};

// A claim is about `rows()` rows, of which a block looks at one: first_of(row, search) is what it finds first.

struct forget_violation {
  static constexpr std::int32_t threads = 32;
  violation* out;

  PUREKV_DEVICE void operator()() const {
    if (simt::thread_index() != 0) return;
    *out = {};
    out->row = ~0u;
  }
};

/// Finds the first row that breaks the claim.
template <class Claim> struct search_rows {
  static constexpr std::int32_t threads = row_search::threads;
  Claim claim;
  violation* out;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const row = simt::block_index().x;
    violation const found = claim.first_of(row, row_search{});
    if (found.broken != violation::rule::none && simt::thread_index() == 0)
      simt::atomic_min(&out->row, static_cast<std::uint32_t>(row));
  }
};

/// Looks at that row once more and writes what it finds.
template <class Claim> struct report_row {
  static constexpr std::int32_t threads = row_search::threads;
  Claim claim;
  violation* out;

  PUREKV_DEVICE void operator()() const {
    std::uint32_t const row = out->row;
    simt::sync();
    if (row == ~0u) return;
    violation found = claim.first_of(static_cast<std::int32_t>(row), row_search{});
    found.row = row;
    if (simt::thread_index() == 0) *out = found;
  }
};

template <class Claim> status find_violation(simt::stream stream, Claim const& claim, violation* out) {
  std::int64_t const rows = claim.rows();
  if (rows > INT32_MAX) return {errc::bad_shape, "validate: more than 2^31 - 1 rows"};
  if (status const s = simt::launch({}, 0, stream, forget_violation{out}); !s.ok()) return s;
  if (status const s = simt::launch({.x = static_cast<std::int32_t>(rows)}, row_search::shared_bytes, stream,
                                    search_rows<Claim>{claim, out});
      !s.ok())
    return s;
  return simt::launch({}, row_search::shared_bytes, stream, report_row<Claim>{claim, out});
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
