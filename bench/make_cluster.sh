#!/usr/bin/env bash
# A data directory of PostgreSQL with tables as people have them, as input of bench/base.sh.
#
#   make_cluster.sh MB   makes one of about so many million bytes, once, and prints its
#                        folder: data/, cleanly shut down, its WAL archived to nowhere
#
# A third each: rows of pgbench with their indexes, text, and bytes that no codec shrinks.
# It is kept in the tests' cache.
. "$(dirname "$0")/../tests/servers/common.sh"

# rows KIND MB   rows for COPY: the same in every run
rows() {
  python3 - "$1" "$2" <<'PYTHON'
import random, sys

kind, left = sys.argv[1], int(sys.argv[2]) * 1_000_000
dice = random.Random(kind)
letters = "etaoinshrdlucmfwypvbgkjqxz"
# Words are used as often as those of a language: the one of rank n with weight 1/n.
words = ["".join(dice.choices(letters, range(26, 0, -1), k=dice.randint(2, 9))) for _ in range(20_000)]
steps, sum_ = [], 0.0
for rank in range(len(words)):
    sum_ += 1 / (rank + 1)
    steps.append(sum_)
number = 0
while left > 0:
    number += 1
    if kind == "text":
        row = " ".join(dice.choices(words, cum_weights=steps, k=400))
        left -= len(row)
    else:
        row = dice.randbytes(7900)
        left -= 8192
        row = f"\\\\x{row.hex()}"
    sys.stdout.write(f"{number}\t{row}\n")
PYTHON
}

make_cluster() {
  local size=$1 folder=$2 bin as=() data=$2/data
  bin=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)")
  if [[ $(id -u) = 0 ]]; then
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    chown postgres "$folder"
  fi
  cd "$folder" || return
  "${as[@]}" "$bin/initdb" -D "$data" -A trust -U postgres --no-sync >log || return
  "${as[@]}" "$bin/pg_ctl" -D "$data" -l "$folder/server.log" -w start >>log \
    -o "-c fsync=off -c autovacuum=off -c wal_level=minimal -c max_wal_senders=0 -c max_wal_size=200MB -c listen_addresses= -k $folder" || return
  # The server ends with this run, whatever becomes of it.
  trap '"${as[@]}" "$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1' EXIT
  trap 'exit 143' INT TERM
  local sql=("$bin/psql" -h "$folder" -U postgres -d postgres -q -v ON_ERROR_STOP=1)
  # A unit of the scale is 15 MB, with indexes.
  "${as[@]}" "$bin/pgbench" -h "$folder" -U postgres -i -q -s $((size / 45 + 1)) postgres 2>>log || return
  # pgbench leaves these columns blank, as no real table does.
  "${as[@]}" "${sql[@]}" -c 'ALTER TABLE pgbench_accounts ALTER filler TYPE char(84) USING md5(random()::text)' || return
  "${as[@]}" "${sql[@]}" -c 'CREATE TABLE noise (id int, body bytea); ALTER TABLE noise ALTER body SET STORAGE PLAIN' \
    -c 'CREATE TABLE words (id int, body text); ALTER TABLE words ALTER body SET STORAGE PLAIN' || return
  local table
  for table in noise:noise words:text; do
    rows "${table#*:}" $((size / 3)) | "${as[@]}" "${sql[@]}" -c "COPY ${table%:*} FROM STDIN" || return
  done
  "${as[@]}" "$bin/psql" -h "$folder" -U postgres -d postgres -q -c 'VACUUM FREEZE' -c CHECKPOINT -c CHECKPOINT || return
  "${as[@]}" "$bin/pg_ctl" -D "$data" -w -m fast stop >>log || return
  trap - EXIT
}

size=${1:-}
[[ $size =~ ^[1-9][0-9]*$ ]] || die "usage: make_cluster.sh MB"
apt_need setpriv util-linux
apt_need python3 python3
apt_need pgbench postgresql postgresql-contrib
folder=$cache/bench-cluster-$size
if [[ ! -e $folder/.whole ]]; then
  note "making a cluster of $size MB"
  mkdir -p "$cache"
  making=$(mktemp -d "$cache/making-cluster.XXXXXX")
  trap 'rm -rf "$making"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  chmod 755 "$making"
  (make_cluster "$size" "$making") || die "could not make a cluster: see what was said above"
  touch "$making/.whole"
  # Another run may have been faster, with as good a result.
  [[ -e $folder/.whole ]] || mv -T "$making" "$folder"
fi
echo "$folder"
