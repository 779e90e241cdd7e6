#!/usr/bin/env bash
# Memory of base backups, restores and checks with real files, release binaries and
# --jobs 2, in 96 MiB as a small container has them (where there can be such a limit):
# of a small and of a large cluster, which must not differ, and of one with a million
# files more, half of them in directories of 10,000 and half in one. All backups are
# checked, restored and compared. Prints a table; ends with 1 if a bound is missed:
#
#   64 MiB resident for a backup and a restore, up to a million files
#   60 MiB more for a million files than for a few hundred
#   10 MiB more for a backup of the large cluster than for one of the small
#   nothing is killed in 96 MiB
#
#   tests/memory.sh [--quick] [--directory] [PLACE]
#
# The store is an S3 server over TLS, or with --directory a directory, whose pages count
# for the limit. --quick has a twentieth of the files. PLACE is for all that is written,
# 13 GB (not in memory). CODECS chooses codecs: CODECS="none zstd".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/servers/common.sh # apt_need, certificate, system_python, wait_for

small=200 large=2048 files=1000000 needed=13000
store=s3
while [[ ${1:-} = --* ]]; do
  case $1 in
  --quick) large=400 files=50000 needed=3000 ;;
  --directory) store=directory ;;
  *) echo "unknown option $1" >&2 && exit 2 ;;
  esac
  shift
done
read -ra codecs <<<"${CODECS:-none gzip bzip2 snappy lz4 zstd}"
limit=96   # MiB, of the cgroup
bound=64   # MiB, resident
growth=10  # MiB, from the small to the large cluster
million=60 # MiB, for a million files

[[ $store = directory ]] || apt_need curl curl

tools=(barman-cloud-backup barman-cloud-restore barman-cloud-verify barman-cloud-wal-archive)
cargo build --quiet --release "${tools[@]/#/--package=}"
cargo build --quiet --release -p e2e --bin sizes --bin limited
binaries=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)
bin=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)")
work=$(mktemp -d ${1:+-p "$1"})
# Where the manifest waits: in a temporary file, which must not be in memory either.
export TMPDIR=$work
chmod 755 "$work"
cp "${tools[@]/#/$binaries/}" "$binaries/sizes" "$work/"
user=()
if [[ $(id -u) = 0 ]]; then
  user=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  chown postgres "$work"
