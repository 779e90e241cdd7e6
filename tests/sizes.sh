#!/usr/bin/env bash
# Backups of clusters far larger than this machine, by simulation: the real walk, tar,
# codec "none", parts, uploads and manifest, with the defaults of barman-cloud-backup
# (--jobs 2), into a store that keeps nothing and fails whatever is beyond its limits.
# Prints a table, and the slope of memory; ends with 1 if a bound is missed.
#
#   tests/sizes.sh [--quick] [DIRECTORY]
#
# Made up is that the same small directory is met again and again, under other names, that
# files beyond 64 KiB are sparse, and that there is no server. Nothing is skipped: every byte
# is read, summed up and put into a part, so that 16 TiB take more than an hour;
# --quick does a sixteenth of the bytes and of the files. DIRECTORY is for the files (a
# million of them, 5 GB; not in memory).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

part=1
if [[ ${1:-} = --quick ]]; then
  part=16
  shift
fi
cargo build --quiet --release -p e2e --bin sizes
sizes=${CARGO_TARGET_DIR:-target}/release/sizes
work=$(mktemp -d ${1:+-p "$1"})
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

million=$((1000000 / part))
tib=$((1 << 40))
printf '%-44s %10s %9s %9s %10s %9s %7s\n' what GiB archives parts 'parts/arc.' 'peak MiB' seconds
failed=0
peak=0
# row WHAT LIMIT DIRECTORY ROUNDS MAX_PARTS: LIMIT in MiB, 0 for none
row() {
  local line
  line=$("$sizes" copy "$3" "$4" "$5")
  get() { sed -E "s/.*\"$1\":([0-9]+).*/\1/" <<<"$line"; }
  peak=$(get peak)
  printf '%-44s %10d %9d %9d %10d %9.1f %7d\n' "$1" $(($(get bytes) >> 30)) "$(get archives)" \
    "$(get parts)" "$(get most_parts)" "$(awk "BEGIN { print $peak / 1024 }")" "$(get seconds)"
  if (($2 > 0 && peak > $2 * 1024)); then
    echo "  more than $2 MiB"
    failed=1
  fi
}

# 10,000 files in each database, of some 100 random bytes.
"$sizes" tree "$work/files" 10000 100
row "10,000 files" 64 "$work/files" 1 10000
row "$million files" 64 "$work/files" $((million / 10000 ? million / 10000 : 1)) 10000
first=$peak
row "$((6 * million)) files" $((64 + 5 * 60)) "$work/files" $((6 * million / 10000)) 10000
slope=$(((peak - first) * part / 5))
rm -rf "$work/files"
# The worst case for the walk: all in one directory.
"$sizes" tree "$work/one" "$million" 100
row "$million files on disk, in one directory" 64 "$work/one" 1 10000
rm -rf "$work/one"

# One file, which stays in the page cache: the disk is not what is measured.
"$sizes" tree "$work/bytes" 1 $((1 << 30))
row "$((16 / part)) TiB in files of 1 GiB, 10,000 parts" 64 "$work/bytes" $((16384 / part)) 10000
row "$((1024 / part)) GiB in files of 1 GiB, 1,000 parts" 64 "$work/bytes" $((1024 / part)) 1000
rm -rf "$work/bytes"
# No bound: such a member needs larger parts, which is announced.
"$sizes" tree "$work/member" 1 $((tib / part))
row "one member of $((1024 / part)) GiB, $((10000 / part)) parts" 0 "$work/member" 1 $((10000 / part))

printf '\nmemory for a million files more: %.1f MiB (bound: 60)\n' "$(awk "BEGIN { print $slope / 1024 }")"
((slope <= 60 * 1024)) || failed=1
exit "$failed"
