#!/usr/bin/env bash
# Ceph's RADOS gateway on a cluster of one monitor and one OSD in memory: a
# production S3 server, over HTTP and over TLS. Without a manager, which takes
# 300 MB and does nothing that objects need.
#
#   ceph.sh install          what Debian's packages have; needs root
#   ceph.sh start FOLDER     starts it, returns when it answers; FOLDER gets its
#                            data and the file `env` with what tests need
. "$(dirname "$0")/common.sh"

# Memory that objects may take, in bytes; it is not taken in advance.
capacity=$((8 << 30))

install_ceph() {
  apt_need radosgw ceph-mon ceph-osd ceph-common radosgw
  apt_need uuidgen uuid-runtime
  apt_need openssl openssl
  apt_need flock util-linux
}

# A hundred ports that nobody listens on, below those that the system gives to
# clients: the cluster's processes take what is free of a range.
free_ports() {
  local base port tries
  for ((tries = 0; tries < 50; tries++)); do
    base=$((20000 + RANDOM % 120 * 100))
    for ((port = base; port < base + 100; port++)); do
      if port_open $port; then continue 2; fi
    done
    echo $base
    return
  done
  die "found no hundred free ports in a row between 20000 and 32000"
}

configuration() {
  local folder=$1 base=$2 fsid=$3
  cat <<C
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$((base + 2))/0,v1:127.0.0.1:$((base + 3))/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
ms bind port min = $((base + 4))
ms bind port max = $((base + 99))
auth allow insecure global id reclaim = false
keyring = $folder/keyring
run dir = $folder/run
admin socket = $folder/run/\$name.\$pid.asok
log file = $folder/\$name.log
mon data = $folder/mon
osd data = $folder/osd
rgw data = $folder/rgw
# One of everything.
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
# The monitor's pause between two changes of the cluster; one second by default,
# and each of the gateway's pools is several changes.
paxos propose interval = 0.05
osd objectstore = memstore
memstore device bytes = $capacity
# What is deleted is gone at once and not in two hours: it lies in memory.
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = testkey-1=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
C
}

start() {
  local folder=$1 base fsid conf
  base=$(free_ports)
  fsid=$(uuidgen)
  conf=$folder/ceph.conf
  mkdir -p "$folder"/{mon,osd,rgw,run}
  configuration "$folder" "$base" "$fsid" >"$conf"
  certificate "$folder"

  local keyring=$folder/keyring
  key() { ceph-authtool "$keyring" --gen-key -n "$@"; }
  ceph-authtool --create-keyring "$keyring"
  key mon. --cap mon 'allow *'
  key client.admin --cap mon 'allow *' --cap osd 'allow *'
  key osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'

  monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$((base + 2)),v1:127.0.0.1:$((base + 3))]" "$folder/monmap"
  ceph-mon -c "$conf" --mkfs -i a --monmap "$folder/monmap" --keyring "$keyring"
  daemon "$folder" mon.out ceph-mon -f -c "$conf" -i a
  CEPH_ARGS="--connect-timeout 60" ceph -c "$conf" osd new "$fsid" 0
  ceph-osd -c "$conf" -i 0 --osd-uuid "$fsid" --mkfs
  daemon "$folder" osd.out ceph-osd -f -c "$conf" -i 0
  # Also the first to make the gateway's pools; waits until there is an OSD.
  radosgw-admin -c "$conf" user create --uid test --display-name test \
    --access-key $access_key --secret-key $secret_key
  radosgw-admin -c "$conf" user create --uid guest --display-name guest \
    --access-key $guest_access_key --secret-key $guest_secret_key
  daemon "$folder" rgw.out radosgw -f -c "$conf" -n client.admin --keyring "$keyring" --rgw-frontends \
    "beast tcp_nodelay=1 endpoint=127.0.0.1:$base ssl_endpoint=127.0.0.1:$((base + 1)) ssl_certificate=$folder/tls.pem ssl_private_key=$folder/tls.key"
  wait_for 60 "the gateway to listen" port_open "$base"
  cat >"$folder/env.part" <<ENV
export TEST_S3_CEPH_URL=http://127.0.0.1:$base
export TEST_S3_CEPH_TLS_URL=https://127.0.0.1:$((base + 1))
export TEST_S3_CEPH_CA=$folder/ca.pem
ENV
  mv "$folder/env.part" "$folder/env"
}

case ${1:-} in
  install) install_ceph ;;
  start) start "$2" ;;
  *) die "usage: ceph.sh install | start FOLDER" ;;
esac
