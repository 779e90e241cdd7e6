#!/usr/bin/env bash
# Debian's Prometheus, and promtool.
#
#   prometheus.sh install    into the cache; prints TEST_PROMETHEUS, the folder of
#                            both programs
#
# The package is unpacked and not installed, which would start a service that
# listens on all addresses.
. "$(dirname "$0")/common.sh"

unpack() {
  local folder=$1
  command -v apt-get dpkg-deb >/dev/null ||
    die "there is no apt-get: set TEST_PROMETHEUS to a folder with prometheus and promtool"
  (
    cd "$folder"
    apt-get download -q prometheus >/dev/null 2>&1 || {
      apt-get update -q >/dev/null
      apt-get download -q prometheus >/dev/null
    }
  ) || return
  dpkg-deb -x "$folder"/prometheus_*.deb "$folder" || return
  rm "$folder"/prometheus_*.deb
  "$folder/usr/bin/promtool" --version || return
  chmod -R a+rX "$folder"
}

case ${1:-} in
install) echo "export TEST_PROMETHEUS=$(once prometheus unpack)/usr/bin" ;;
*) die "usage: prometheus.sh install" ;;
esac
