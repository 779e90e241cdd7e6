#!/usr/bin/env bash
# Lays out what a package installs below a directory: the program, its links, manual
# pages, completions, documentation, licences, and the list of what it is made of.
#
#   packaging/tree.sh TREE [BUILT]
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -ge 1 ]] || die "usage: tree.sh TREE [BUILT]"
tree=$(absolute "$1")
built=$(built_in "${2:-}")
[[ ! -e $tree ]] || die "$tree is there already: name a directory that is not"
scratch

"$built/barman-cloud-pages" "$scratch"
install -D -m 755 "$built/barman-cloud" "$tree/usr/bin/barman-cloud"
strip --strip-all "$tree/usr/bin/barman-cloud"

share=$tree/usr/share
mkdir -p "$share/man/man1"
for page in "$scratch"/man/*.1; do
  tool=$(basename "$page" .1)
  gzip -9 -n <"$page" >"$share/man/man1/$tool.1.gz"
  [[ $tool = barman-cloud ]] || ln -s barman-cloud "$tree/usr/bin/$tool"
done
install -D -m 644 -t "$share/bash-completion/completions" "$scratch"/bash/*
install -D -m 644 -t "$share/zsh/vendor-completions" "$scratch"/zsh/*
install -D -m 644 -t "$share/fish/vendor_completions.d" "$scratch"/fish/*

doc=$share/doc/barman-cloud
install -D -m 644 -t "$doc" "$project"/{README.md,LICENSE-MIT,LICENSE-APACHE,packaging/copyright}
gzip -9 -n <"$project/CHANGELOG.md" >"$doc/changelog.gz"
python3 "$project/packaging/crates.py" "$scratch/crates"
gzip -9 -n <"$scratch/crates/THIRD-PARTY.md" >"$doc/THIRD-PARTY.md.gz"
install -m 644 "$scratch/crates/sbom.cdx.json" "$doc"
same_times "$tree"
