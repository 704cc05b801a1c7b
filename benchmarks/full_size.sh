#!/usr/bin/env bash
# FLUX.1-schnell at its true size (random weights, 34 GB on disk) in 8 GiB of memory, on the CPU:
# three pictures, two steps each, in one process and as three processes. Prints how long each took,
# how much memory and reading it cost, and what the plan had said. As root, for the cgroup.
#
#   benchmarks/full_size.sh [--long] [--part all|transformer|text] [--limit GIB] [--images N]
#                           [--type q8_0|q4_k|...] [--model FOLDER] [--no-compute] [--one-process]
#                           [--sizes N,...] [-- OPTIONS OF STEADYFLUX]
#
#   --long        512 x 512 as well as 256 x 256; --sizes: these
#   --part        with 24 GB (transformer) or 13 GB (text) of weights, the rest cut short
#   --type        beside the bf16 model the same, quantised by steadyflux: the transformer to this
#                 type, T5 to q8_0
#   --model       a folder that is there, instead of writing one
#   --no-compute  no run of a small model for what computing alone takes
#   --one-process the pictures in one process only, one after the other
#
# SOURCE names the folder with the real configs and tokenizers (default: ../shared/flux1/schnell),
# WORK the one for the weights (default: /tmp/steadyflux-full-size); they are kept for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."
source=${SOURCE:-../shared/flux1/schnell}
work=${WORK:-${TMPDIR:-/tmp}/steadyflux-full-size}
program=${PROGRAM:-build/release/steadyflux}
part=all limit=8 images=3 sizes=256 model='' compute=yes type='' more=()

while (($# > 0)); do
  case $1 in
    --long) sizes=256,512 ;;
    --sizes) sizes=$2 && shift ;;
    --part) part=$2 && shift ;;
    --limit) limit=$2 && shift ;;
    --images) images=$2 && shift ;;
    --model) model=$2 && shift ;;
    --type) type=$2 && shift ;;
    --no-compute) compute= ;;
    --one-process) more+=(--one-process) ;;
    --) shift && break ;;
    *)
      sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
  esac
  shift
done
[[ -x $program ]] || {
  echo "$program is not there: scripts/setup.sh, then cmake --build build/release" >&2
  exit 1
}

if [[ -z $model ]]; then
  model=$work/$part
  python3 benchmarks/full_size_weights.py "$source" "$model" --part "$part" >&2
fi

# quantised COMPONENT OPTION TYPE: its folder with the configuration and one GGUF file.
quantised() {
  mkdir -p "$small_model/$1"
  cp "$model/$1"/config.json "$small_model/$1/"
  "$program" quantize "$model" "$small_model/$1/$1-$3.gguf" --component "$2" --type "$3" --overwrite
}

if [[ -n $type ]]; then
  small_model=$model-$type
  mkdir -p "$small_model"
  for entry in "$model"/*; do
    case ${entry##*/} in
      transformer | text_encoder_2) ;;
      *) cp -r --reflink=auto "$entry" "$small_model/" ;;
    esac
  done
  quantised transformer transformer "$type"
  quantised text_encoder_2 t5 q8_0
fi
run=(--program "$program" --limit "$limit" --sizes "$sizes" --images "$images"
  "${more[@]}")
if [[ -n $compute ]]; then
  python3 benchmarks/full_size_weights.py "$source" "$work/small" --double 2 --single 4 \
    --t5-layers 1 >&2
  run+=(--small "$work/small")
fi
python3 benchmarks/full_size_run.py --model "$model" "${run[@]}" -- "$@"
[[ -z $type ]] || python3 benchmarks/full_size_run.py --model "$small_model" "${run[@]}" -- "$@"
