#!/usr/bin/env bash
# Azurite, Microsoft's emulator of Azure Blob Storage: one over plain HTTP, and
# one over TLS that also takes tokens, with a stand-in for the service that gives
# them out (azure_entra.py).
#
#   azurite.sh install          into the cache
#   azurite.sh start FOLDER     starts all three, returns when they answer; FOLDER
#                               gets their logs and the file `env` with what tests
#                               need
. "$(dirname "$0")/common.sh"

# The account and the key that Microsoft publishes for emulators.
account=devstoreaccount1
key='Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='

unpack() {
  local folder=$1
  cp "$here"/azurite/package*.json "$folder"
  (cd "$folder" && npm ci --silent --no-audit --no-fund --ignore-scripts)
}

install_azurite() {
  apt_need flock util-linux
  apt_need npm nodejs npm
  apt_need openssl openssl
  once "azurite-$(key_of "$(<"$here/azurite/package-lock.json")")" unpack
}

# Looks into the containers of a test (azure_admin.py).
install_python() { venv azure 'azure-storage-blob==12.31.1'; }

# listen FOLDER NAME OPTION…   starts one on a free port, which it chooses itself
listen() {
  local folder=$1 name=$2 program
  shift 2
  program=$(install_azurite)/node_modules/azurite/dist/src/blob/main.js
  mkdir -p "$folder/$name"
  daemon "$folder" "$name.out" node "$program" --blobHost 127.0.0.1 --blobPort 0 \
    --location "$folder/$name" --skipApiVersionCheck --disableTelemetry "$@"
}

# port_of FOLDER NAME   prints the port, once it is known
port_of() {
  local line
  line=$(grep -o 'listens on https\?://127.0.0.1:[0-9]*' "$1/$2.out") || return
  printf '%s\n' "${line##*:}"
}

start() {
  local folder=$1 python url
  python=$(install_python)/bin/python
  certificate "$folder"
  listen "$folder" plain
  listen "$folder" tls --cert "$folder/tls.pem" --key "$folder/tls.key" --oauth basic
  daemon "$folder" entra.out "$python" "$here/azure_entra.py" "$folder/tls.pem" \
    "$folder/tls.key" "$folder/entra.port"
  wait_for 60 "Azurite to listen" port_of "$folder" plain >/dev/null
  wait_for 60 "Azurite to listen over TLS" port_of "$folder" tls >/dev/null
  wait_for 60 "the stand-in for Entra to listen" test -s "$folder/entra.port"
  url=http://127.0.0.1:$(port_of "$folder" plain)/$account
  cat >"$folder/env.part" <<ENV
export TEST_AZURE_URL=$url
export TEST_AZURE_TLS_URL=https://127.0.0.1:$(port_of "$folder" tls)/$account
export TEST_AZURE_ENTRA_URL=https://127.0.0.1:$(<"$folder/entra.port")
export TEST_AZURE_CA=$folder/ca.pem
export TEST_AZURE_KEY=$key
export TEST_AZURE_PYTHON=$python
ENV
  chmod a+r "$folder/ca.pem"
  mv "$folder/env.part" "$folder/env"
}

case ${1:-} in
  install)
    install_azurite >/dev/null
    install_python >/dev/null
    ;;
  start) start "$2" ;;
  *) die "usage: azurite.sh install | start FOLDER" ;;
esac
