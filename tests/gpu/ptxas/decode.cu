// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <purekv/decode.cuh>
#include <purekv/merge.cuh>

using namespace purekv;
using ragged = ragged_cache<bfloat16>;
template <int Width> using part = detail::decode_part_of_head<dense, bfloat16, ragged, Width>;

KERNEL(decode_part_64, registers(255), stack(8), shared(37904), part<64>)
KERNEL(decode_part_128, registers(255), stack(8), shared(70672), part<128>)
KERNEL(decode_part_256, registers(255), stack(16), shared(68112), part<256>)
KERNEL(decode_plan, registers(128), stack(0), shared(1056), detail::plan_decode<dense, bfloat16, ragged>)
KERNEL(decode_merge, registers(128), stack(0), shared(4096), detail::merge_decode<bfloat16, ragged, bfloat16>)
KERNEL(decode_mass, registers(128), stack(0), shared(0), detail::decode_mass<dense, bfloat16, ragged>)
