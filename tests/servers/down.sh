#!/usr/bin/env bash
# Stops what up.sh started, by process id, and removes its data. Does nothing
# where nothing runs.
#
#   down.sh [azurite] [ceph] [gcs] [moto]     all of them if none is named
. "$(dirname "$0")/common.sh"

[[ -e $state ]] || exit 0
own_state
names=("$@")
(($#)) || names=(azurite ceph gcs moto)
for name in "${names[@]}"; do
  [[ ! -e $state/$name ]] || stop_all "$state/$name"
done
compgen -G "$state/*/pids" >/dev/null || rm -f "$state/aws-config" "$state/.lock"
rmdir --ignore-fail-on-non-empty "$state"
