#!/usr/bin/env bash
# The link by which a cloud's system knows a disk, to a device of a test's own (needs root).
#
#   disk_link.sh up LINK DEVICE      LINK lies below /dev/disk and must not be there
#   disk_link.sh down LINK DEVICE    removes it, if it still leads to DEVICE
#
# Nothing else in /dev is touched; folders go with their last link.
set -euo pipefail
link=$2 device=$3
[[ $link = /dev/disk/* && $link != *..* && -b $device ]] || exit 2
case $1 in
  up)
    [[ ! -e $link && ! -L $link ]] || exit 3
    mkdir -p "$(dirname "$link")"
    ln -s "$device" "$link"
    ;;
  down)
    [[ -L $link && $(readlink "$link") = "$device" ]] || exit 0
    rm "$link"
    rmdir -p --ignore-fail-on-non-empty "$(dirname "$link")" 2>/dev/null || true
    ;;
  *) exit 2 ;;
esac
