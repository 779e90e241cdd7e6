#!/usr/bin/env bash
# WAL of a real PostgreSQL under pgbench's load, as input of bench/wal.sh.
#
#   make_wal.sh COUNT    makes COUNT segments of 16 MB that follow each other, once,
#                        and prints the folder: wal/ with them, pgdata/ with what a
#                        tool wants to know of their server (PG_VERSION, pg_control)
#
# It is kept in the tests' cache: 16 MB for each segment.
. "$(dirname "$0")/../tests/servers/common.sh"

# One transaction of pgbench touches three rows in pages that were, after the last
# checkpoint, mostly untouched, so whole pages are a large part of the WAL; the more so
# the more often there is a checkpoint. This is one in about half a GB: a busy server's.
# Nothing is recycled: without that, of hundreds of segments some were missing that were never
# archived, and why is not known.
settings=(-c fsync=off -c synchronous_commit=off -c shared_buffers=512MB -c max_wal_size=1GB
  -c wal_level=replica -c archive_mode=on -c archive_command= -c wal_keep_size=1TB -c autovacuum_naptime=10s
  -c listen_addresses=)
scale=30

make_wal() {
  local count=$1 folder=$2 bin as=() data=$2/data first name
  bin=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)")
  if [[ $(id -u) = 0 ]]; then
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    chown postgres "$folder"
  fi
  cd "$folder" || return
  "${as[@]}" "$bin/initdb" -D "$data" -A trust -U postgres --no-sync >log || return
  "${as[@]}" "$bin/pg_ctl" -D "$data" -l "$folder/server.log" -w -o "${settings[*]} -k $folder" start >>log || return
  # The server ends with this run, whatever becomes of it.
  trap '"${as[@]}" "$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1' EXIT
  trap 'exit 143' INT TERM
  local to=(-h "$folder" -U postgres)
  "${as[@]}" "$bin/pgbench" "${to[@]}" -i -q -s "$scale" postgres 2>>log || return
  # pgbench leaves these columns blank: WAL of them would shrink to a tenth, which that
  # of real tables does not.
  "${as[@]}" "$bin/psql" "${to[@]}" -d postgres -q \
    -c 'ALTER TABLE pgbench_accounts ALTER filler TYPE char(84) USING md5(random()::text)' || return
  # What filled the tables is not the load that is wanted.
  first=$("${as[@]}" "$bin/psql" "${to[@]}" -d postgres -qAt -c CHECKPOINT -c 'SELECT pg_switch_wal()' \
    -c "SELECT pg_walfile_name(pg_current_wal_lsn() + 1)") || return
  first=$(tail -1 <<<"$first")
  while (($(whole_from "$first" "$data" | grep -c .) < count)); do
    "${as[@]}" "$bin/pgbench" "${to[@]}" -n -c 8 -j 2 -T 5 postgres >>log 2>&1 || return
  done
  "${as[@]}" "$bin/pg_ctl" -D "$data" -w -m fast stop >>log || return
  trap - EXIT
  mkdir -p wal pgdata/global || return
  while read -r name; do
    mv "$data/pg_wal/$name" wal/ || return
  done < <(whole_from "$first" "$data" | head -n "$count")
  mv "$data/PG_VERSION" pgdata/ && mv "$data/global/pg_control" pgdata/global/ || return
  rm -rf "$data"
  chmod -R a+rX "$folder"
}

# whole_from NAME DATA   segments that are whole, from NAME on: whatever comes before one that
#                        waits to be archived, and behind the last gap, if there is one
whole_from() {
  python3 - "$1" "$2/pg_wal" <<'PYTHON'
import os, re, sys

first, folder = sys.argv[1:]
marks = (re.fullmatch(r"([0-9A-F]{24})\.ready", name) for name in os.listdir(f"{folder}/archive_status"))
last = max((mark[1] for mark in marks if mark), default="")
run, after = [], None
for name in sorted(name for name in os.listdir(folder) if re.fullmatch("[0-9A-F]{24}", name)):
    if first <= name <= last:
        number = int(name[8:16], 16) * 256 + int(name[16:], 16)
        run = run + [name] if number == after else [name]
        after = number + 1
print(*run, sep="\n")
PYTHON
}

# follow_each_other FOLDER   whether the segments in FOLDER, of which a gap would look like
#                            WAL that a tool has lost, do
follow_each_other() {
  local name number last=
  for name in $(cd "$1" && LC_ALL=C ls); do
    number=$((16#${name:8:8} * 256 + 16#${name:16:8}))
    [[ -z $last || $number = $((last + 1)) ]] || return
    last=$number
  done
}

count=${1:-}
[[ $count =~ ^[1-9][0-9]*$ ]] || die "usage: make_wal.sh COUNT"
apt_need setpriv util-linux
apt_need pgbench postgresql postgresql-contrib
# More than enough from an earlier run will do.
for folder in "$cache"/bench-wal-*; do
  if [[ -e $folder/.whole && $(find "$folder/wal" -type f | wc -l) -ge $count ]] &&
    follow_each_other "$folder/wal"; then
    echo "$folder"
    exit
  fi
done
note "making $count segments of WAL"
# Beside its place, and not under the cache's lock, which others would wait for.
mkdir -p "$cache"
making=$(mktemp -d "$cache/making-wal.XXXXXX")
trap 'rm -rf "$making"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$making"
(make_wal "$count" "$making") || die "could not make WAL: see what was said above"
follow_each_other "$making/wal" || {
  grep -E 'archive status|PANIC|FATAL' "$making/server.log" >&2 || true
  die "PostgreSQL left out segments: see what it said above, and start again"
}
touch "$making/.whole"
folder=$cache/bench-wal-$count
# Another run may have been faster, with as good a result.
if ! [[ -e $folder/.whole ]] || ! follow_each_other "$folder/wal"; then
  rm -rf "$folder"
  mv -T "$making" "$folder"
fi
echo "$folder"
