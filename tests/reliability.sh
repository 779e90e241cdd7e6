#!/usr/bin/env bash
# All of the tests of reliability, whole (tests/run.sh runs a sample of
# them), and docs/reliability.md written anew from them.
#
# usage: tests/reliability.sh [--sample]
#
# --sample runs what tests/run.sh runs and compares the document with it. Needs
# what tests/run.sh installs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-target}
PATH=$PATH:$PWD/$target/test-tools/bin
what=write
export E2E_RECORDS
E2E_RECORDS=$(mktemp -d)
TEST_SERVERS_STATE=$(mktemp -d)
export TEST_SERVERS_STATE CI=1
ended() {
  tests/servers/down.sh
  rm -rf "$TEST_SERVERS_STATE" "$E2E_RECORDS"
}
trap ended EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

profile=default
if [[ ${1-} = --sample ]]; then
  what=check
else
  export E2E_WHOLE=1
  profile=whole
fi
programs=$(tests/servers/postgresql.sh install && tests/servers/barman.sh install)
eval "$programs"
cargo build --quiet --workspace --bins
servers=$(tests/servers/up.sh)
eval "$servers"
cargo nextest run -P "$profile" -p e2e --test reliability
cargo run --quiet -p e2e --bin reliability "$what"
