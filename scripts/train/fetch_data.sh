#!/usr/bin/env bash
# Fetches the training data: two openly licensed Debian packages, unpacked (not installed) into
# scripts/train/work/data, which git ignores. Needs apt-get and dpkg, no root.
set -euo pipefail
data="$(cd "$(dirname "$0")" && pwd)/work/data"
packages=(fonts-noto-color-emoji unicode-cldr-core)
font="$data/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
names="$data/usr/share/unicode/cldr/common/annotations/en.xml"

if [[ -f "$font" && -f "$names" ]]; then
  echo "data is already in $data"
  exit 0
fi
mkdir -p "$data"
cd "$data"
apt-get download "${packages[@]}" || {
  echo "fetch_data.sh: apt-get download failed; run 'apt-get update' (as root) and try again" >&2
  exit 1
}
for package in "${packages[@]}"; do
  dpkg -x "$package"_*.deb .
  rm -f "$package"_*.deb
done
for file in "$font" "$names"; do
  [[ -f "$file" ]] || { echo "fetch_data.sh: $file is missing: did the package change?" >&2; exit 1; }
done
echo "data is in $data; licences: usr/share/doc/*/copyright there"
