# What the scripts for packages share; to be sourced. They take the folder that Cargo
# built `barman-cloud` and `barman-cloud-pages` into; without one they build both for
# release first.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$project/Cargo.toml")

# The same source makes the same package: no time of a build is in it.
if [[ -z ${SOURCE_DATE_EPOCH:-} ]]; then
  SOURCE_DATE_EPOCH=$(git -C "$project" log -1 --format=%ct 2>/dev/null || echo 0)
fi
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC
umask 022

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

absolute() { if [[ $1 == /* ]]; then printf '%s' "$1"; else printf '%s' "$PWD/$1"; fi; }

# built_in [DIR]: the folder with both programs.
built_in() {
  local folder=${1:-}
  if [[ -z $folder ]]; then
    (cd "$project" && cargo build --quiet --release -p barman-cloud -p barman-cloud-pages)
    folder=${CARGO_TARGET_DIR:-$project/target}/release
  fi
  folder=$(absolute "$folder")
  local program
  for program in barman-cloud barman-cloud-pages; do
    [[ -x $folder/$program ]] ||
      die "$folder/$program is missing: build it with cargo build -p $program"
  done
  printf '%s' "$folder"
}

# scratch: a folder that is gone at the end of the script.
scratch=''
scratch() {
  scratch=$(mktemp -d)
  trap 'rm -rf -- "$scratch"' EXIT
}

# same_times DIR: every file is as old as the source.
same_times() { find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; }
