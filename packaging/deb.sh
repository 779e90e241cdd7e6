#!/usr/bin/env bash
# Makes a Debian package of the tools, in place of Debian's own barman-cli-cloud.
#
#   packaging/deb.sh OUT [BUILT]     prints the path of the package, which is in OUT
#
#   DEB_MAINTAINER='NAME <ADDRESS>'  who makes it (default: the author of the last commit)
#   DEB_COMPRESSION=xz               how it is compressed: xz, zstd, gzip or none
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -ge 1 ]] || die "usage: deb.sh OUT [BUILT]"
out=$(absolute "$1")
built=$(built_in "${2:-}")
scratch
tree=$scratch/tree
"$project/packaging/tree.sh" "$tree" "$built"

program=$tree/usr/bin/barman-cloud
# The newest version that a symbol of glibc which is used was given.
glibc=$(objdump --dynamic-syms "$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
depends="libc6 (>= ${glibc#GLIBC_})"
# Not by a pipe into a search, which may end before its other end and so fail.
libraries=$(objdump --private-headers "$program" | grep NEEDED)
if [[ $libraries = *libgcc_s* ]]; then
  depends+=", libgcc-s1"
fi
maintainer=${DEB_MAINTAINER:-$(git -C "$project" log -1 --format='%an <%ae>')}

mkdir "$tree/DEBIAN"
(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
cat >"$tree/DEBIAN/control" <<END
Package: barman-cloud
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: $maintainer
Installed-Size: $(du -k --apparent-size -s "$tree/usr" | cut -f 1)
Depends: $depends
Recommends: ca-certificates
Provides: barman-cli-cloud (= $version)
Conflicts: barman-cli-cloud
Replaces: barman-cli-cloud
Section: database
Priority: optional
Description: backup of PostgreSQL to object stores
 The barman-cloud tools as one program without Python: base backups and WAL
 files in S3 and its relatives, Azure Blob Storage, Google Cloud Storage or a
 directory. Command lines, exit codes and the layout of the bucket are those of
 Barman's tools, which this package replaces.
END
same_times "$tree"
mkdir -p "$out"
package=$out/barman-cloud_${version}_$(dpkg --print-architecture).deb
dpkg-deb --root-owner-group -Z"${DEB_COMPRESSION:-xz}" --build "$tree" "$package" >&2
echo "$package"
