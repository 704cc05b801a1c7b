#!/usr/bin/env bash
# From a fresh checkout to the test results: installs what is missing, builds everything in
# build/release, and runs ctest with the arguments given.
#
#   scripts/test.sh [options of ctest, e.g. -L golden, -R Safetensors]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh
scripts/setup.sh
configure release
build release all
exec ctest --test-dir build/release --output-on-failure --no-tests=error \
  --parallel "${CTEST_PARALLEL_LEVEL:-$(build_jobs)}" "$@"
