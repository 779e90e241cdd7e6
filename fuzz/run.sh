#!/usr/bin/env bash
# Fuzzes the targets of cloud_core::fuzzing, one after the other.
#
# usage: fuzz/run.sh [SECONDS] [TARGET…]   each for SECONDS (60); all if none is named
#        fuzz/run.sh keep [TARGET…]        adds to the kept corpus what was found, and
#                                          drops from it what finds nothing new
#
# Prints how often each target was fed and how much of the program it reached, and
# ends with 1 if anything was found; the input is in fuzz/artifacts then, and
# `FUZZ_TARGET=name PROGRAM INPUT` shows what it does. With FUZZ_FEATURES=vendors the
# readers of S3 and Azure are compiled in.
#
# Needs a C++ compiler besides the toolchain: libFuzzer is compiled from its source.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# What cargo-fuzz passes without a sanitizer, on any toolchain. The code is safe Rust, so
# that an address sanitizer would watch the C of the codecs alone, at a third of the speed.
flags=(
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
  -Cllvm-args=-simplifycfg-branch-fold-threshold=0
  --cfg fuzzing
)
# For a target, so that programs of the build are left alone.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR=target cargo build --quiet --release --bin one \
  --target "$host" ${FUZZ_FEATURES:+--features "$FUZZ_FEATURES"}
program=$PWD/target/$host/release/one

# Least memory in which every target must live, in MiB. The largest single piece is the
# window of a codec: 128 MiB of zstd.
limits=(-rss_limit_mb=512 -malloc_limit_mb=160 -timeout=20)

# Longest inputs, in bytes: 4 KiB are enough for texts, and less for lines.
longest() {
  case $1 in
    restore | segment | tar) echo 32768 ;;
    codecs) echo 16384 ;;
    names | words) echo 1024 ;;
    *) echo 4096 ;;
  esac
}

# Longest inputs that are kept: what lies in the repository is to be small.
longest_kept() {
  case $1 in
    restore | tar) echo 6144 ;;
    segment) echo 9216 ;;
    codecs) echo 2048 ;;
    names | words) echo 512 ;;
    *) echo 1536 ;;
  esac
}

names() { if (($#)); then printf '%s\n' "$@"; else ls corpus; fi; }

if [[ ${1-} = keep ]]; then
  shift
  for target in $(names "$@"); do
    smallest=$(mktemp -d)
    mkdir -p "work/$target"
    FUZZ_TARGET=$target "$program" -set_cover_merge=1 "${limits[@]}" \
      -max_len="$(longest_kept "$target")" \
      "$smallest" "corpus/$target" "work/$target" 2>/dev/null
    rm -rf "corpus/$target"
    mkdir "corpus/$target"
    cp "$smallest"/* "corpus/$target/"
    rm -rf "$smallest"
    printf '%-10s %4d inputs, %s\n' "$target" "$(find "corpus/$target" -type f | wc -l)" \
      "$(du -sb "corpus/$target" | cut -f1) bytes"
  done
  exit
fi

seconds=60
if [[ ${1-} =~ ^[0-9]+$ ]]; then
  seconds=$1
  shift
fi
found=0
mkdir -p artifacts
for target in $(names "$@"); do
  mkdir -p "work/$target"
  log=$(mktemp)
  ended=0
  FUZZ_TARGET=$target "$program" -max_total_time="$seconds" -max_len="$(longest "$target")" \
    "${limits[@]}" ${FUZZ_SEED:+-seed="$FUZZ_SEED"} -print_final_stats=1 \
    -artifact_prefix="artifacts/$target-" "work/$target" "corpus/$target" 2>"$log" || ended=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
  reached=$(grep -o ' cov: [0-9]*' "$log" | tail -1 | grep -o '[0-9]*' || true)
  printf '%-10s %6d s %12d inputs %7d places %5d MiB  %s\n' "$target" "$seconds" \
    "${runs:-0}" "${reached:-0}" "${peak:-0}" "$( ((ended)) && echo FOUND || echo nothing found)"
  if ((ended)); then
    found=1
    tail -40 "$log"
  fi
  rm -f "$log"
done
exit $found