fi
as() { (cd "$work" && "${user[@]}" "$@"); }
server=
stop() {
  [[ -z $server ]] || kill "$server"
  [[ ! -f $work/data/postmaster.pid ]] || as "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free=$(df -Pm "$work" | awk 'NR == 2 { print $4 }')
if ((free < needed)); then
  echo "$work has room for $free MB, and $needed are needed: name another directory" >&2
  exit 1
fi
certificate "$work" 2>"$work/certificates"
if [[ $store = s3 ]]; then
  python=$(system_python)
  exec 7> >(exec "$python" -B bench/s3_server.py "$work/tls.pem" "$work/tls.key" >"$work/ports" 2>"$work/server")
  server=$!
  # It has written both ports at once.
  wait_for 30 "the S3 server" test -s "$work/ports"
  read -r _ port <"$work/ports"
  export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-1
  export AWS_CA_BUNDLE=$work/ca.pem BARMAN_CLOUD_ENDPOINT_URL=https://localhost:$port
  to=s3://bucket/path
else
  to=file://$work/bucket
fi
chmod a+r "$work"/*.pem
# What the bucket held is gone.
empty() {
  rm -rf "$work/bucket"
  as mkdir "$work/bucket"
  [[ $store != s3 ]] || curl -sS --fail --cacert "$AWS_CA_BUNDLE" -X POST "$BARMAN_CLOUD_ENDPOINT_URL/_drop?bucket" >/dev/null
}

as "$bin/initdb" -D "$work/data" -A trust -U postgres --no-sync >/dev/null
# The WAL of what is made up here is not archived.
cat >>"$work/data/postgresql.conf" <<EOF
listen_addresses = ''
unix_socket_directories = '$work'
fsync = off
archive_mode = on
archive_command = 'test -e $work/making || $work/barman-cloud-wal-archive $to main %p'
EOF
as "$bin/pg_ctl" -D "$work/data" -l "$work/log" -w start >/dev/null
sql() { as "$bin/psql" -h "$work" -U postgres -d postgres -qAtc "$1"; }

failed=0
miss() {
  echo "  $1"
  failed=1
}
declare -A peak # in KiB, of a call with a codec on a cluster
printf '%-22s %-8s %-7s %9s %11s %8s\n' cluster call codec 'peak MiB' 'counted MiB' seconds
# row CLUSTER CALL CODEC BOUND [OPTION…]: BOUND in MiB, 0 for none
row() {
  local cluster=$1 call=$2 codec=$3 most=$4 result resident counted kills code took
  shift 4
  result=$(cd "$work" && "$binaries/limited" "$limit" "$work/barman-cloud-$call" --jobs 2 "$@")
  read -r resident counted kills code took <<<"$result"
  peak[$cluster $call $codec]=$resident
  [[ $counted = - ]] || counted=$(mib "$counted")
  printf '%-22s %-8s %-7s %9s %11s %8.1f\n' "$cluster" "$call" "$codec" "$(mib "$resident")" \
    "$counted" "$(awk "BEGIN { print $took / 1000 }")"
  ((kills == 0)) || miss "something was killed in $limit MiB"
  [[ $code = 0 ]] || miss "it ended with $code"
  ((most == 0 || resident <= most * 1024)) || miss "more than $most MiB"
}
mib() { awk "BEGIN { printf \"%.1f\", $1 / 1024 }"; }

archive_all() {
  local last
  last=$(sql "SELECT pg_walfile_name(pg_switch_wal())")
  until [[ ! $(sql "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") < $last ]]; do
    sleep 0.1
  done
}
# What the files below a directory are called, whose they are, how large and how old.
described() { (cd "$1" && find . -type f -printf '%p %m %U %G %s %T@\n' | LC_ALL=C sort); }
same() { diff -r "$1" "$2" >&2 && cmp <(described "$1") <(described "$2"); }
# measure CLUSTER [DATABASE…]: the directories of databases that nobody writes to
measure() {
  local cluster=$1 codec option database
  shift
  for codec in "${codecs[@]}"; do
    empty
    option=()
    [[ $codec = none ]] || option=("--$codec")
    row "$cluster" backup "$codec" "$bound" --immediate-checkpoint "${option[@]}" \
      -h "$work" -U postgres "$to" main
    archive_all
    row "$cluster" verify "$codec" 0 "$to" main latest
    row "$cluster" restore "$codec" "$bound" "$to" main latest "$work/restored"
    for database; do
      same "$work/data/base/$database" "$work/restored/base/$database" ||
        miss "base/$database was restored as something else"
    done
    # A million files take minutes to remove, and nothing has to wait for it.
    mv "$work/restored" "$(mktemp -d -p "$work" gone.XXXX)"
    rm -rf "$work"/gone.* &
  done
}
# compare CLUSTER WITH MOST CALL…: how much more memory the one takes than the other
compare() {
  local cluster=$1 with=$2 most=$3 codec call more
  shift 3
  for call; do
    for codec in "${codecs[@]}"; do
      more=$((${peak[$cluster $call $codec]} - ${peak[$with $call $codec]}))
      ((more <= most * 1024)) || miss "$call, $codec: $(mib "$more") MiB more with $cluster than with $with"
    done
  done
}

sql "CREATE TABLE fill (body text); ALTER TABLE fill ALTER body SET STORAGE external"
grow_to() {
  as touch "$work/making"
  # 20,480 rows of 1 KiB of text that compresses badly, again and again.
  while (($(sql "SELECT pg_relation_size('fill') >> 20") < $1)); do
    sql "INSERT INTO fill SELECT (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 32) j) FROM generate_series(1, 20480) i"
  done
  sql "CHECKPOINT"
  as rm "$work/making"
}
grow_to "$small"
measure "$small MB"
grow_to "$large"
measure "$large MB"
compare "$large MB" "$small MB" "$growth" backup

sql "DROP TABLE fill"
sql "CHECKPOINT"
databases=$((files / 2 / 10000))
as "$work/sizes" databases "$work/data/base" 900001 "$databases" 10000 100
as "$work/sizes" databases "$work/data/base" 800001 1 $((files - databases * 10000)) 100
mapfile -t names < <(seq 900001 $((900000 + databases)))
measure "$files files" 800001 "${names[@]}"
((files < 1000000)) || compare "$files files" "$small MB" "$million" backup verify restore
((failed == 0))
