// SPDX-License-Identifier: Apache-2.0
#include <purekv/detail/mma_tile.cuh>
// The header under test comes first.
#include "support/simt.hpp"

#include <doctest/doctest.h>
#include <purekv/simt/barrier.hpp>

#include <cmath>

using namespace purekv;

namespace gpu_mma_tile_test {

/// products = q k^T and sums = products v, for one warp of Blocks * 16 rows and 64 keys, of which the last are not
/// there: once a block of 16 rows at a time, once all together.
template <class T, std::int32_t Width, std::int32_t Blocks> struct two_products {
  using tile = detail::mma_tile<T, Width>;
  static constexpr std::int32_t threads = 32, rows = 16 * Blocks, slots = 64;
  static constexpr std::int32_t shared_bytes = tile::bytes(rows + 2 * slots);
  T const *q, *k, *v;      // [rows, dim], [keys, dim], [keys, dim]
  std::int32_t dim, keys;  // keys: of the slots that hold one
  bool together;
  float *products, *sums;  // [rows, slots], [rows, Width]

  PUREKV_DEVICE void operator()() const {
    tile const of_q{simt::shared_memory<T>()}, of_k{simt::shared_memory<T>(tile::bytes(rows))},
        of_v{simt::shared_memory<T>(tile::bytes(rows + slots))};
    std::int32_t const lane = simt::lane_index();
    auto const key_or_none = [&](T const* all) {
      return [this, all](std::int32_t row) -> T const* { return row < keys ? all + row * dim : nullptr; };
    };
    of_q.fetch(rows, dim, lane, threads, [&](std::int32_t row) { return q + row * dim; });
    of_k.fetch(slots, dim, lane, threads, key_or_none(k));
    of_v.fetch(slots, dim, lane, threads, key_or_none(v));
    simt::cp_async_commit();
    simt::cp_async_wait<0>();
    simt::sync();

    simt::c_fragment p[Blocks][slots / 8], s[Blocks][Width / 8];
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < Blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < Width / 8; ++n) s[b][n] = {};
    }
    if (together) {
      detail::multiply_keys<T, Width, slots>([&](std::int32_t b, std::int32_t i) { return of_q.left(b * 16, i * 16); },
                                             of_k, p);
      detail::multiply_values<T, Width, slots>(p, of_v, s);
    } else {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t b = 0; b < Blocks; ++b) {
        simt::a_fragment left[Width / 16];
        PUREKV_DEVICE_UNROLL
        for (std::int32_t i = 0; i < Width / 16; ++i) left[i] = of_q.left(b * 16, i * 16);
        detail::multiply_keys<T, Width, slots>(left, of_k, p[b]);
        detail::multiply_values<T, Width, slots>(p[b], of_v, s[b]);
      }
    }
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < Blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t e = 0; e < 4; ++e) {
        std::int32_t const row = b * 16 + lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < slots / 8; ++n) products[row * slots + n * 8 + column] = p[b][n].at[e];
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < Width / 8; ++n) sums[row * Width + n * 8 + column] = s[b][n].at[e];
      }
    }
  }
};

/// Both products, each sum of n terms within n * 2^-23 of its largest possible partial sum.
template <class T, std::int32_t Width, std::int32_t Blocks>
void check_products(test::random& random, std::int32_t dim, std::int32_t keys) {
  using kernel = two_products<T, Width, Blocks>;
  auto const size = [](std::int32_t n) { return static_cast<std::size_t>(n); };
  std::vector<T> q(size(kernel::rows * dim)), k(size(keys * dim)), v(size(keys * dim));
  random.fill_normal(q);
  random.fill_normal(k);
  random.fill_normal(v);
  test::array<T> const on_device_q(q), on_device_k(k), on_device_v(v);
  for (bool const together : {false, true}) {
    CAPTURE(together);
    test::array<float> const products(size(kernel::rows * kernel::slots), -1), sums(size(kernel::rows * Width), -1);
    test::run({}, size(kernel::shared_bytes),
              kernel{on_device_q.data(), on_device_k.data(), on_device_v.data(), dim, keys, together, products.data(),
                     sums.data()});
    std::int32_t wrong = 0;
    auto const compare = [&](float actual, double expected, double magnitude, std::int32_t terms) {
      if (!(std::abs(actual - expected) <= 0x1p-23 * (terms + 1) * magnitude)) ++wrong;
    };
    for (std::int32_t r = 0; r < kernel::rows; ++r) {
      for (std::int32_t j = 0; j < kernel::slots; ++j) {
        double sum = 0, magnitude = 0;
        for (std::int32_t c = 0; c < dim && j < keys; ++c) {
          double const term =
              double{static_cast<float>(q[size(r * dim + c)])} * static_cast<float>(k[size(j * dim + c)]);
          sum += term;
          magnitude += std::abs(term);
        }
        compare(products[size(r * kernel::slots + j)], sum, magnitude, Width);
      }
      for (std::int32_t c = 0; c < Width; ++c) {
        double sum = 0, magnitude = 0;
        for (std::int32_t j = 0; j < keys && c < dim; ++j) {
          T const weight(products[size(r * kernel::slots + j)]);
          double const term = double{static_cast<float>(weight)} * static_cast<float>(v[size(j * dim + c)]);
          sum += term;
          magnitude += std::abs(term);
        }
        compare(sums[size(r * Width + c)], sum, magnitude, kernel::slots);
      }
    }
    CHECK(wrong == 0);
  }
}

}  // namespace gpu_mma_tile_test

TEST_CASE_TEMPLATE("mma_tile: rows times keys, and what comes of it times values", T, half, bfloat16) {
  SEEDED(random);
  gpu_mma_tile_test::check_products<T, 96, 2>(random, 72, 60);
  gpu_mma_tile_test::check_products<T, 64, 1>(random, 64, 64);
  gpu_mma_tile_test::check_products<T, 128, 2>(random, 8, 1);
}

TEST_CASE("dispatch_width takes the next width that there is") {
  std::int32_t const dims[] = {1, 64, 65, 96, 97, 128, 129, 256}, widths[] = {64, 64, 96, 96, 128, 128, 256, 256};
  for (int i = 0; i < 8; ++i) {
    std::int32_t taken = 0;
    status const s = detail::dispatch_width(dims[i], [&]<std::int32_t Width>() {
      taken = Width;
      return status{};
    });
    CHECK(s.ok());
    CHECK(taken == widths[i]);
  }
}
