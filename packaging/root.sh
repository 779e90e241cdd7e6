#!/usr/bin/env bash
# Lays out all that a container of the tools has: the program and its links, glibc,
# certificates, time zones, and nothing else; no shell, no package manager. Then it runs
# every tool in there, where it may (as root).
#
#   packaging/root.sh ROOT [BUILT]
#
# `packaging/Dockerfile` makes an image of just this.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -ge 1 ]] || die "usage: root.sh ROOT [BUILT]"
root=$(absolute "$1")
built=$(built_in "${2:-}")
scratch
"$project/packaging/tree.sh" "$scratch/tree" "$built"
[[ ! -e $root ]] || die "$root is there already: name a directory that is not"

doc=usr/share/doc/barman-cloud
mkdir -p "$root/usr/share/doc" "$root"/{etc,home/nonroot,tmp,var/tmp}
cp -a "$scratch/tree/usr/bin" "$root/usr/bin"
cp -a "$scratch/tree/$doc" "$root/$doc"
chmod 1777 "$root/tmp" "$root/var/tmp"

# The libraries, and the loader by the name that is written in the program.
ldd "$root/usr/bin/barman-cloud" | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
# What glibc and the tools look up.
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/none\nnonroot:x:65532:65532:nonroot:/home/nonroot:/none\n' >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
for wanted in /etc/ssl/certs/ca-certificates.crt /usr/share/zoneinfo; do
  if [[ -e $wanted ]]; then
    mkdir -p "$root$(dirname "$wanted")"
    cp -rL "$wanted" "$root$wanted"
  else
    printf 'root.sh: %s is not on this machine, so it is not in %s\n' "$wanted" "$root" >&2
  fi
done
same_times "$root"

if [[ $(id -u) != 0 ]]; then
  echo "root.sh: only root can run the tools in there, so they were not run" >&2
  exit 0
fi
for tool in "$root"/usr/bin/*; do
  tool=$(basename "$tool")
  said=$(chroot "$root" "/usr/bin/$tool" --version) || die "$tool does not run in $root"
  [[ $said = "$tool $version" ]] || die "$tool says that it is $said"
done
