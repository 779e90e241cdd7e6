#!/usr/bin/env bash
# Barman's own tools, as the other side of every exchange.
#
#   barman.sh install    into the cache; prints TEST_BARMAN_BIN, the folder with
#                        the tools and with a Python that has their codecs
#
# They are run, never read: they are under another licence.
. "$(dirname "$0")/common.sh"

# Without its dependencies, because it names the driver for PostgreSQL that has
# to be compiled; `psycopg2-binary` is the same module, compiled.
make_barman() {
  local folder=${*: -1}
  make_venv "${@:2:$#-2}" "$folder" || return
  "$folder/bin/pip" install -q --disable-pip-version-check --no-deps "$1" || return
  "$folder/bin/barman-cloud-backup" --version
}

install_barman() {
  apt_need flock util-linux
  # Barman runs it to copy a cluster.
  apt_need rsync rsync
  # Its server looks with this whether WAL is compressed.
  apt_need file file
  need_venv
  local barman=barman==3.19.1 folder
  local needs=(psycopg2-binary==2.9.11 python-dateutil==2.9.0.post0 boto3==1.44.5
    azure-storage-blob==12.31.1 azure-identity==1.27.0
    google-cloud-storage==3.17.1 google-auth==2.62.2
    azure-mgmt-compute==39.0.0 google-cloud-compute==1.56.0
    python-snappy==0.7.3 cramjam==2.11.0 lz4==4.4.5 zstandard==0.25.0)
  folder=$(once "barman-$(key_of "$barman" "${needs[@]}")" make_barman "$barman" "${needs[@]}")
  echo "export TEST_BARMAN_BIN=$folder/bin"
}

case ${1:-} in
  install) install_barman ;;
  *) die "usage: barman.sh install" ;;
esac
