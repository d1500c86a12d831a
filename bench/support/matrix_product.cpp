// SPDX-License-Identifier: Apache-2.0
#include "matrix_product.hpp"

#include "machine.hpp"

#include <Eigen/Core>

namespace machine {

double matrix_product_rate() {
  constexpr Eigen::Index n = 192;  // three matrices of 144 KiB
  static Eigen::MatrixXf const a = Eigen::MatrixXf::Random(n, n), b = Eigen::MatrixXf::Random(n, n);
  static Eigen::MatrixXf c(n, n);
  constexpr int rounds = 24;
  c.noalias() = a * b;
  double const start = seconds();
  for (int r = 0; r < rounds; ++r) c.noalias() += a * b;
  double const time = seconds() - start;
  sink = c(0, 0);
  return 2.0 * n * n * n * rounds / time;
}

}  // namespace machine
