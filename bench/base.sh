#!/usr/bin/env bash
# Base backups taken and restored by our tools, Barman's and pgBackRest's in the same run,
# with a verdict on every promise; ends with 1 if one is missed.
#
#   bench/base.sh [--sizes MB,…] [--codecs CODEC,…] [--rounds N] [--quick] [--out FILE] …
#   bench/base.sh --help
#
# README.md beside it says what is measured and how. Needs what the tests need, and
# pgBackRest, which is installed from Debian's packages; three times the largest cluster on
# disk, and three times it in memory. Nobody else should use the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. tests/servers/common.sh # apt_need, cache, certificate, die
own=bench

sizes=1000,5000
words=("$@")
for ((i = 0; i < ${#words[@]}; i++)); do
  case ${words[i]} in
    --sizes) sizes=${words[i + 1]:-} ;;
    --sizes=*) sizes=${words[i]#*=} ;;
  esac
done
[[ $sizes =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] || die "--sizes wants numbers"

apt_need python3 python3
if [[ " $* " = *' --help '* ]]; then
  exec python3 -B "$own/base.py" --help
fi
apt_need openssl openssl
apt_need pgbackrest pgbackrest
for codec in lz4 zstd gzip bzip2; do apt_need "$codec" "$codec"; done
cargo build --quiet --release -p barman-cloud-backup -p barman-cloud-restore -p barman-cloud-verify
binaries=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)
barman=$(tests/servers/barman.sh install)
eval "$barman"
clusters=()
for size in ${sizes//,/ }; do
  clusters+=(--cluster "$("$own/make_cluster.sh" "$size")")
done

disk=$(mktemp -d "$cache/bench-run.XXXXXX")
trap 'rm -rf "$disk"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
certificate "$disk" 2>/dev/null
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain 2>/dev/null) ]] || revision+=' with changes'
unset AWS_CONFIG_FILE PYTHONDONTWRITEBYTECODE
"$(system_python)" -B "$own/base.py" --binaries "$binaries" --barman "$TEST_BARMAN_BIN" --certificates "$disk" \
  --disk "$disk" "${clusters[@]}" --revision "$revision" --sizes "$sizes" "$@"
