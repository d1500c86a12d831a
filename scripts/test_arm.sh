#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles for 64-bit ARM the tests that see vector code, and runs them under qemu; installs what that needs.
#   scripts/test_arm.sh [ctest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_packages cmake ninja-build g++-aarch64-linux-gnu qemu-user doctest-dev libeigen3-dev

build=$root/build/arm
# attend alone takes as long as these: odr compares it too
tests=(dispatch float16 convert primitive detail/simd detail/softmax detail/lane_vectors odr decode mass moments score compact
  select estimator/key_norm estimator/window_attention estimator/value_weighted)

heading "Configuring $build"
cmake -S "$root" --preset dev -B "$build" -DCMAKE_TOOLCHAIN_FILE="$root/cmake/aarch64-linux-gnu.cmake" -DPUREKV_NATIVE=OFF \
  -DPUREKV_EXAMPLES=OFF -DPUREKV_GPU_TESTS=OFF
heading "Building with $(nproc) jobs"
targets=("${tests[@]/#/test_}")
cmake --build "$build" --parallel "$(nproc)" --target "${targets[@]//\//_}"
heading "Testing"
ctest --test-dir "$build" --parallel "$(nproc)" --output-on-failure --no-tests=error \
  -R "^($(IFS='|'; printf '%s' "${tests[*]}"))\$" "$@"
