#!/usr/bin/env bash
# Patroni, which runs PostgreSQL's servers for the tests of docs/patroni.md.
#
#   patroni.sh install    into the cache; prints TEST_PATRONI, the folder of its
#                         programs
#
# Its nodes agree by its own Raft, so that no further server is needed.
. "$(dirname "$0")/common.sh"

install_patroni() {
  apt_need flock util-linux
  # The page asks a node with it whether it is the primary.
  apt_need curl curl
  local folder
  folder=$(venv patroni 'patroni[raft]==4.1.5' pysyncobj==0.3.17 'psycopg[binary]==3.3.9')
  echo "export TEST_PATRONI=$folder/bin"
}

case ${1:-} in
install) install_patroni ;;
*) die "usage: patroni.sh install" ;;
esac
