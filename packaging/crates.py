#!/usr/bin/env python3
"""What the program is made of: THIRD-PARTY.md with the licences of all crates that are
linked into it, and sbom.cdx.json, the same for programs (CycloneDX 1.5).

    packaging/crates.py OUT

Crates that only build or test the program are not in it. A crate that names no licence
ends this with an error; one that comes without the text of it is named.
"""

import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import uuid

PROJECT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = "barman-cloud"
# What the names of files with a licence begin with.
LICENCE_FILE = re.compile(r"(?i)^(licen[cs]e|copying|copyright|notice|unlicense)")


def metadata():
    target = f"{platform.machine()}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--format-version=1", "--locked"]
    command += ["--filter-platform", target]
    said = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE)
    return json.loads(said.stdout)


def linked(meta):
    """The packages that are linked into the program, and of each what it uses."""
    packages = {package["id"]: package for package in meta["packages"]}
    nodes = {node["id"]: node for node in meta["resolve"]["nodes"]}
    root = next(i for i, p in packages.items() if p["name"] == PROGRAM)
    uses, waiting = {}, [root]
    while waiting:
        package = waiting.pop()
        if package in uses:
            continue
        uses[package] = sorted(
            dep["pkg"]
            for dep in nodes[package]["deps"]
            if any(kind["kind"] is None for kind in dep["dep_kinds"])
            and not is_macro(packages[dep["pkg"]])
        )
        waiting += uses[package]
    return packages, uses, root


def is_macro(package):
    """Macros run in the compiler; nothing of them is in the program."""
    return any("proc-macro" in target["kind"] for target in package["targets"])


def checksums():
    """Of the archives of crates, by name and version."""
    lock = (PROJECT / "Cargo.lock").read_text()
    entry = re.compile(r'name = "(.*)"\nversion = "(.*)"\nsource = ".*"\nchecksum = "(.*)"')
    return {(name, version): sum_ for name, version, sum_ in entry.findall(lock)}


def licence(package):
    text = package["license"]
    if not text:
        sys.exit(f"crates.py: {package['name']} names no licence")
    # How it was written before there was a grammar.
    return text.replace("/", " OR ")


def texts(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    # A level below there are those of libraries in C that a crate brings along.
    files = [*folder.glob("*"), *folder.glob("*/*")]
    files = sorted(p for p in files if p.is_file() and LICENCE_FILE.match(p.name))
    files = [p for p in files if p.suffix not in {".rs", ".h", ".c", ".py"}]
    return [p.read_text(errors="replace").strip() for p in files]


def third_party(packages):
    """One table, then each text once, with the crates that come with it."""
    by_text, without = {}, []
    for package in packages:
        name = f"{package['name']} {package['version']}"
        found = texts(package)
        if not found:
            without.append(f"{name} ({licence(package)})")
        for text in found:
            by_text.setdefault(text, []).append(name)
    lines = ["# Crates in this program, and their licences", ""]
    lines += ["| crate | version | licence |", "|---|---|---|"]
    lines += [f"| {p['name']} | {p['version']} | {licence(p)} |" for p in packages]
    if without:
        lines += ["", "Published without the text of their licence:", ""]
        lines += [f"- {name}" for name in without]
    for text, names in sorted(by_text.items(), key=lambda item: item[1]):
        fence = "`" * max(4, max(map(len, re.findall("`+", text)), default=0) + 1)
        lines += ["", f"## {', '.join(names)}", "", f"{fence}text", text, fence]
    return "\n".join(lines) + "\n"


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, sums, kind):
    entry = {
        "type": kind,
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "licenses": [{"expression": licence(package)}],
        "purl": reference(package),
    }
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def sbom(packages, uses, root, by_id):
    sums = checksums()
    components = [component(p, sums, "library") for p in packages]
    made = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    stamp = subprocess.run(
        ["date", "--utc", f"--date=@{made}", "+%Y-%m-%dT%H:%M:%SZ"],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.strip()
    dependencies = [
        {"ref": reference(by_id[of]), "dependsOn": [reference(by_id[u]) for u in used]}
        for of, used in sorted(uses.items())
    ]
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": stamp,
            "component": component(by_id[root], sums, "application"),
        },
        "components": components,
        "dependencies": dependencies,
    }
    # The same list has the same number.
    number = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(body, sort_keys=True))
    return {"$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
            "serialNumber": f"urn:uuid:{number}", **body}


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: crates.py OUT")
    out = pathlib.Path(sys.argv[1])
    by_id, uses, root = linked(metadata())
    packages = sorted(
        (by_id[i] for i in uses if i != root), key=lambda p: (p["name"], p["version"])
    )
    outside = [p for p in packages if p["source"]]
    out.mkdir(parents=True, exist_ok=True)
    (out / "THIRD-PARTY.md").write_text(third_party(outside))
    bom = sbom(packages, uses, root, by_id)
    (out / "sbom.cdx.json").write_text(json.dumps(bom, indent=1) + "\n")


main()
