#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests need where it is missing, builds them and runs every one.
#   scripts/test.sh [--preset release|dev|asan|clang] [--only "NAME..."] [ctest arguments]      CXX chooses the compiler;
#   --only builds and runs some tests of ctest's list.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset=release only=()
if [ "${1:-}" = --preset ]; then
  preset=${2:?--preset needs a name}
  shift 2
fi
if [ "${1:-}" = --only ]; then
  read -rd "" -a only <<< "${2:?--only needs names}" || true
  shift 2
fi
if [ "$preset" = clang ]; then CXX=${CXX:-clang++}; fi

packages=(doctest-dev libeigen3-dev libbenchmark-dev)
case $preset/$(basename "${CXX:-g++}") in
  asan/clang++) packages+=(libclang-rt-dev) ;;
  asan/clang++-*) packages+=("libclang-rt-${CXX##*-}-dev") ;;
esac
need_build_tools "${packages[@]}"

# A build directory per preset and compiler, the ones that the presets name where they can be.
name=$(basename "$CXX")
case $preset/$name in
  release/clang++ | clang/clang++) preset=clang build=$root/build/clang ;;
  */g++) build=$root/build/$preset ;;
  *) build=$root/build/$preset-$name ;;
esac

# The kernels run on a simulated device everywhere; nvcc compiles them too where it is, once.
options=()
if [ "$preset/$name" = release/g++ ]; then
  nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null || true)
  if [ -n "$nvcc" ]; then
    options+=(-DPUREKV_CUDA=ON -DCMAKE_CUDA_COMPILER="$nvcc")
    # ctest -R nvcc/ptxas compiles the kernels as they are shipped, with a GPU or without.
    [ -e /dev/nvidiactl ] || options+=(-DPUREKV_CUDA_PROGRAMS=OFF)
  else
    heading "No nvcc: the kernels' tests are not compiled for a GPU"
  fi
fi

heading "Configuring $build"
cmake -S "$root" --preset "$preset" -B "$build" -DCMAKE_CXX_COMPILER="$CXX" "${options[@]}"
heading "Building with $(nproc) jobs"
targets=() chosen=()
if [ ${#only[@]} -gt 0 ]; then
  targets=("${only[@]/#/test_}")
  targets=(--target "${targets[@]//\//_}")
  chosen=(-R "^($(IFS='|'; printf '%s' "${only[*]}"))\$")
fi
cmake --build "$build" --parallel "$(nproc)" "${targets[@]}"
heading "Testing"
ctest --test-dir "$build" --parallel "$(nproc)" --output-on-failure --no-tests=error "${chosen[@]}" "$@"
