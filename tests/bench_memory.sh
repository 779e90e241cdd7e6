#!/usr/bin/env bash
# Peak memory of a backup of a large and of a small cluster, which must not
# differ: usage tests/bench_memory.sh [LARGE_MB] [SMALL_MB]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
large=${1:-2048}
small=${2:-200}
cargo build --quiet --release -p barman-cloud-backup
binary=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)/barman-cloud-backup
bin=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)")
work=$(mktemp -d)
chmod 755 "$work"
cp "$binary" "$work/"
user=()
if [[ $(id -u) = 0 ]]; then
  user=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  chown postgres "$work"
fi
as() { (cd "$work" && "${user[@]}" "$@"); }
stop() {
  [[ -f $work/data/postmaster.pid ]] && kill -QUIT "$(head -1 "$work/data/postmaster.pid")" 2>/dev/null
  sleep 1
  rm -rf "$work"
}
trap stop EXIT
as "$bin/initdb" -D "$work/data" -A trust -U postgres --no-sync >/dev/null
as "$bin/pg_ctl" -D "$work/data" -l "$work/log" -w -o "-k $work -c listen_addresses= -c fsync=off -c max_wal_size=8GB" start >/dev/null
sql() { as "$bin/psql" -h "$work" -U postgres -d postgres -qAtc "$1"; }
sql "CREATE TABLE fill (body text); ALTER TABLE fill ALTER body SET STORAGE external"
grow_to() {
  # 1,024 rows of 1 KiB of text that compresses badly, again and again.
  while (($(sql "SELECT pg_relation_size('fill') >> 20") < $1)); do
    sql "INSERT INTO fill SELECT (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 32) j) FROM generate_series(1, 20480) i"
  done
  sql "CHECKPOINT"
}
measure() {
  local codec peak
  for codec in none gzip bzip2 snappy lz4 zstd; do
    rm -rf "$work/bucket"
    as mkdir "$work/bucket"
    local option=()
    [[ $codec = none ]] || option=("--$codec")
    peak=$(cd "$work" && python3 - "${user[@]}" "$work/barman-cloud-backup" --immediate-checkpoint "${option[@]}" \
      -h "$work" -U postgres "file://$work/bucket" main <<'PY'
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
PY
    )
    printf '%6d MB %-7s peak %6.1f MiB\n' "$1" "$codec" "$(awk "BEGIN { print $peak / 1024 }")"
  done
}
grow_to "$small"
measure "$small"
grow_to "$large"
measure "$large"
