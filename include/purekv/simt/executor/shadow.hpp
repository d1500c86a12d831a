// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/executor/report.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail {

/// What happened before what in a block. Every thread has a time of its own and knows, of every other thread, up to
/// which time it has seen it: its row. Barriers merge rows; nothing else orders the accesses of two threads.
class clocks {
 public:
  using time = std::uint32_t;

  /// Nobody has seen anything of the others since the blocks before.
  void begin(std::int32_t threads) {
    threads_ = static_cast<std::size_t>(threads);
    start_ = now_;
    seen_.assign(threads_ * threads_, start_);
    for (std::int32_t t = 0; t < threads; ++t) row(t)[t] = ++now_;
  }

  std::size_t threads() const { return threads_; }
  time start() const { return start_; }
  time own(std::int32_t thread) const { return row(thread)[thread]; }
  bool has_seen(std::int32_t thread, std::int32_t other, time when) const { return when <= row(thread)[other]; }
  time const* row(std::int32_t thread) const { return seen_.data() + static_cast<std::size_t>(thread) * threads_; }

  /// Puts what the thread has seen and done into `meeting`; what it does from now on comes later.
  void give(std::int32_t thread, std::vector<time>& meeting) {
    meeting.resize(threads_, 0);
    merge(meeting.data(), row(thread));
    row(thread)[thread] = ++now_;
  }

  void take(std::int32_t thread, std::vector<time> const& meeting) { merge(row(thread), meeting.data()); }

  bool running_out() const { return now_ > 0xf0000000u; }
  void restart() { now_ = 0; }

 private:
  time* row(std::int32_t thread) { return seen_.data() + static_cast<std::size_t>(thread) * threads_; }
  void merge(time* into, time const* from) const {
    for (std::size_t i = 0; i < threads_; ++i) into[i] = into[i] > from[i] ? into[i] : from[i];
  }

  std::size_t threads_ = 0;
  time now_ = 0, start_ = 0;
  std::vector<time> seen_;  // [threads, threads]
};

/// The last accesses to each shared cell, in the manner of FastTrack (Flanagan and Freund, PLDI 2009): one access where
/// that is enough, one per thread where unordered ones meet.
class shadow {
 public:
  /// Bytes that are watched together: the smallest element that threads write side by side.
  static constexpr std::size_t cell_bytes = 2;

  struct finding {
    bug kind = bug::none;
    char const* what = "";
    std::int32_t other = 0;
    site where = {};
  };

  void begin(std::size_t bytes, clocks& time) {
    if (time.running_out()) {
      time.restart();
      cells_.clear();
    }
    cells_.resize((bytes + cell_bytes - 1) / cell_bytes);
    sets_.clear();
    free_.clear();
  }

  finding read(clocks const& time, std::int32_t thread, std::size_t offset, std::size_t bytes, site where) {
    for (std::size_t i = offset / cell_bytes; i < (offset + bytes + cell_bytes - 1) / cell_bytes; ++i) {
      cell& c = fresh(cells_[i], time);
      if (c.writes.last == 0) return {bug::uninitialised, "", 0, {}};
      if (c.how == access::in_flight) return {bug::in_flight, "", c.writes.thread, c.writes.where};
      if (finding const f = unseen(c.writes, time, thread, "wrote"); f.kind != bug::none) return f;
      add(c.reads, time, thread, where);
    }
    return {};
  }

  finding write(clocks const& time, std::int32_t thread, std::size_t offset, std::size_t bytes, site where) {
    return change(time, thread, offset, bytes, where, access::plain);
  }

  /// An atomic read and write: unordered ones do not race with each other.
  finding atomic(clocks const& time, std::int32_t thread, std::size_t offset, std::size_t bytes, site where) {
    return change(time, thread, offset, bytes, where, access::atomic);
  }

  /// A copy into these cells is issued; land() once its thread has waited for it.
  finding issue(clocks const& time, std::int32_t thread, std::size_t offset, std::size_t bytes, site where) {
    return change(time, thread, offset, bytes, where, access::in_flight);
  }

