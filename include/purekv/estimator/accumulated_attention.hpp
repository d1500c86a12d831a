// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/received_mass.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(head, t) = sum_i A(i, t): the attention probability that token t got from all queries, per query head. A
/// column sum favours old tokens, which more queries could see. H2O, arXiv 2306.14048.
struct accumulated_attention : detail::received_mass<all_queries> {};

static_assert(Estimator<accumulated_attention>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
