#!/usr/bin/env bash
# Makes an archive of the tools for systems without dpkg. It is unpacked with
#
#   tar --strip-components=1 -C /usr/local -xzf barman-cloud-VERSION-MACHINE.tar.gz
#
#   packaging/tarball.sh OUT [BUILT]     prints the path of the archive, which is in OUT
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -ge 1 ]] || die "usage: tarball.sh OUT [BUILT]"
out=$(absolute "$1")
built=$(built_in "${2:-}")
scratch
"$project/packaging/tree.sh" "$scratch/tree" "$built"
name=barman-cloud-$version-$(uname -m)
mv "$scratch/tree/usr" "$scratch/tree/$name"
same_times "$scratch/tree"
mkdir -p "$out"
tar --create --sort=name --owner=0 --group=0 --numeric-owner --format=gnu \
  --directory="$scratch/tree" "$name" | gzip -9 -n >"$out/$name.tar.gz"
echo "$out/$name.tar.gz"
