// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/one_value.hpp>
#include <purekv/detail/pattern.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// A pattern that is chosen at run time: visible(head, q, k) = the alternative that it holds shows it.
///
/// A host that offers several patterns compiles the kernels once, and the layers of a model may differ in theirs. It
/// plans, tile for tile and run for run, what its alternative plans: only where some alternatives look at heads
/// (per_head) does every KV head get a plan of its own under the others too; and one without `runs`, among others that
/// have them, is one partly visible run of everything, asked pair by pair. As large as its largest alternative.
template <Pattern... Alternatives> class one_of {
  using value = detail::one_value<Alternatives...>;

  static_assert(value::all_differ, "one_of: an alternative is listed twice");
  static_assert(((detail::tile_rows<Alternatives>() == detail::tile_rows<typename value::type>()) && ...),
                "one_of: the alternatives want different tile_rows, which are chosen before the program runs");

 public:
  static constexpr std::int32_t tile_rows = detail::tile_rows<typename value::type>();
  static constexpr bool per_head = (detail::is_per_head<Alternatives>() || ...);

  /// Holds the first alternative as it stands.
  PUREKV_HD constexpr one_of() requires std::default_initializable<typename value::type>
      : one_of(typename value::type{}) {}

  template <class P>
  requires(std::same_as<P, Alternatives> || ...) PUREKV_HD constexpr one_of(P const& pattern)
      : value_(pattern), index_(value::template index_of<P>()) {}

  /// f(the alternative that it holds); every alternative must give a result of the same type.
  PUREKV_CALLS template <class F> PUREKV_HD constexpr auto visit(F const& f) const { return value_.visit(index_, f); }

  PUREKV_HD bool visible(std::int32_t head, std::int32_t q, std::int32_t k) const {
    return visit([&](auto const& p) { return p.visible(head, q, k); });
  }

  PUREKV_HD std::int32_t last_visible(std::int32_t q) const requires((detail::looks_ahead<Alternatives>() || ...)) {
    return visit([&](auto const& p) { return detail::last_visible(p, q); });
  }

  PUREKV_CALLS template <class F>
  PUREKV_HD void runs(std::int32_t h_first, std::int32_t h_last, std::int32_t q_first, std::int32_t q_last,
                      F const& emit) const requires((detail::has_runs_by_head<Alternatives>() || ...)) {
    visit(runs_by_head<F>{h_first, h_last, q_first, q_last, emit});
  }
  PUREKV_CALLS template <class F>
  PUREKV_HD void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const
      requires((detail::has_runs<Alternatives>() || ...)) {
    visit(runs_of_all<F>{q_first, q_last, emit});
  }

  PUREKV_HD std::int32_t tile_end(std::int32_t q) const requires((detail::has_tile_end<Alternatives>() || ...)) {
    return visit([&](auto const& p) -> std::int32_t {
      if constexpr (requires { p.tile_end(q); }) return p.tile_end(q);
      return INT32_MAX;
    });
  }

  PUREKV_HD status check(std::int32_t last) const {
    return visit([&](auto const& p) -> status {
      if constexpr (requires { p.check(last); }) return p.check(last);
      return {};
    });
  }

  PUREKV_HD status check_heads(std::int32_t heads) const {
    return visit([&](auto const& p) -> status {
      if constexpr (requires { p.check_heads(heads); }) return p.check_heads(heads);
      return {};
    });
  }

 private:
  // Not lambdas, of which nvcc would believe that they are the host's if `emit` is.
  template <class F> struct runs_by_head {
    std::int32_t h_first, h_last, q_first, q_last;
    F const& emit;

    PUREKV_CALLS template <class P> PUREKV_HD void operator()(P const& p) const {
      if constexpr (detail::has_runs<P>())
        detail::runs_of(p, h_first, h_last, q_first, q_last, emit);
      else
        emit(std::int32_t{0}, detail::last_visible(p, q_last), false);
    }
  };
  template <class F> struct runs_of_all {
    std::int32_t q_first, q_last;
    F const& emit;

    PUREKV_CALLS template <class P> PUREKV_HD void operator()(P const& p) const {
      if constexpr (requires { p.runs(q_first, q_last, emit); })
        p.runs(q_first, q_last, emit);
      else
        emit(std::int32_t{0}, detail::last_visible(p, q_last), false);
    }
  };

  value value_;
  std::int32_t index_;
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
