#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How fast are the kernels on this machine's GPU? Builds the benchmarks for it, runs them, and where PyTorch is, its
# attention beside them; build/gpu/bench.json and build/gpu/bench.md at the end.
#   scripts/bench_gpu.sh                 all of them
#   scripts/bench_gpu.sh attend decode   some of them
#   ... --filter REGEX                   only the benchmarks that match
#   ... --out DIRECTORY                  where the results go (default build/gpu)
# PYTHON chooses the interpreter that has PyTorch (default python3).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

out=$root/build/gpu filter=. programs=()
while [ $# -gt 0 ]; do
  case $1 in
    --filter | --out)
      [ $# -gt 1 ] || die "$1 needs a value"
      case $1 in
        --filter) filter=$2 ;;
        --out) out=$2 ;;
      esac
      shift 2
      ;;
    --help | -h)
      sed -n '3,/^source/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit
      ;;
    *) programs+=("$1") && shift ;;
  esac
done
if [ ${#programs[@]} -eq 0 ]; then
  for source in "$root"/bench/gpu/*.cu; do programs+=("$(basename "$source" .cu)"); done
fi

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null) || die "no nvcc"
need_build_tools libeigen3-dev libbenchmark-dev

build=$root/build/bench-gpu
heading "Building ${programs[*]}"
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$CXX" -DCMAKE_CUDA_COMPILER="$nvcc" \
  -DCMAKE_CUDA_ARCHITECTURES=native -DPUREKV_CUDA=ON -DPUREKV_BENCH=ON -DPUREKV_TESTS=OFF -DPUREKV_EXAMPLES=OFF
cmake --build "$build" --parallel "$(nproc)" --target "${programs[@]/#/bench_gpu_}"

mkdir -p "$out"
rm -f "$out"/part-*.json
for program in "${programs[@]}"; do
  heading "Running $program"
  "$build/bench/gpu/bench_gpu_$program" --benchmark_filter="$filter" --benchmark_min_time=0.2 \
    --benchmark_counters_tabular=true --benchmark_out="$out/part-$program.json" --benchmark_out_format=json || [ $? -ne 77 ] || die "no GPU"
done

heading "Attention of PyTorch"
"${PYTHON:-python3}" "$root/scripts/bench_torch.py" "$out/part-torch.json" --filter "$filter"

heading "Writing $out/bench.json and $out/bench.md"
"${PYTHON:-python3}" "$root/scripts/bench_gpu_report.py" "$out"/part-*.json --out "$out"
