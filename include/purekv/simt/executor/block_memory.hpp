// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/executor/block_report.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail {

// What the threads of a block do to shared memory.

inline void block::check_alignment(void const* address, std::size_t alignment, char const* what, site where) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment == 0) return;
  fail(bug::misaligned, where,
       [&] { return sentence("thread ", current_, ": ", what, " is not a multiple of ", alignment, " bytes"); });
}

inline void block::check_bounds(std::ptrdiff_t offset, std::size_t bytes, char const* does, std::int32_t thread,
                                site where) {
  if (offset >= 0 && static_cast<std::size_t>(offset) + bytes <= shared_bytes_) return;
  fail(bug::out_of_bounds, where, [&] {
    return sentence("thread ", thread, " ", does, " ", bytes, " bytes at ", offset, " of ", shared_bytes_,
                    " bytes of shared memory");
  });
}

inline void block::touch(access how, std::int32_t thread, void const* address, std::size_t bytes, std::size_t alignment,
                         site where) {
  std::ptrdiff_t const offset = static_cast<char const*>(address) - shared_;
  std::size_t const begin = static_cast<std::size_t>(offset);
  char const* const does = how == access::read ? "reads" : how == access::write ? "writes" : "changes";
  check_bounds(offset, bytes, does, thread, where);
  check_alignment(address, alignment, "an address in shared memory", where);
  if (!watch_) return;
  accept(how == access::read    ? shadow_.read(time_, thread, begin, bytes, where)
         : how == access::write ? shadow_.write(time_, thread, begin, bytes, where)
                                : shadow_.atomic(time_, thread, begin, bytes, where),
         does, thread, begin, bytes, where);
}

inline void block::accept(shadow::finding const& f, char const* does, std::int32_t thread, std::size_t offset,
                          std::size_t bytes, site where) {
  if (f.kind == bug::none) return;
  fail(f.kind, where, [&] {
    std::string const text = sentence("thread ", thread, " ", does, " shared bytes ", offset, "-", offset + bytes - 1);
    if (f.kind == bug::uninitialised) return sentence(text, ", which this block has not written");
    if (f.kind == bug::in_flight)
      return sentence(text, ", where the cp.async of thread ", f.other, " at ", f.where, " has not been waited for");
    return sentence(text, ", which thread ", f.other, " ", f.what, " at ", f.where, ", with no barrier between");
  });
}

inline void block::copy(void* to, void const* from, std::size_t bytes, std::size_t given, site where) {
  std::ptrdiff_t const offset = static_cast<char const*>(to) - shared_;
  std::size_t const begin = static_cast<std::size_t>(offset);
  check_alignment(from, bytes, "the source of a cp.async", where);
  check_bounds(offset, bytes, "copies", current_, where);
  check_alignment(to, bytes, "the target of a cp.async", where);
  if (watch_) accept(shadow_.issue(time_, current_, begin, bytes, where), "copies to", current_, begin, bytes, where);
  thread_state& self = threads_[at(current_)];
  pending_copy& c = self.copies.emplace_back(pending_copy{self.groups, begin, bytes, {}});
  if (given > 0) std::memcpy(c.data, from, given < bytes ? given : bytes);
}

inline void block::wait_for_copies(std::uint64_t groups_left) {
  thread_state& self = threads_[at(current_)];
  std::size_t done = 0;
  for (; done < self.copies.size() && self.copies[done].group + groups_left < self.groups; ++done) {
    pending_copy const& c = self.copies[done];
    std::memcpy(shared_ + c.offset, c.data, c.bytes);
    if (watch_) shadow_.land(time_, current_, c.offset, c.bytes);
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
