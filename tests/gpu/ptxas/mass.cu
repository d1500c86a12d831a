// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <purekv/mass.cuh>
#include <purekv/pattern/dense.hpp>

using namespace purekv;
using contiguous = contiguous_cache<bfloat16>;
template <int Width> using blocks = detail::mass_blocks<dense, bfloat16, contiguous, Width>;

KERNEL(mass_64, registers(255), stack(0), shared(23104), blocks<64>)
KERNEL(mass_128, registers(255), stack(0), shared(39488), blocks<128>)
KERNEL(mass_256, registers(255), stack(0), shared(71232), blocks<256>)