  void land(clocks const& time, std::int32_t thread, std::size_t offset, std::size_t bytes) {
    for (std::size_t i = offset / cell_bytes; i < (offset + bytes) / cell_bytes; ++i) {
      cells_[i].how = access::plain;
      cells_[i].writes.last = time.own(thread);
    }
  }

 private:
  enum class access : std::uint8_t { plain, atomic, in_flight };

  /// The accesses since the last one that all of them had to see. last 0: none.
  struct accesses {
    site where;
    clocks::time last = 0;
    std::int32_t thread = 0;
    std::uint32_t set = 0;  // 1 + index into sets_ once unordered accesses have met
  };
  struct cell {
    accesses writes, reads;
    clocks::time start = 0;
    access how = access::plain;
  };

  /// A cell that no thread of this block has touched has forgotten the blocks before.
  static cell& fresh(cell& c, clocks const& time) {
    if (c.start != time.start() + 1) c = {{}, {}, time.start() + 1, access::plain};
    return c;
  }

  finding unseen(accesses const& a, clocks const& time, std::int32_t thread, char const* what) const {
    if (a.last == 0) return {};
    if (!time.has_seen(thread, a.thread, a.last)) return {bug::race, what, a.thread, a.where};
    if (a.set == 0) return {};
    clocks::time const* const last = sets_.data() + (a.set - 1) * time.threads();
    clocks::time const* const seen = time.row(thread);
    for (std::size_t t = 0; t < time.threads(); ++t)
      if (last[t] > seen[t]) return {bug::race, what, static_cast<std::int32_t>(t), a.where};
    return {};
  }

  void add(accesses& a, clocks const& time, std::int32_t thread, site where) {
    if (a.set == 0 && a.last != 0 && !time.has_seen(thread, a.thread, a.last)) {
      a.set = empty_set(time.threads());
      sets_[(a.set - 1) * time.threads() + static_cast<std::size_t>(a.thread)] = a.last;
    }
    if (a.set != 0) sets_[(a.set - 1) * time.threads() + static_cast<std::size_t>(thread)] = time.own(thread);
    a.last = time.own(thread);
    a.thread = thread;
    a.where = where;
  }

  void clear(accesses& a) {
    if (a.set != 0) free_.push_back(a.set);
    a = {};
  }

  std::uint32_t empty_set(std::size_t threads) {
    if (free_.empty()) {
      sets_.resize(sets_.size() + threads, 0);
      return static_cast<std::uint32_t>(sets_.size() / threads);
    }
    std::uint32_t const set = free_.back();
    free_.pop_back();
    for (std::size_t t = 0; t < threads; ++t) sets_[(set - 1) * threads + t] = 0;
    return set;
  }

  finding change(clocks const& time, std::int32_t thread, std::size_t offset, std::size_t bytes, site where,
                 access how) {
    for (std::size_t i = offset / cell_bytes; i < (offset + bytes + cell_bytes - 1) / cell_bytes; ++i) {
      cell& c = fresh(cells_[i], time);
      if (c.writes.last != 0 && c.how == access::in_flight)
        return {bug::in_flight, "", c.writes.thread, c.writes.where};
      if (how == access::atomic && c.writes.last == 0) return {bug::uninitialised, "", 0, {}};
      bool const both_atomic = how == access::atomic && c.how == access::atomic;
      if (!both_atomic)
        if (finding const f = unseen(c.writes, time, thread, "wrote"); f.kind != bug::none) return f;
      if (finding const f = unseen(c.reads, time, thread, "read"); f.kind != bug::none) return f;
      // Reads stay where only atomics follow them: the next one has to have seen them too.
      if (how != access::atomic) clear(c.reads);
      if (!both_atomic) clear(c.writes);
      add(c.writes, time, thread, where);
      c.how = how;
    }
    return {};
  }

  std::vector<cell> cells_;
  std::vector<clocks::time> sets_;   // [sets, threads]
  std::vector<std::uint32_t> free_;  // sets that can be used again
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
