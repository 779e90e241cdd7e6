#!/usr/bin/env bash
# Our tools of the catalogue beside Barman's, over a round trip of 20 ms that is
# injected, on a store in memory and on Ceph. Needs the programs that the tests
# need, and some minutes, most of them Barman's. Ends with 1 if a bound is missed:
#
#   list of 1,000 backups     at least 30 times faster
#   delete of 50 backups      at least 5 times faster (judged on the store in
#   and 20,000 WAL objects    memory), the same objects left
#   both                      fewer requests
#
#   tests/bench_catalogue.sh [--backups N] [--deleted N] [--wal N] [--round-trip MS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. tests/servers/common.sh # the keys that Ceph takes

cargo build --quiet --release -p barman-cloud-backup-list -p barman-cloud-backup-delete
# What stands between and behind must not be what is measured.
cargo build --quiet --release -p e2e --bin delay_proxy --bin memory_store
binaries=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)

barman=$(tests/servers/barman.sh install)
eval "$barman"
# Servers of this run alone: tests may be going on.
TEST_SERVERS_STATE=$(mktemp -d)
export TEST_SERVERS_STATE
stop_servers() {
  tests/servers/down.sh ceph
  rm -rf "$TEST_SERVERS_STATE"
}
trap stop_servers EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
servers=$(tests/servers/up.sh ceph)
eval "$servers"
# Both sides find keys in the environment, and compile nothing when they start.
unset AWS_CONFIG_FILE PYTHONDONTWRITEBYTECODE
export AWS_ACCESS_KEY_ID=$access_key AWS_SECRET_ACCESS_KEY=$secret_key AWS_DEFAULT_REGION=us-east-1
"$TEST_S3_PYTHON" tests/bench_catalogue.py --ours "$binaries" --barman "$TEST_BARMAN_BIN" \
  --ceph-port "${TEST_S3_CEPH_URL##*:}" "$@"
