#!/usr/bin/env bash
# WAL archived and restored by our tools, Barman's and pgBackRest's in the same run, over
# injected round trips, with a verdict on every promise; ends with 1 if one is missed.
#
#   bench/wal.sh [--only SCENARIO,…] [--segments N] [--rounds N] [--quick] [--out FILE] …
#   bench/wal.sh --help
#
# README.md beside it says what is measured and how. Needs what the tests need, and
# pgBackRest, which is installed from Debian's packages; 16 MB on disk for each segment,
# kept for the next run, and twice that in memory. Nobody else should use the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. tests/servers/common.sh # apt_need, cache, certificate, die
own=bench

segments=300
words=("$@")
for ((i = 0; i < ${#words[@]}; i++)); do
  case ${words[i]} in
    --segments) segments=${words[i + 1]:-} ;;
    --segments=*) segments=${words[i]#*=} ;;
  esac
done
[[ " $* " != *' --quick '* ]] || segments=8
[[ $segments =~ ^[1-9][0-9]*$ ]] || die "--segments wants a number"

apt_need python3 python3
if [[ " $* " = *' --help '* ]]; then
  exec python3 -B "$own/wal.py" --help
fi
apt_need openssl openssl
apt_need pgbackrest pgbackrest
cargo build --quiet --release -p barman-cloud-wal-archive -p barman-cloud-wal-restore
# What stands between and behind must not be what is measured.
cargo build --quiet --release -p e2e --bin delay_proxy --bin wal_calls --bin wal_floor
binaries=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)
barman=$(tests/servers/barman.sh install)
eval "$barman"
wal=$("$own/make_wal.sh" "$segments")

# Links to the segments must lie on their file system, and what is restored in memory,
# or the disk would be measured.
disk=$(mktemp -d "$cache/bench-run.XXXXXX")
memory=$(mktemp -d "${BENCH_MEMORY:-/dev/shm}/bench-run.XXXXXX")
trap 'rm -rf "$disk" "$memory"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
room=$(($(df --output=avail -k "$memory" | tail -1) / 1024))
((room > segments * 17 + 100)) || die "$memory has room for $room MB only: set BENCH_MEMORY, or take fewer --segments"
certificate "$disk" 2>/dev/null
# Into memory, for all sides alike.
cat "$wal"/wal/* >/dev/null
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain 2>/dev/null) ]] || revision+=' with changes'
unset AWS_CONFIG_FILE PYTHONDONTWRITEBYTECODE
"$(system_python)" -B "$own/wal.py" --binaries "$binaries" --barman "$TEST_BARMAN_BIN" --certificates "$disk" \
  --wal "$wal" --disk "$disk" --memory "$memory" --revision "$revision" "$@"
