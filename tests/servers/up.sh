#!/usr/bin/env bash
# Installs and starts the object stores that the tests use, on 127.0.0.1, and
# prints the variables that lead to them. What runs already is left running, so
# it may be called again.
#
#   up.sh [install] [azurite] [ceph] [gcs] [moto]    all of them if none is named;
#                                                    `install` only installs
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
(($#)) || names=(azurite ceph gcs moto)
for name in "${names[@]}"; do
  [[ $name = azurite || $name = ceph || $name = gcs || $name = moto ]] ||
    die "no such server: $name; there are azurite, ceph, gcs and moto"
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
# Profiles for the tests that open a store inside their own process.
profile() { printf '%s\n' "[$1]" "aws_access_key_id = $access_key" "aws_secret_access_key = $secret_key" "region = us-east-1" "${@:2}"; }
{
  profile 'profile test'
  profile 'profile test-tls' "ca_bundle = $state/ceph/ca.pem"
  profile 'profile test-when-required' 'request_checksum_calculation = when_required'
} >"$state/aws-config"
for name in "${names[@]}"; do cat "$state/$name/env"; done
# Variables win over profiles: what is set for other work must not decide a test.
echo "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_CA_BUNDLE" \
  "AWS_SHARED_CREDENTIALS_FILE AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3" \
  "AWS_REQUEST_CHECKSUM_CALCULATION AWS_RESPONSE_CHECKSUM_VALIDATION" \
  "AZURE_STORAGE_CONNECTION_STRING AZURE_STORAGE_SAS_TOKEN AZURE_STORAGE_KEY" \
  "GOOGLE_APPLICATION_CREDENTIALS STORAGE_EMULATOR_HOST"
echo "export AWS_CONFIG_FILE=$state/aws-config"
echo "export TEST_S3_PYTHON=$python"
