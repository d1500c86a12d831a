// SPDX-License-Identifier: Apache-2.0
#include "kernels.hpp"
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/float16.hpp>

#include <cmath>

using namespace purekv;

TEST_CASE("a scan: warps by shuffles, the block by shared memory") {
  SEEDED(random);
  using kernels::scan_rows;
  for (std::int32_t n : {0, 1, 31, 127, 128, 129, 1000}) {
    CAPTURE(n);
    std::int32_t const rows = 3;
    test::array<float> x(static_cast<std::size_t>(rows * n)), sum(static_cast<std::size_t>(rows * n), 1e30f);
    for (float& y : x) y = random.normal();
    test::run({rows, 1, 1}, scan_rows::shared_bytes, scan_rows{x.data(), sum.data(), n});
    std::size_t i = 0;
    for (std::int32_t r = 0; r < rows; ++r) {
      double total = 0, magnitude = 0;
      for (std::int32_t j = 0; j < n; ++j, ++i) {
        total += static_cast<double>(x[i]);
        magnitude += std::abs(static_cast<double>(x[i]));
        // Every sum goes through at most 5 + 4 + n / 128 * 4 additions.
        REQUIRE(std::abs(static_cast<double>(sum[i]) - total) <= (9 + n / 32) * 0x1p-24 * magnitude);
      }
    }
  }
}

TEST_CASE_TEMPLATE("a matrix product: cp.async, ldmatrix, mma", T, half, bfloat16) {
  SEEDED(random);
  using kernel = kernels::matrix_product<T>;
  struct shape {
    std::int32_t rows, columns, depth;
  };
  for (shape const s : {shape{1, 8, 8}, {64, 64, 32}, {64, 64, 64}, {63, 56, 24}, {65, 72, 40}, {130, 136, 104}}) {
    CAPTURE(s.rows);
    CAPTURE(s.columns);
    CAPTURE(s.depth);
    std::size_t const m = static_cast<std::size_t>(s.rows), n = static_cast<std::size_t>(s.columns),
                      depth = static_cast<std::size_t>(s.depth);
    test::array<T> a(m * depth), b(depth * n);
    for (T& x : a) x = T(random.normal());
    for (T& x : b) x = T(random.normal());
    test::array<float> c(m * n, 1e30f);
    test::run(kernel::size(s.rows, s.columns), kernel::shared_bytes,
              kernel{a.data(), b.data(), c.data(), s.rows, s.columns, s.depth});
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        double sum = 0, magnitude = 0;
        for (std::size_t k = 0; k < depth; ++k) {
          double const term = static_cast<double>(static_cast<float>(a[i * depth + k])) *
                              static_cast<double>(static_cast<float>(b[k * n + j]));
          sum += term;
          magnitude += std::abs(term);
        }
        // Each step of 16 truncates its 17 terms at 2^-23 of the largest, at most the sum of all.
        REQUIRE(std::abs(static_cast<double>(c[i * n + j]) - sum) <= (s.depth / 16 + 2) * 36 * 0x1p-23 * magnitude);
      }
  }
}
