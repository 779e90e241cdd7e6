# Sourced by the scripts beside it: where things lie, installing, starting and
# stopping by process id. Nothing that is started binds to anything but
# 127.0.0.1.
#
#   TEST_SERVERS_CACHE  what is installed, kept between runs
#                       (default: ${XDG_CACHE_HOME:-~/.cache}/barman-cloud-tests;
#                       for root below /var/cache, since root's tests run what is
#                       there as another user, who may not enter root's home)
#   TEST_SERVERS_STATE  what runs: a folder for each server with its data, logs
#                       and process ids (default: $TMPDIR/barman-cloud-tests.UID);
#                       two runs at the same time need two of these
# shellcheck shell=bash disable=SC2034
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $(id -u) = 0 ]]; then
  caches=/var/cache
else
  caches=${XDG_CACHE_HOME:-$HOME/.cache}
fi
cache=${TEST_SERVERS_CACHE:-$caches/barman-cloud-tests}
state=${TEST_SERVERS_STATE:-${TMPDIR:-/tmp}/barman-cloud-tests.$(id -u)}

# The keys that every S3 server here takes; tests/src/s3.rs has them too.
access_key='test'
secret_key=testtesttest
# And those of somebody who may do in Ceph only what a policy allows.
guest_access_key='guest'
guest_secret_key=guestguestguest

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# note TEXT…   what a person who waits wants to know; results go to stdout
note() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }

# The folder for what runs, for nobody else: process ids in it are signalled.
own_state() {
  [[ ! -L $state ]] || die "$state is a link: set TEST_SERVERS_STATE"
  (umask 077 && mkdir -p "$state")
  [[ -O $state ]] || die "$state belongs to somebody else: set TEST_SERVERS_STATE"
  # The tests run tools as another user, who looks for certificates here.
  chmod 0711 "$state"
}

# apt_need COMMAND PACKAGE…   installs packages when COMMAND is missing
apt_need() {
  local command=$1
  shift
  command -v "$command" >/dev/null && return
  command -v apt-get >/dev/null || die "$command is missing: install what Debian calls $*"
  [[ $(id -u) = 0 ]] || die "$command is missing: apt-get install $*"
  note "installing $*"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@")
  "${install[@]}" >/dev/null || {
    apt-get update -q >/dev/null
    "${install[@]}" >/dev/null
  } || die "could not install $*"
}

# once NAME COMMAND…   runs COMMAND with the folder for NAME in the cache as its
# last argument, unless that was done before; prints the folder. Two runs at
# the same time do not meet, and an interrupted one is done again.
once() {
  local name=$1 folder=$cache/$1
  shift
  (umask 022 && mkdir -p "$cache")
  (
    umask 022
    flock 9
    if [[ ! -e $folder/.whole ]]; then
      rm -rf "$folder"
      mkdir "$folder"
      "$@" "$folder" >&2 || die "could not install $name into $folder"
      touch "$folder/.whole"
    fi
  ) 9>"$cache/.lock"
  printf '%s\n' "$folder"
}

# The system's Python where there is one: one in somebody's home is of no use to
# the other users that tests run tools as.
system_python() {
  if [[ -x /usr/bin/python3 ]]; then echo /usr/bin/python3; else command -v python3; fi
}

need_venv() {
  apt_need python3 python3 python3-venv
  if ! "$(system_python)" -c 'import ensurepip' 2>/dev/null; then
    apt_need no-such-command-installs-always python3-venv
  fi
}

# key_of WORD…   a number for what is installed: another version gets a new folder
key_of() { printf '%s ' "$@" | cksum | cut -d' ' -f1; }

# venv NAME PACKAGE…   prints the folder of a Python environment of its own
venv() {
  local name=$1
  shift
  need_venv
  once "$name-$(key_of "$@")" make_venv "$@"
}

# make_venv PACKAGE… FOLDER
make_venv() {
  local folder=${*: -1}
  "$(system_python)" -m venv "$folder" || return
  "$folder/bin/pip" install -q --disable-pip-version-check "${@:1:$#-1}"
}

# daemon FOLDER LOG COMMAND…   starts COMMAND, which has a path below FOLDER among
# its arguments, in a session of its own and notes its process id
daemon() {
  local folder=$1 log=$1/$2
  shift 2
  setsid "$@" >>"$log" 2>&1 </dev/null 9>&- &
  echo $! >>"$folder/pids"
}

# alive FOLDER PID   whether the process is one that this folder's server
# started; its number may have been given to another since
alive() { tr '\0' ' ' 2>/dev/null <"/proc/$2/cmdline" | grep -qF -- "$1"; } 2>/dev/null

# stop_all FOLDER   ends what runs there and removes the folder
stop_all() {
  local folder=$1 pid tries signal=TERM left
  for ((tries = 0; tries < 100; tries++)); do
    left=
    # Read anew each time: its starter may have started one more meanwhile.
    # shellcheck disable=SC2013 # a number is a word
    for pid in $(cat "$folder"/{starter,pids} 2>/dev/null); do
      alive "$folder" "$pid" || continue
      left=1
      # Each leads a process group of its own.
      if ((tries == 0 || tries == 10)); then kill "-$signal" -- "-$pid" 2>/dev/null || true; fi
    done
    [[ $left ]] || break
    # Soon, because nothing is lost: all their data goes with the folder.
    if ((tries == 9)); then signal=KILL; fi
    sleep 0.1
  done
  [[ -z $left ]] || die "could not stop what runs in $folder"
  rm -rf "$folder"
}

# A certificate for 127.0.0.1 and the authority that signed it. One that signs
# itself would not do: many clients take no authority for a server.
certificate() {
  local folder=$1
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
    -keyout "$folder/ca.key" -out "$folder/ca.pem" -subj "/CN=authority for tests" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
    -keyout "$folder/tls.key" -out "$folder/tls.csr" -subj /CN=localhost
  printf '%s\n' basicConstraints=CA:FALSE keyUsage=critical,digitalSignature \
    extendedKeyUsage=serverAuth subjectAltName=IP:127.0.0.1,DNS:localhost \
    subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >"$folder/tls.ext"
  openssl x509 -req -in "$folder/tls.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
    -CAcreateserial -days 30 -extfile "$folder/tls.ext" -out "$folder/tls.pem"
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# wait_for SECONDS WHAT COMMAND…   polls COMMAND
wait_for() {
  local tries=$(($1 * 10)) what=$2 i
  shift 2
  for ((i = 0; i < tries; i++)); do
    "$@" && return
    sleep 0.1
  done
  die "waited in vain for $what"
}
