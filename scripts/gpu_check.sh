#!/usr/bin/env bash
# For whoever has a graphics card: builds with the CUDA libraries, compares pictures made on the card
# with those of the CPU and of diffusers, measures memory, and prints a report to paste into an issue.
# Without a card it says so and exits 0.
#
#   scripts/gpu_check.sh [--model FOLDER] > report.md
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The driver's device nodes; /dev/dxg is that of WSL.
if [[ ! -e /dev/nvidiactl && ! -e /dev/dxg ]]; then
  echo "gpu_check: no NVIDIA card here (no /dev/nvidiactl): nothing to check"
  exit 0
fi
(
  cd "$top"
  # shellcheck source=scripts/common.sh
  source scripts/common.sh
  scripts/setup.sh --cuda
  configure release
  build release steadyflux
)
exec python3 "$top/scripts/gpu_check.py" "$@"
