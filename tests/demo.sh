#!/usr/bin/env bash
# A cluster is backed up, archived, destroyed and brought back to the second,
# with a local directory as the only store. Installs PostgreSQL if it is missing
# (as root, on Debian and its like); leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' green='' plain=''; fi
step=0
story() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$bold" "$step" "$*" "$plain"; }
shown() { printf '%s   $ %s%s\n' "$dim" "$*" "$plain"; }

# What is needed.
initdb() { compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1; }
if [[ -z $(initdb) ]]; then
  [[ $(id -u) = 0 ]] || die "PostgreSQL's server is missing: apt-get install postgresql"
  printf 'Installing PostgreSQL.\n'
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends postgresql >/dev/null 2>&1 ||
    { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends postgresql >/dev/null; }
fi
pg=$(dirname "$(initdb)")
[[ -x $pg/initdb ]] || die "no initdb was found below /usr/lib/postgresql"
if [[ -n ${DEMO_BIN:-} ]]; then
  built=$DEMO_BIN
else
  command -v cargo >/dev/null || die "cargo is missing: install a Rust toolchain first"
  cargo build --quiet --workspace --bins
  built=${CARGO_TARGET_DIR:-target}/debug
fi

# A place of its own, for a user that is not root: the server refuses that one.
home=$(mktemp -d "${TMPDIR:-/tmp}/demo-XXXXXX")
chmod 755 "$home"
mkdir "$home/bin" "$home/bucket"
cp "$built"/barman-cloud-{backup,restore,wal-archive,wal-restore} "$home/bin/"
user=()
if [[ $(id -u) = 0 ]]; then
  name=postgres
  id -u "$name" >/dev/null 2>&1 || name=nobody
  user=(setpriv "--reuid=$name" "--regid=$(id -g "$name")" --clear-groups)
  chown -R "$name" "$home"
fi
as() { (cd "$home" && PATH="$home/bin:$pg:$PATH" HOME="$home" "${user[@]}" "$@"); }
stop() {
  local pid_file
  for pid_file in "$home"/*/postmaster.pid; do
    [[ -e $pid_file ]] && as pg_ctl -D "$(dirname "$pid_file")" -m immediate -w stop >/dev/null 2>&1
  done
  rm -rf "$home"
}
trap stop EXIT
sql() { as psql -X -h "$home" -U postgres -d postgres -qAtc "$1"; }
start() { as pg_ctl -D "$1" -l "$home/log" -w -o "-k $home -c listen_addresses=" start >/dev/null || die "the server did not start: $(tail -3 "$home/log")"; }
# until_true SECONDS QUERY: asks until the answer is t
until_true() {
  local end=$((SECONDS + $1))
  while [[ $(sql "$2" 2>/dev/null) != t ]]; do
    ((SECONDS < end)) || die "waited $1 seconds in vain for: $2"
    read -rt 0.1 <> <(:) || true
  done
}
url=file://$home/bucket

story "A PostgreSQL server that archives its WAL into a directory"
as initdb -D "$home/cluster" -A trust -U postgres --no-sync >/dev/null
as tee -a "$home/cluster/postgresql.conf" >/dev/null <<CONF
archive_mode = on
archive_command = '$home/bin/barman-cloud-wal-archive --zstd $url main %p'
CONF
start "$home/cluster"
shown "archive_command = 'barman-cloud-wal-archive --zstd file:///…/bucket main %p'"
sql "CREATE TABLE orders (id int PRIMARY KEY, item text)"
sql "INSERT INTO orders SELECT i, 'before the backup' FROM generate_series(1, 10000) i"
printf '   10000 orders are in.\n'

story "A base backup while it runs"
shown "barman-cloud-backup --immediate-checkpoint --lz4 --name demo file:///…/bucket main"
as barman-cloud-backup --immediate-checkpoint --lz4 --name demo -h "$home" -U postgres "$url" main
printf '   %s\n' "$(cd "$home/bucket" && find main/base -name 'data*' | sort | tr '\n' ' ')"

story "Life goes on, and then there is an accident"
sql "INSERT INTO orders SELECT i, 'after the backup' FROM generate_series(10001, 15000) i"
good=$(sql "SELECT count(*) || ' ' || md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o")
moment=$(sql "SELECT clock_timestamp()")
printf '   5000 more orders are in; it is %s.\n' "$moment"
sql "DELETE FROM orders WHERE id % 3 = 0"
sql "INSERT INTO orders VALUES (99999, 'written by mistake')"
printf '   Somebody deletes every third order.\n'
last=$(sql "SELECT pg_walfile_name(pg_switch_wal())")
until_true 60 "SELECT last_archived_wal >= '$last' FROM pg_stat_archiver"

story "The disk dies"
shown "rm -rf cluster"
as pg_ctl -D "$home/cluster" -m immediate -w stop >/dev/null
rm -rf "$home/cluster"

story "Restore to the moment before the accident"
shown "barman-cloud-restore file:///…/bucket main demo restored"
as barman-cloud-restore "$url" main demo "$home/restored"
as tee -a "$home/restored/postgresql.auto.conf" >/dev/null <<CONF
archive_mode = off
restore_command = '$home/bin/barman-cloud-wal-restore $url main %f %p'
recovery_target_time = '$moment'
recovery_target_action = promote
CONF
as touch "$home/restored/recovery.signal"
shown "restore_command = 'barman-cloud-wal-restore file:///…/bucket main %f %p'"
shown "recovery_target_time = '$moment'"
start "$home/restored"
until_true 60 "SELECT NOT pg_is_in_recovery()"

story "Are exactly the right rows there?"
found=$(sql "SELECT count(*) || ' ' || md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o")
printf '   then: %s\n   now:  %s\n' "$good" "$found"
[[ $good = "$found" ]] || die "the rows are not those of $moment"
printf '\n%sThe cluster is back as it was at %s.%s\n' "$green" "$moment" "$plain"
