#!/usr/bin/env bash
# moto, an emulator of AWS in Python: the widest S3 API of all that run here,
# but it verifies no signature.
#
#   moto.sh install          into the cache
#   moto.sh python           prints the Python of its environment, which has boto3
#   moto.sh start FOLDER     starts it, returns when it answers; FOLDER gets its
#                            log and the file `env` with what tests need
. "$(dirname "$0")/common.sh"

# Not `moto[server]`: it brings 180 MB for services that no test uses.
install_moto() {
  apt_need flock util-linux
  venv moto 'moto[s3]==5.2.5' 'boto3==1.44.5' 'awscli==1.46.3' 'flask==3.1.3' 'flask-cors==6.0.5'
}

start() {
  local folder=$1 python port=$1/port
  python=$(install_moto)/bin/python
  # The server takes a free port itself, which nobody can snatch meanwhile.
  daemon "$folder" moto.out "$python" "$here/moto_server.py" "$port"
  wait_for 60 "moto to listen" test -s "$port"
  cat >"$folder/env.part" <<ENV
export TEST_S3_MOTO_URL=http://127.0.0.1:$(<"$port")
ENV
  mv "$folder/env.part" "$folder/env"
}

case ${1:-} in
  install) install_moto >/dev/null ;;
  python) printf '%s/bin/python\n' "$(install_moto)" ;;
  start) start "$2" ;;
  *) die "usage: moto.sh install | python | start FOLDER" ;;
esac
