// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <purekv/attend.cuh>
#include <purekv/pattern/spatial_temporal.hpp>

using namespace purekv;
using contiguous = contiguous_cache<bfloat16>;
template <class P, int Width> using attention = detail::attend_kernel<P, bfloat16, Width, contiguous, bfloat16>;

KERNEL(attend_dense_64, registers(255), stack(0), shared(59308), attention<dense, 64>)
KERNEL(attend_dense_96, registers(255), stack(0), shared(56876), attention<dense, 96>)
KERNEL(attend_dense_128, registers(255), stack(0), shared(73260), attention<dense, 128>)
KERNEL(attend_dense_256, registers(255), stack(0), shared(69484), attention<dense, 256>)
KERNEL(attend_spatial_temporal_128, registers(255), stack(32), shared(73260), attention<spatial_temporal, 128>)
