#!/usr/bin/env bash
# steadyflux beside diffusers (same torch, same threads, same weights), in turn: a step of the
# transformer, T5, the VAE's decoder, whole pictures, and one under a memory limit (as root, for the
# cgroup). Prints a Markdown table of medians and the median of the ratios of neighbouring runs;
# below 1 steadyflux is faster, or takes less.
#
#   benchmarks/compare.sh [--sizes 512,1024] [--text TOKENS] [--threads 2,1] [--rounds 5]
#                         [--dtype bf16|fp32] [--only step,int8,text,decode,picture,sd-cpp,limit]
#                         [--limit GIB] [--most-seconds N] [--sd-cpp SD_CLI] [-o RESULTS.json]
#
# The weights are random: FLUX.1's true width, 2 double and 4 single blocks, 2 layers of T5, CLIP and
# VAE whole (6.5 GB). SOURCE names the folder with the real configs and tokenizers (default:
# ../shared/flux1/schnell), WORK the one for the weights (default: /tmp/steadyflux-benchmark), which
# are kept for the next run; PYTHON a Python with torch and diffusers
# (scripts/requirements-goldens.txt); BUILD the build folder (default: build/release). SD_CLI is
# stable-diffusion.cpp's program, for the sections sd-cpp and limit (another 6.5 GB).
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build/release}
model=${WORK:-${TMPDIR:-/tmp}/steadyflux-benchmark}/model

if [[ $build == build/release ]]; then
  cmake --preset release -DSTEADYFLUX_BENCHMARKS=ON >/dev/null
fi
cmake --build "$build" --target steadyflux step_bench text_bench vae_bench -j 2 >/dev/null
python3 benchmarks/full_size_weights.py "${SOURCE:-../shared/flux1/schnell}" "$model" --double 2 \
  --single 4 --t5-layers 2 >&2
exec "${PYTHON:-python3}" benchmarks/compare.py --build "$build" --model "$model" "$@"
