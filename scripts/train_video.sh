#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains the video-language model of examples/video and writes it as a GGUF file: an hour on two CPU cores, or minutes
# on a GPU. Nobody needs this to run the demo. A run that was stopped goes on when this is started again.
#   scripts/train_video.sh                       everything under ~/.cache/purekv/video
#   scripts/train_video.sh --phases 4x3x3:100    arguments are train.py's; with --help it lists them
#   scripts/train_video.sh --fine-tune st        goes on from these weights under a pattern of patterns.py: minutes
#   scripts/train_video.sh --fine-tune evict     or with a random part of the video evicted for half of the questions
#   scripts/train_video.sh --golden              instead: writes what the tests compare the engine with
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

directory=${PUREKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/purekv}/video
code=$root/examples/video
library=$directory/libvideo-training-data.so

need_build_tools ca-certificates python3 python3-venv
mkdir -p "$directory"
if ! [ -f "$directory/venv/installed" ]; then
  heading "Installing PyTorch"
  rm -rf "$directory/venv"
  python3 -m venv "$directory/venv"
  # The package index has only the large build for GPUs; PyTorch's own has one for CPUs.
  packages=(torch==2.9.1 numpy==2.4.6 gguf==0.19.0)
  install=("$directory/venv/bin/pip" --quiet --disable-pip-version-check install)
  command -v nvidia-smi > /dev/null \
    || "${install[@]}" --retries 1 --index-url https://download.pytorch.org/whl/cpu torch==2.9.1 2> /dev/null || true
  "${install[@]}" "${packages[@]}"
  touch "$directory/venv/installed"
fi
python=$directory/venv/bin/python

heading "Building the videos"
"$CXX" -std=c++20 -O3 -march=native -fPIC -shared -I"$root/include" -o "$library" \
  "$code"/{training_data,question,scene,words}.cpp

if [ "${1:-}" = --golden ]; then
  exec "$python" "$code/export.py" --library "$library" --untrained --model "$code/tests/data/model.gguf" \
    --golden "$code/tests/data/golden.gguf"
fi

name=video export=(--evaluate 500) train=()
if [ "${1:-}" = --fine-tune ]; then
  [ $# -gt 1 ] || die "--fine-tune needs a pattern, or evict"
  name=video-$2
  [ -f "$directory/video/checkpoint.pt" ] || die "train first: there is no $directory/video/checkpoint.pt"
  train=(--start "$directory/video/checkpoint.pt" --phases 16x6x6:350 --decay 250 --every 25)
  if [ "$2" = evict ]; then train+=(--evict); else train+=(--pattern "$2") export+=(--pattern "$2"); fi
  shift 2
fi
heading "Training; the log is $directory/$name/log.jsonl"
"$python" "$code/train.py" --library "$library" --directory "$directory/$name" "${train[@]}" "$@"
heading "Writing $directory/$name.gguf"
"$python" "$code/export.py" --library "$library" --checkpoint "$directory/$name/checkpoint.pt" \
  --model "$directory/$name.gguf" "${export[@]}" | tee "$directory/$name.json"
