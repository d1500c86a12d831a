#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How fast are the kernels on this machine's CPU, and how fast are others? Fetches and builds ggml, PyTorch and kvpress
# once, outside the tree (scripts/fetch.sh), builds the benchmarks, runs them beside the machine's own limits and
# beside those peers, and ends with a table of goals. A peer that cannot be had leaves its rows out.
#   scripts/bench_cpu.sh                       everything: some 15 minutes on two idle cores
#   scripts/bench_cpu.sh --quick               a part of it: 5 minutes
#   scripts/bench_cpu.sh sparse ggml           some stages of it; --help lists them
#   ... --keep                                 stages that an earlier run finished are not run again
#   ... --peers none|ggml|all                  who to compare with (default all; PyTorch's wheel brings CUDA along: 2.5 GB
#                                              to fetch, 6 GB on the disk)
#   ... --report DIRECTORY                     where tables, plots and cpu.json go (default build/cpu)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$root/scripts/fetch.sh"

# stage NAME PROGRAM FILTER [FILTER_WHEN_QUICK]: the benchmarks of a program that match. An empty filter skips it.
stages=()
stage() {
  stages+=("$1")
  program[$1]=$2 filter[$1]=$3 quick_filter[$1]=${4-$3}
}
declare -A program filter quick_filter
stage prefill attend '^dense.*dim:(64|80|96|128)/' '^dense.*dim:(64|128)/tokens:4096'
stage types attend '^prefill_against_float'
stage chunks attend '^chunk' '^chunk.*tokens:(4096|16384)/'
stage video attend '^spatial_temporal.*/planned:1/reading:0' '^spatial_temporal.*prompt:(0|2)/planned:1/reading:0'
stage taps attend '^taps.*window:(32|0)/|^taps_block' '^taps.*window:32/|^taps_block'
stage sparse sparse . 'tokens:4096'
stage threads threads . 'prefill'
stage decoding decode '^decode<purekv::half|^decode<.*tokens:16384|ragged|gain<|^decode_against' \
  '^decode<.*tokens:16384|ragged|^decode_against'
stage compression compress '^share|^top_k|^prune' '^share.*(snapkv|early)|^top_k.*/16384|^prune'
stage lengths lengths . \
  '^lengths.*tokens:(1|8|33|64|128|200|256|511|512|1000|1024|2048|4096)/|^dims/half/dim:(16|33|64|100|128|200|256)/'
stage ggml peers_ggml . 'prefill.*dim:128|decode.*tokens:16384'
stage python '' .

out=$root/build/cpu keep=no quick=no peers=all chosen=() report=
while [ $# -gt 0 ]; do
  case $1 in
    --peers | --report)
      [ $# -gt 1 ] || die "$1 needs a value"
      case $1 in
        --peers) peers=$2 ;;
        --report) report=$2 ;;
      esac
      shift 2
      ;;
    --keep) keep=yes && shift ;;
    --quick) quick=yes out=$root/build/cpu-quick && shift ;;
    --help | -h)
      sed -n '3,/^source/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      echo "Stages: ${stages[*]}"
      exit
      ;;
    *)
      [[ " ${stages[*]} " == *" $1 "* ]] || die "there is no stage $1: ${stages[*]}"
      chosen+=("$1") && shift
      ;;
  esac
done
case $peers in none | ggml | all) ;; *) die "--peers is none, ggml or all" ;; esac
report=${report:-$out}
[ ${#chosen[@]} -gt 0 ] || chosen=("${stages[@]}")

need_build_tools libeigen3-dev libbenchmark-dev
need_packages python3-matplotlib
mkdir -p "$cache" "$out"
exec 9> "$cache/lock"
flock 9 # two runs at once fetch and build once
# In a subshell what fails ends that alone; what it built is then found at once.
options=()
if [ "$peers" != none ] && (fetch_llama) && fetch_llama; then options=(-DCMAKE_PREFIX_PATH="$llama"); fi
python=python3
if [ "$peers" = all ] && (fetch_python_peers) && fetch_python_peers; then python=$python_peers/bin/python; fi
exec 9>&-

build=$root/build/bench-cpu
[ "$(basename "$CXX")" = g++ ] || build+=-$(basename "$CXX")
heading "Building the benchmarks"
rm -f "$build/CMakeCache.txt" # ggml may have come or gone
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O2 -DCMAKE_CXX_COMPILER="$CXX" \
  -DPUREKV_TESTS=OFF -DPUREKV_EXAMPLES=OFF -DPUREKV_INSTALL=OFF "${options[@]}" > /dev/null
cmake --build "$build" --parallel "$(nproc)"

without() { printf '{"context": {"missing": {"%s": "%s"}}, "benchmarks": []}\n' "$1" "$2"; }

# measure STAGE FILE: what the stage writes. A stage that fails leaves the others alone.
measure() {
  local of=${filter[$1]} repetitions=9
  [ $quick = no ] || of=${quick_filter[$1]} repetitions=3
  if [ "$1" = python ]; then
    [ "$peers" = all ] || { without "torch and kvpress" "not asked for" > "$2" && return; }
    "$python" "$root/scripts/bench_cpu_peers.py" "$build/bench/peers/purekv_bench.so" "$2" --repetitions "$repetitions"
  elif [ "$1" = ggml ] && [ ${#options[@]} -eq 0 ]; then
    without ggml "not asked for, or cannot be built" > "$2"
  else
    local where=$build/bench
    [[ ${program[$1]} != peers_* ]] || where+=/peers
    "$where/bench_${program[$1]}" --benchmark_filter="$of" --benchmark_min_time=0.3 \
      --benchmark_counters_tabular=true --benchmark_out="$2" --benchmark_out_format=json
  fi
}

load=$(cut -d' ' -f1-2 /proc/loadavg)
files=()
for name in "${chosen[@]}"; do
  file=$out/part-$name.json
  files+=("$file")
  # What lacked a peer is run again.
  if [ $keep = yes ] && [ -f "$file" ] && ! grep -qE '"missing": \{("|$)' "$file"; then
    heading "$name: kept"
    continue
  fi
  heading "$name, at $(date +%T), load $(cut -d' ' -f1 /proc/loadavg)"
  rm -f "$file"
  if measure "$name" "$file.new"; then
    mv "$file.new" "$file"
  else
    without "$name" "the stage failed" > "$file.failed"
    files[-1]=$file.failed
  fi
done

# /proc/cpuinfo FIELD
of_cpu() { grep -m1 "^$1" /proc/cpuinfo | cut -d: -f2 | xargs || true; }
vectors=$(of_cpu flags | tr ' ' '\n' | grep -m1 -xE 'avx512f' || of_cpu flags | tr ' ' '\n' | grep -m1 -x avx2 || true)

heading "Writing tables and plots to $report"
/usr/bin/python3 "$root/scripts/bench_cpu_report.py" "${files[@]}" "$report" \
  --fact "processor=family $(of_cpu 'cpu family'), model $(of_cpu 'model[[:space:]]'), ${vectors:-no wide} vectors" \
  --fact "load before=$load" --fact "quick=$quick" \
  --fact "compiler=$("$CXX" --version | head -n 1)" --fact "ggml=${llama_package/==/ }, vendored"
