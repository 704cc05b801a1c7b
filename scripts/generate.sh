#!/usr/bin/env bash
# From a fresh checkout to a picture: installs what is missing, builds build/release/steadyflux, and
# runs it with the arguments given.
#
#   scripts/generate.sh [--cuda] "a red apple" [options of steadyflux]
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setup_options=()
if [[ ${1:-} == --cuda ]]; then
  setup_options+=(--cuda)
  shift
fi
(
  cd "$top"
  # shellcheck source=scripts/common.sh
  source scripts/common.sh
  scripts/setup.sh "${setup_options[@]}"
  configure release
  build release steadyflux
)
# From the caller's folder, so that file names mean what they say.
exec "$top/build/release/steadyflux" "$@"
