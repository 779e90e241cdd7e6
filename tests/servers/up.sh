#!/usr/bin/env bash
# Installs and starts the object stores that the tests use, on 127.0.0.1, and
# prints the variables that lead to them. What runs already is left running, so
# it may be called again.
#
#   up.sh [install] [ceph] [moto]     all of them if none is named; `install`
#                                     only installs
#
#   exports=$(tests/servers/up.sh) && eval "$exports"
#   cargo nextest run
#   tests/servers/down.sh
. "$(dirname "$0")/common.sh"

only_install=
if [[ ${1:-} = install ]]; then
  only_install=1
  shift
fi
names=("$@")
(($#)) || names=(ceph moto)
for name in "${names[@]}"; do
  [[ $name = ceph || $name = moto ]] || die "no such server: $name; there are ceph and moto"
  "$here/$name.sh" install
done
# Its Python is also what looks into the buckets of a test (s3_admin.py).
python=$("$here/moto.sh" python)
[[ -z $only_install ]] || exit 0

# running FOLDER   whether all processes of a server that was ready are there
running() {
  local pid
  [[ -e $1/env ]] || return
  for pid in $(<"$1/pids"); do
    alive "$1" "$pid" || return
  done
}

own_state
exec 8>"$state/.lock"
flock 8
starters=()
for name in "${names[@]}"; do
  folder=$state/$name
  running "$folder" && continue
  [[ ! -e $folder ]] || stop_all "$folder"
  mkdir -m 0755 "$folder"
  setsid "$here/$name.sh" start "$folder" >"$folder/start.out" 2>&1 8>&- &
  echo $! >"$folder/starter"
  starters+=("$!:$name")
done
for starter in "${starters[@]}"; do
  wait "${starter%%:*}" || {
    tail -n 5 "$state/${starter#*:}/start.out" >&2
    die "${starter#*:} did not start: the logs are in $state/${starter#*:}"
  }
done
for name in "${names[@]}"; do cat "$state/$name/env"; done
echo "export TEST_S3_PYTHON=$python"
