#!/usr/bin/env bash
#
# A PostgreSQL cluster is archived and backed up into a local directory, has an
# accident, is destroyed, and is brought back to the moment before the accident.
#
#   bash tests/demo.sh
#
# Everything lives in one temporary directory, PostgreSQL listens on a Unix
# socket in it only, and all of it is gone at the end. As root, PostgreSQL is
# installed if it is missing (Debian, apt-get) and runs as an unprivileged user.
#
#   DEMO_PROFILE=release   build and use the release profile (default: debug)
#   DEMO_BIN=DIR           use the tools in DIR, build nothing
#   CARGO_TARGET_DIR=DIR   as for cargo

set -euo pipefail

tools=(barman-cloud-backup barman-cloud-wal-archive barman-cloud-restore barman-cloud-wal-restore)
patience=60 # seconds that anything waited for may take

bold='' dim='' red='' green='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
fi

work='' log='' number=0

step() {
    number=$((number + 1))
    printf '\n%s%d. %s%s\n' "$bold" "$number" "$*" "$plain"
}

say() { printf '   %s\n' "$*"; }

die() {
    printf '\n%sdemo: %s%s\n' "$red" "$*" "$plain" >&2
    if [[ -n $log && -s $log ]]; then
        printf 'The last lines of the log of PostgreSQL:\n' >&2
        tail -n 15 "$log" | sed 's/^/   /' >&2
    fi
    exit 1
}

