#!/usr/bin/env bash
# All of the tests of reliability, whole, and docs/reliability.md written anew
# from them; about an hour. tests/run.sh runs a sample of them and compares.
#
# usage: tests/reliability.sh [FILTER…]    FILTERs are cargo-nextest's
#
# With filters the document is not written. Records are kept in the folder that
# E2E_RECORDS names, if it is set. Needs what tests/run.sh installs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-target}
PATH=$PATH:$(mkdir -p "$target/test-tools/bin" && cd "$target/test-tools/bin" && pwd)
records=$(mktemp -d)
TEST_SERVERS_STATE=$(mktemp -d)
export E2E_WHOLE=1 CI=1 TEST_SERVERS_STATE E2E_RECORDS="${E2E_RECORDS:-$records}"
ended() {
  tests/servers/down.sh
  rm -rf "$TEST_SERVERS_STATE" "$records"
}
trap ended EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

programs=$(tests/servers/postgresql.sh install && tests/servers/barman.sh install)
eval "$programs"
cargo build --quiet --workspace --bins
servers=$(tests/servers/up.sh)
eval "$servers"
cargo nextest run -P whole --no-fail-fast -p e2e --test reliability "$@"
if (($# == 0)); then
  cargo run --quiet -p e2e --bin reliability write
fi
