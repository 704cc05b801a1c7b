#!/usr/bin/env bash
# Installs what building steadyflux needs and is missing: Debian packages, and libtorch from the
# pinned torch wheel into .venv. Does nothing, in a fraction of a second, when everything is there.
#
#   scripts/setup.sh [--cuda] [--with-checks]
#     --cuda         also the CUDA libraries that the program loads for --device cuda (4.2 GB with the rest)
#     --with-checks  also what .ci/run needs: clang-format, clang-tidy, shellcheck, and the tools
#                    of docs/examples.md
#
# A libtorch of your own is used instead of the wheel when CMAKE_PREFIX_PATH leads to one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

flavour=cpu
checks=
for argument in "$@"; do
  case $argument in
    --cuda) flavour=cuda ;;
    --with-checks) checks=yes ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' scripts/setup.sh; exit 0 ;;
    *) die "setup.sh: unknown option $argument (known: --cuda, --with-checks)" ;;
  esac
done

# --- Debian packages ---------------------------------------------------------------------------

packages=(g++ cmake ninja-build ccache pkg-config
  libcli11-dev libfmt-dev nlohmann-json3-dev libicu-dev
  libstb-dev libwebp-dev libxxhash-dev libgtest-dev)
[[ -z $checks ]] || packages+=(clang-format clang-tidy shellcheck
  jq imagemagick parallel make systemd)

own_libtorch=$(find_own_libtorch)
python=
if [[ -z $own_libtorch ]]; then
  python=$(find_python)
  if [[ -z $python ]]; then
    packages+=("$(python_package)")
  fi
fi
# Ubuntu 22.04: the default g++ is 11, and C++20 is wanted whole.
if [[ $(os_release_id) == ubuntu-22.04 ]]; then
  packages+=(g++-12)
fi

as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  elif [[ -t 0 ]]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

install_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    # Virtual names and other architectures do not occur in the list: a line per installed package.
    grep -qx "$package" <<<"$installed" || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $(id -u) != 0 ]] && ! command -v sudo >/dev/null; then
    die "missing packages, and neither root nor sudo to install them. Ask for: apt-get install ${missing[*]}"
  fi
  say "installing packages: ${missing[*]}"
  # An unreachable third-party source is no reason to stop; apt-get install decides.
  quietly "apt-get update" as_root apt-get update -q || true
  quietly "apt-get install" as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}" ||
    die "could not install ${missing[*]}: see above"
}

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
  install_packages
else
  say "not a Debian system: these packages, or their like, must be there: ${packages[*]}"
fi

# --- libtorch ----------------------------------------------------------------------------------

if [[ -n $own_libtorch ]]; then
  say "libtorch: your own, $own_libtorch (from CMAKE_PREFIX_PATH); .venv is not needed"
  exit 0
fi

stamp=.venv/steadyflux-setup # "<flavour> <checksum of the pins>": written last, so never by half
pins=(scripts/torch-cpu.txt)
[[ $flavour == cpu ]] || pins+=(scripts/torch-cuda.txt)
wanted="$flavour $(pins_checksum)"
have=$(cat "$stamp" 2>/dev/null || true)
# What --cuda installed holds everything that the CPU needs.
if [[ $have == "$wanted" || $have == "cuda ${wanted#* }" ]] && compgen -G "$venv_libtorch" >/dev/null; then
  exit 0
fi

python=${python:-$(find_python)}
[[ -n $python ]] || die "no Python 3.11 or newer with the venv module: apt-get install $(python_package)"

need_gb=3
[[ $flavour == cpu ]] || need_gb=9
free_gb=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1000000))
if ((free_gb < need_gb)); then
  die "libtorch needs about $need_gb GB of free disk while it is installed, $PWD has $free_gb GB"
fi

rm -f "$stamp"
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  say "creating .venv with $("$python" --version)"
  quietly "python -m venv" "$python" -m venv --clear .venv || die "could not create .venv: see above"
fi
if [[ $flavour == cpu ]]; then
  say "installing libtorch into .venv: 1.3 GB on disk"
else
  say "installing libtorch with CUDA into .venv: 4.2 GB on disk"
fi
requirements=()
for file in "${pins[@]}"; do
  requirements+=(-r "$file")
done
# --no-deps: the Python side of torch is not used, and its dependencies are not needed.
quietly "pip install" .venv/bin/python -m pip install --disable-pip-version-check --no-input \
  --no-deps "${requirements[@]}" || die "pip could not install libtorch: see above"

library=$(compgen -G "$venv_libtorch") || die ".venv has no libtorch_cpu.so after the install"
[[ $flavour == cpu ]] || library=${library%_cpu.so}_cuda.so
# libcuda.so.1 belongs to the driver, which a machine without a card does not have.
unresolved=$(ldd "$library" | grep 'not found' | grep -v 'libcuda\.so' || true)
[[ -z $unresolved ]] || die "$library misses libraries:"$'\n'"$unresolved"
echo "$wanted" >"$stamp.part"
mv "$stamp.part" "$stamp"
say "libtorch is ready in .venv"
