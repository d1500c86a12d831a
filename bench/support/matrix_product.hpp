// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace machine {

/// Float operations per second of Eigen's product of matrices that fit the second-level cache together. Where a
/// neighbour takes half of that cache this falls, and multiply_add_rate() does not.
double matrix_product_rate();

}  // namespace machine
