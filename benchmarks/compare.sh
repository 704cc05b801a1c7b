#!/usr/bin/env bash
# Steps of steadyflux and diffusers (same torch, same threads, same weights), in turn, and the
# ratio. The weights are random: FLUX.1's true width, 2 double and 4 single blocks, bf16.
#
#   benchmarks/compare.sh [WIDTH HEIGHT TEXT_TOKENS [ROUNDS [THREADS]]]     default 512 512 512 3 1
#
# PYTHON names a Python with torch and diffusers (scripts/requirements-goldens.txt); WORK a folder
# for the weights (about 2.6 GB), kept for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."
width=${1:-512} height=${2:-512} text=${3:-512} rounds=${4:-3} threads=${5:-1}
python=${PYTHON:-python3}
work=${WORK:-${TMPDIR:-/tmp}/steadyflux-benchmark}
bench=build/release/benchmarks/step_bench

cmake --preset release -DSTEADYFLUX_BENCHMARKS=ON >/dev/null
cmake --build build/release --target step_bench -j 2 >/dev/null
mkdir -p "$work"
[ -f "$work/transformer/config.json" ] || "$python" benchmarks/make_weights.py "$work/transformer"

: >"$work/results.jsonl"
for ((i = 0; i < rounds; i++)); do
  "$bench" "$work/transformer" "$width" "$height" "$text" 2 "$threads" >>"$work/results.jsonl"
  "$python" benchmarks/diffusers_step.py "$work/transformer" "$width" "$height" "$text" 2 \
    "$threads" 2>/dev/null >>"$work/results.jsonl"
done
"$python" - "$work/results.jsonl" "$width" "$height" "$text" "$threads" <<'PY'
import json, statistics, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
ours = [r for r in rows if r["program"] == "steadyflux"]
theirs = [r for r in rows if r["program"] == "diffusers"]
best = lambda r: min(r["step_s"])
ratios = [best(a) / best(b) for a, b in zip(ours, theirs)]
median = statistics.median
print(f"{sys.argv[2]} x {sys.argv[3]}, {sys.argv[4]} text tokens, {sys.argv[5]} thread(s), "
      f"{len(ratios)} rounds")
print(f"| program | step, median s | GFLOP/s | share of the bf16 GEMM roof |\n|---|---|---|---|")
rate, roof = median(r["gflops"] for r in ours), median(r["gemm_gflops"] for r in ours)
s, d = median(map(best, ours)), median(map(best, theirs))
print(f"| steadyflux | {s:.3f} | {rate:.0f} | {100 * rate / roof:.0f} % of {roof:.0f} |")
print(f"| diffusers | {d:.3f} | {rate * s / d:.0f} | {100 * rate * s / d / roof:.0f} % |")
print(f"ratio steadyflux / diffusers: median {median(ratios):.3f}, "
      f"min {min(ratios):.3f}, max {max(ratios):.3f}")
PY
