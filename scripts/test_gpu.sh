#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that needs a GPU, on a machine that has one: builds the tests of kernels for it, runs all of them, once more
# under compute-sanitizer where that is installed, and then the benchmarks.
#   scripts/test_gpu.sh                 all of it
#   scripts/test_gpu.sh --no-sanitizer  without compute-sanitizer, which takes long
#   scripts/test_gpu.sh --no-bench      without the benchmarks
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

sanitize=1 bench=1
for argument in "$@"; do
  case $argument in
    --no-sanitizer) sanitize=0 ;;
    --no-bench) bench=0 ;;
    *) die "what is $argument?" ;;
  esac
done

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null) || die "no nvcc"
need_build_tools doctest-dev libeigen3-dev libbenchmark-dev

build=$root/build/test-gpu
heading "Building for this machine's GPU"
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$CXX" -DCMAKE_CUDA_COMPILER="$nvcc" \
  -DCMAKE_CUDA_ARCHITECTURES=native -DPUREKV_CUDA=ON -DPUREKV_TESTS=ON -DPUREKV_BENCH=OFF -DPUREKV_EXAMPLES=OFF
cmake --build "$build" --parallel "$(nproc)" --target gpu_tests

heading "Testing"
PUREKV_REQUIRE_GPU=1 ctest --test-dir "$build" -L gpu --output-on-failure --no-tests=error

sanitizer=$(command -v compute-sanitizer || ls "$(dirname "$nvcc")/compute-sanitizer" 2> /dev/null || true)
if [ $sanitize = 1 ] && [ -z "$sanitizer" ]; then heading "No compute-sanitizer: left out"; fi
if [ $sanitize = 1 ] && [ -n "$sanitizer" ]; then
  for tool in memcheck racecheck initcheck synccheck; do
    for test in "$build"/tests/gpu/nvcc_test_*; do
      [ -x "$test" ] || continue
      heading "$tool of $(basename "$test")"
      PUREKV_REQUIRE_GPU=1 "$sanitizer" --tool "$tool" --error-exitcode 1 "$test"
    done
  done
fi

if [ $bench = 1 ]; then "$root/scripts/bench_gpu.sh"; fi
