"""What the project promises about base backups, line by line, and what the records say."""

from verdict import Line, cpu, middle, pick, ratio

# Least times that Barman takes longer, with all processors.
BARMAN = {"gzip": 8, "lz4": 3, "snappy": 3, "none": 2}
# Least share of a restore's reading rate that a check has.
VERIFY = 0.9
# MiB of resident memory at most.
MEMORY = 64


def wall(record):
    return record["seconds"]


def judge(records):
    lines = []
    for size in sorted({record["size"] for record in records}):
        of_size = pick(records, size=size)
        for codec in dict.fromkeys(record["codec"] for record in of_size):
            some = pick(of_size, codec=codec)
            where = f"{size} MB, {codec}"
            lines += judge_backup(pick(some, job="backup"), codec, f"backup, {where}")
            lines += judge_restore(pick(some, job="restore"), f"restore, {where}")
            lines += judge_verify(some, f"verify, {where}")
    return lines


def judge_backup(records, codec, where):
    ours = {how: pick(records, tool="ours", how=how) for how in ("gentle", "all cores", "as Barman's level")}
    most, gentle = middle(ours["all cores"], wall), middle(ours["gentle"], wall)
    floors = {tool: middle(pick(records, tool=tool), wall) for tool in ("floor", "upload")}
    if all(floors.values()):
        slowest = max(floors.values())
        yield Line("backup", f"{where}: ours / the slowest floor", 1.3, False, "", ratio(most, slowest))
        value = ratio(middle(ours["all cores"], cpu), middle(pick(records, tool="floor"), cpu))
        yield Line("backup", f"{where}: CPU of ours / that of tar and the codec", 1, False, "", value, judged=False)
    barman = pick(records, tool="barman")
    if barman:
        theirs, bound = middle(barman, wall), BARMAN.get(codec)
        yield Line("backup", f"{where}: Barman / ours", bound or 1, True, "", ratio(theirs, most), judged=bool(bound))
        if floors["floor"]:
            # No more than that can be had of a codec's own library.
            value = ratio(theirs, floors["floor"])
            yield Line("backup", f"{where}: Barman / tar and the codec alone", 1, True, "", value, judged=False)
        value = ratio(theirs, gentle)
        yield Line("backup", f"{where}: Barman / ours with the gentle defaults", 1, True, "", value)
        if ours["as Barman's level"]:
            value = ratio(theirs, middle(ours["as Barman's level"], wall))
            yield Line("backup", f"{where}: Barman / ours at its level", 1, True, "", value, judged=False)
    rival = pick(records, tool="pgbackrest")
    if rival:
        promised = codec in ("zstd", "lz4")
        value = ratio(middle(rival, wall), most)
        yield Line("backup", f"{where}: pgBackRest / ours", 1.5, True, "", value, judged=promised)
        value = ratio(middle(rival, cpu), middle(ours["all cores"], cpu))
        yield Line("backup", f"{where}: CPU of pgBackRest / ours", 1, True, "", value, judged=promised)
    peaks = [record["peak_kib"] / 1024 for record in pick(records, tool="ours")]
    yield Line("backup", f"{where}: most memory of ours", MEMORY, False, " MiB", max(peaks, default=None))


def judge_restore(records, where):
    def middle_of(tool, of, how):
        return middle(pick(records, tool=tool, of=of, how=how), wall)

    for of, whose, bound in (("ours", "our archives", 2), ("barman", "Barman's archives", 1.5)):
        ours, theirs = middle_of("ours", of, "no sync"), middle_of("barman", of, "no sync")
        if theirs:
            yield Line("restore", f"{where}: Barman / ours on {whose}, no sync", bound, True, "", ratio(theirs, ours))
        synced = middle_of("ours", of, "sync")
        if synced:
            text = f"{where}: ours with syncing / without, on {whose}"
            yield Line("restore", text, 1, False, "", ratio(synced, ours), judged=False)
    rival, ours = middle_of("pgbackrest", "pgbackrest", "sync"), middle_of("ours", "ours", "sync")
    if rival:
        yield Line("restore", f"{where}: pgBackRest / ours, with syncing", 2, True, "", ratio(rival, ours))
    peaks = [record["peak_kib"] / 1024 for record in pick(records, tool="ours")]
    if peaks:
        yield Line("restore", f"{where}: most memory of ours", MEMORY, False, " MiB", max(peaks))


def judge_verify(records, where):
    for of, whose in (("ours", "our archives"), ("barman", "Barman's archives")):
        proofs = pick(records, job="verify", of=of)
        if not proofs:
            continue
        restored = middle(pick(records, job="restore", tool="ours", of=of, how="no sync"), wall)
        text = f"{where}: its reading rate / a restore's without syncing, on {whose}"
        yield Line("verify", text, VERIFY, True, "", ratio(restored, middle(proofs, wall)))
        peak = max(record["peak_kib"] / 1024 for record in proofs)
        yield Line("verify", f"{where}: most memory, on {whose}", MEMORY, False, " MiB", peak)
