// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/received_mass.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(head, t) = max_i A(i, t): the largest attention probability that any query gives token t, per query head.
/// For queries i that repeat the context it says how much the context's words need t to be told again, whatever will be
/// asked. Score the context's tokens only, with the repeated queries and their lse as evidence, and fold the chunks of
/// a repetition by maximum: see reconstruct.hpp. Scores are probabilities, so they compare between layers and heads;
/// one budget for the whole model (across_model) is what makes them work. KVzip, arXiv 2505.23416.
struct reconstruction : detail::received_mass<all_queries, mass_reduction::maximum> {};

static_assert(Estimator<reconstruction>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
