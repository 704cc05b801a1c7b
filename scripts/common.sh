# shellcheck shell=bash
# Shared by the scripts; sourced from the project's top folder.

say() { printf 'steadyflux: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# quietly NAME COMMAND...: the output is shown only if the command fails.
quietly() {
  local name=$1 log status=0
  shift
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if ((status != 0)); then
    say "$name failed (status $status):"
    tail -n 60 "$log" >&2
  fi
  rm -f "$log"
  return "$status"
}

# --- what is there -----------------------------------------------------------------------------

# Where pip puts the library, for every Python version.
# shellcheck disable=SC2034
venv_libtorch='.venv/lib/python3*/site-packages/torch/lib/libtorch_cpu.so'

# The libtorch folder that CMAKE_PREFIX_PATH leads to, if it does; cmake/Libtorch.cmake looks at the
# same places. An entry of that variable that has nothing to do with libtorch is passed over.
find_own_libtorch() {
  local prefix dir
  local -a prefixes
  IFS=':;' read -r -a prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    for dir in "$prefix" "$prefix/torch" "$prefix/../.."; do
      if [[ -n $prefix && -e $dir/lib/libtorch_cpu.so && -e $dir/include/ATen/ATen.h ]]; then
        (cd "$dir" && pwd -P)
        return
      fi
    done
  done
}

os_release_id() { (. /etc/os-release 2>/dev/null && echo "${ID:-}-${VERSION_ID:-}") || true; }

# The torch wheel wants Python 3.11 or newer; the first one that can make a virtual environment.
find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3 python3.11 python3.12 python3.13 python3.14; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

# The package that find_python's answer comes from where there is none yet.
python_package() {
  if [[ $(os_release_id) == ubuntu-22.04 ]]; then
    echo python3.11-venv
  else
    echo python3-venv
  fi
}

pins_checksum() { cat scripts/torch-cpu.txt scripts/torch-cuda.txt | sha256sum | cut -d ' ' -f 1; }

# --- building ----------------------------------------------------------------------------------

# Compilers at once: as many as cores, but each wants up to 2 GB of memory.
build_jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable/ { print int($2 / 2000000) }' /proc/meminfo)
  ((memory < cores)) && cores=$memory
  echo "$((cores < 1 ? 1 : cores))"
}

# configure PRESET: into build/PRESET, unless that was done with the same libtorch and compiler.
configure() {
  local dir=build/$1 key
  if [[ -z ${CXX:-} && $(os_release_id) == ubuntu-22.04 ]]; then
    export CXX=g++-12
  fi
  key="$(find_own_libtorch) $(pins_checksum) ${CXX:-}"
  if [[ -e $dir/build.ninja && $(cat "$dir/configured-with" 2>/dev/null) == "$key" ]]; then
    return
  fi
  rm -f "$dir/CMakeCache.txt"
  quietly "cmake" cmake --preset "$1" || die "configuring $dir failed: see above"
  echo "$key" >"$dir/configured-with"
}

# build PRESET TARGET...: one line of progress on a terminal; the compiler's output only on failure.
build() {
  local dir=build/$1 log=build/$1/build.log line started=
  shift
  export NINJA_STATUS='[%f/%t] '
  export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(build_jobs)}
  if ! cmake --build "$dir" --target "$@" 2>&1 </dev/null | tee "$log" | while IFS= read -r line; do
    [[ $line == \[[1-9]* ]] || continue # [0/..]: cmake looks whether files came or went
    if [[ -t 2 ]]; then
      printf '\r\033[K%.*s' "$((${COLUMNS:-80} - 1))" "$line" >&2
    elif [[ -z $started ]]; then
      say "building $* in $dir (the first time takes some minutes)"
    fi
    started=yes
  done; then
    [[ ! -t 2 ]] || echo >&2
    grep -v '^\[' "$log" | tail -n 60 >&2
    die "building $dir failed: see above, or $log"
  fi
  [[ ! -t 2 ]] || printf '\r\033[K' >&2
}