# The words of a command as one would type them.
typed() {
    local word line=''
    for word; do
        if [[ ! $word =~ ^[A-Za-z0-9/._:=,+%-]+$ ]]; then
            if [[ $word == *[\"\$\`\\]* ]]; then word=${word@Q}; else word="\"$word\""; fi
        fi
        line+=" $word"
    done
    printf '   %s$%s%s\n' "$dim" "$line" "$plain"
}

# As the user that PostgreSQL runs as.
as_user() {
    if [[ -n $run_as ]]; then
        setpriv --reuid="$(id -u "$run_as")" --regid="$(id -g "$run_as")" --clear-groups \
            env HOME="$work" "$@"
    else
        "$@"
    fi
}

# Show a command, run it, show what it says.
run() {
    typed "$@"
    as_user "$@" 2>&1 | sed 's/^/   /' || die "$1 failed"
}

# The same for a command whose words are of no interest while all is well. Not
# through a pipe: the server that pg_ctl starts would hold it open.
run_quietly() {
    typed "$@"
    as_user "$@" >"$work/output" 2>&1 </dev/null || {
        sed 's/^/   /' "$work/output" >&2
        die "$1 failed"
    }
}

ask() { as_user psql -X -A -t -q -v ON_ERROR_STOP=1 -c "$1"; }

# until_true WHAT QUERY: ask until the answer is t.
until_true() {
    local end=$((SECONDS + patience)) answer
    while true; do
        answer=$(ask "$2") || die "the server went away, waiting for $1"
        [[ $answer != t ]] || return 0
        ((SECONDS < end)) || die "waited $patience seconds in vain for $1"
        sleep 0.1
    done
}

cleanup() {
    local status=$? data
    trap - EXIT
    trap '' INT TERM HUP
    if [[ -n $work ]]; then
        # pg_ctl stops the process whose id is in the directory, no other.
        for data in "$work/data" "$work/new-data"; do
            if [[ -f $data/postmaster.pid ]]; then
                as_user pg_ctl -D "$data" -m immediate -w stop >/dev/null 2>&1 || true
            fi
        done
        cd /
        rm -rf -- "$work"
    fi
    exit "$status"
}

# ---- what is needed ---------------------------------------------------------

find_initdb() {
    local found
    found=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)
    [[ -x $found ]] && pgbin=${found%/initdb}
}

install_packages() {
    if ((EUID != 0)); then
        die "missing: $*; install it (apt-get install $*), or run this as root"
    fi
    command -v apt-get >/dev/null || die "missing: $*; there is no apt-get to install it with"
    say "missing: $*; installing it with apt-get"
    local output
    output=$({ apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
        2>&1 </dev/null) || die "apt-get install $* failed:"$'\n'"$output"
}

absolute() { if [[ $1 == /* ]]; then printf '%s' "$1"; else printf '%s' "$PWD/$1"; fi; }

# Relative to where we were called, so before the change of directory.
[[ -z ${DEMO_BIN:-} ]] || DEMO_BIN=$(absolute "$DEMO_BIN")
if [[ -n ${CARGO_TARGET_DIR:-} ]]; then
    CARGO_TARGET_DIR=$(absolute "$CARGO_TARGET_DIR")
    export CARGO_TARGET_DIR
fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$PWD

step 'What is needed: PostgreSQL and the tools'

find_initdb || {
    install_packages postgresql
    find_initdb || die 'the package postgresql brought no /usr/lib/postgresql/*/bin/initdb'
}
say "$("$pgbin/postgres" --version)"

run_as=''
if ((EUID == 0)); then
    for run_as in postgres nobody ''; do
        [[ -n $run_as ]] || die 'PostgreSQL does not run as root, and there is no user postgres or nobody'
        if id -u "$run_as" >/dev/null 2>&1; then break; fi
    done
    command -v setpriv >/dev/null || die 'missing: setpriv (package util-linux)'
    say "We are root, PostgreSQL and the tools run as $run_as."
fi

if [[ -n ${DEMO_BIN:-} ]]; then
    built=$DEMO_BIN
else
    profile=${DEMO_PROFILE:-debug}
    command=(cargo build --quiet --workspace --bins)
    case $profile in
        debug) ;;
        release) command+=(--release) ;;
        *) die "DEMO_PROFILE is debug or release, not $profile" ;;
    esac
    command -v cargo >/dev/null || PATH=$PATH:${HOME:-}/.cargo/bin
    command -v cargo >/dev/null ||
        die "missing: cargo; install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer, or name a directory with the tools in DEMO_BIN"
    command -v cc >/dev/null || install_packages gcc libc6-dev
    typed "${command[@]}"
    "${command[@]}" || die 'the build failed'
    built=${CARGO_TARGET_DIR:-$root/target}/$profile
fi
for tool in "${tools[@]}"; do
    [[ -x $built/$tool ]] || die "there is no $tool in $built"
done

# The path of a Unix socket is at most 107 bytes, and ours stands in commands.
base=${TMPDIR:-/tmp}
[[ $base =~ ^/[A-Za-z0-9/._-]*$ && ${#base} -le 60 ]] || base=/tmp
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
work=$(mktemp -d "${base%/}/demo.XXXXXX")
mkdir "$work/bin" "$work/bucket"
for tool in "${tools[@]}"; do cp -- "$built/$tool" "$work/bin/"; done
chmod 755 "$work/bin" "$work/bin"/*
[[ -z $run_as ]] || chown -R "$run_as:" "$work"
cd "$work"

# Nothing of the caller's own PostgreSQL settings, all of ours.
for variable in "${!PG@}"; do unset "$variable"; done
export PATH="$work/bin:$pgbin:$PATH" LC_ALL=C.UTF-8
export PGHOST=$work PGUSER=postgres PGDATABASE=postgres

version=$(as_user barman-cloud-backup --version) ||
    die "$work/bin/barman-cloud-backup does not run; name another place for temporary files in TMPDIR"
say "$version"

store=file://$work/bucket
fingerprint="select count(*) || ' rows, md5 ' || md5(string_agg(a::text, ',' order by id)) from account a"

# ---- the story --------------------------------------------------------------

step 'A cluster that archives its WAL'
run_quietly initdb -D "$work/data" -U postgres -A trust -E UTF8 --locale=C --no-sync
settings="listen_addresses = ''
unix_socket_directories = '$work'
archive_mode = on
archive_command = '$work/bin/barman-cloud-wal-archive --zstd $store demo %p'"
as_user tee -a "$work/data/postgresql.conf" >/dev/null <<<"$settings"
say 'In postgresql.conf:'
say "  ${settings//$'\n'/$'\n     '}"
log=$work/log
run_quietly pg_ctl -D "$work/data" -l "$log" -w -t "$patience" start
run psql -X -q -c 'create table account (id int primary key, owner text, balance int)'
run psql -X -c "insert into account select n, 'owner ' || n, n * 10 from generate_series(1, 1000) n"

step 'A base backup'
run barman-cloud-backup --immediate-checkpoint --lz4 --name demo-backup \
    -h "$work" -U postgres "$store" demo
say 'In the bucket:'
(cd bucket && find demo/base -type f -printf '     %p, %s bytes\n' | sort)

step 'Life goes on: rows that only the WAL has'
run psql -X -c "insert into account select n, 'owner ' || n, n * 10 from generate_series(1001, 1500) n"
good=$(ask "$fingerprint")
moment=$(ask 'select clock_timestamp()')
say "It is $moment, and all is well:"
say "$good"

step 'The accident'
run psql -X -c 'delete from account where id % 3 = 0'
run psql -X -c 'update account set balance = 0'
run psql -X -c "insert into account values (666, 'mallory', 1000000)"
bad=$(ask "$fingerprint")
say "$bad"
[[ $bad != "$good" ]] || die 'the accident changed nothing, so this shows nothing'

step 'The last WAL reaches the archive'
query='select pg_walfile_name(pg_switch_wal())'
typed psql -X -A -t -c "$query"
wal=$(ask "$query")
say "$wal"
until_true "$wal in the archive" \
    "select coalesce(last_archived_wal ~ '^[0-9A-F]{24}\$' and last_archived_wal >= '$wal', false) from pg_stat_archiver"
say "$(ask "select archived_count || ' files archived, the last is ' || last_archived_wal from pg_stat_archiver")"

step 'The cluster is destroyed'
run_quietly pg_ctl -D "$work/data" -m immediate -w -t "$patience" stop
run rm -rf "$work/data"
[[ ! -e $work/data ]] || die 'the cluster is still there'

step 'The backup is restored'
run barman-cloud-restore "$store" demo demo-backup "$work/new-data"
settings="restore_command = '$work/bin/barman-cloud-wal-restore --spool-dir $work/spool $store demo %f %p'
recovery_target_time = '$moment'
recovery_target_action = 'promote'"
as_user tee -a "$work/new-data/postgresql.conf" >/dev/null <<<"$settings"
say 'In postgresql.conf:'
say "  ${settings//$'\n'/$'\n     '}"
run touch "$work/new-data/recovery.signal"

step 'Recovery, up to the moment before the accident'
log=$work/new-log
run_quietly pg_ctl -D "$work/new-data" -l "$log" -w -t "$patience" start
until_true 'the end of recovery' 'select not pg_is_in_recovery()'
grep -E -o 'recovery stopping before .*|last completed transaction .*|selected new timeline .*' "$log" |
    sed 's/^/   /' || die 'the server is up, but its log tells of no recovery to a point in time'

step 'Are they the right rows?'
typed psql -X -A -t -c "$fingerprint"
found=$(ask "$fingerprint")
say "before the accident:  $good"
say "after the accident:   $bad"
say "now:                  $found"
[[ $found == "$good" ]] || die "these are not the rows of $moment"
ask "insert into account values (2000, 'the first new owner', 1)" || die 'the cluster takes no writes'

printf '\n%sThe cluster is back as it was at %s.%s\n' "$green$bold" "$moment" "$plain"
