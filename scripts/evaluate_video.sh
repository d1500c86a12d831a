#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What do patterns and compressors cost a video-language model? Asks it about many videos; tables and plots at the end.
# Started again after an interruption it goes on where it stopped.
#   scripts/evaluate_video.sh                  the plan "video" of examples/video/evaluation/plans: 15 minutes on 2 cores
#   scripts/evaluate_video.sh --plan quick     a minute; fails where answers were lost against docs/results/video.json
#   scripts/evaluate_video.sh --plan FILE      your own: copy one of the plans
#   ... --results FILE                         where the measurements go (default build/video/PLAN.jsonl)
#   ... --report DIRECTORY                     where tables and plots go (default build/video/PLAN)
#   ... --models DIRECTORY                     other weights than examples/video/models
# Further options go to the program: --sets, --threads.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$root/scripts/engine.sh"

plan=video results= report= models=$root/examples/video/models arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --plan | --results | --report | --models)
      [ $# -gt 1 ] || die "$1 needs a value"
      case $1 in
        --plan) plan=$2 ;;
        --results) results=$2 ;;
        --report) report=$2 ;;
        --models) models=$2 ;;
      esac
      shift 2
      ;;
    --help | -h)
      sed -n '3,/^source/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit
      ;;
    *) arguments+=("$1") && shift ;;
  esac
done
name=$(basename "$plan" .json)
[ -f "$plan" ] || plan=$root/examples/video/evaluation/plans/$plan.json
[ -f "$plan" ] || die "there is no plan $plan"
results=${results:-$root/build/video/$name.jsonl} report=${report:-$root/build/video/$name}

prepare_engine video_evaluate
[ $real = yes ] || die "ggml cannot be fetched from the Python package index"
need_packages python3-matplotlib
mkdir -p "$(dirname "$results")"
heading "Measuring into $results"
"$build/video/video_evaluate" --models "$models" --plan "$plan" --results "$results" "${arguments[@]}"
heading "Writing tables and plots to $report"
/usr/bin/python3 "$root/scripts/video_report.py" "$results" "$report" --name "$name"
[ "$name" != quick ] || /usr/bin/python3 "$root/scripts/video_report.py" "$results" --compare "$root/docs/results/video.json"
