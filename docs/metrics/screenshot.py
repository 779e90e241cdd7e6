"""A made-up week of two servers, as OpenMetrics for `promtool tsdb create-blocks-from`."""

import time

DAY, STEP, GB = 86400, 900, 1 << 30
now = int(time.time()) // STEP * STEP
start = now - 7 * DAY
series = {}


def add(name, labels, at, value):
    text = ",".join(f'{key}="{word}"' for key, word in labels.items())
    series.setdefault(f"barman_cloud_{name}", []).append((text, at, value))


for at in range(start, now + 1, STEP):
    add("refresh_duration_seconds", {}, at, 1.4 + (at // STEP % 7) / 10)
    add("store_requests_total", {}, at, (at - start) / 60 * 9)
    add("store_errors_total", {}, at, 0)
    for server, size, rate, hour in [("main", 120 * GB, 3e5, 2), ("reports", 40 * GB, 9e4, 4)]:
        of = {"server": server}
        # A base backup each night; of `reports` last night's failed.
        last = (at - hour * 3600) // DAY * DAY + hour * 3600
        late = server == "reports" and now - last < DAY
        good = last - DAY if late else last
        grown = size * (1 + (good - start) / (70 * DAY))
        add("up", of, at, 1)
        add("healthy", of, at, int(not late))
        add("backups_restorable", of, at, 7)
        for status, count in [("done", 7), ("failed", int(late)), ("started", 0), ("unreadable", 0)]:
            add("backups", {**of, "status": status}, at, count)
        result = {**of, "result": "good"}
        took = 1800 * grown / size
        add("last_backup_start_timestamp_seconds", result, at, good)
        add("last_backup_end_timestamp_seconds", result, at, good + took)
        add("last_backup_duration_seconds", result, at, took)
        add("last_backup_stored_bytes", result, at, grown * 0.3)
        add("last_backup_original_bytes", result, at, grown)
        names = {"backup_id": time.strftime("%Y%m%dT%H%M%S", time.gmtime(good)), "codec": "zstd", "server_version": "17.6"}
        add("last_backup_info", {**result, **names}, at, 1)
        add("backups_stored_bytes", of, at, 7 * grown * 0.3)
        wal = at - at % 300
        add("wal_last_archived_timestamp_seconds", of, at, wal)
        add("first_recoverable_timestamp_seconds", of, at, good + took - 6 * DAY)
        add("last_recoverable_timestamp_seconds", of, at, wal)
        line = {**of, "timeline": "1"}
        written = rate * (at - start) * (1 + 0.3 * (at // 3600 % 24 > 8))
        add("wal_newest_position_bytes", line, at, 5e12 + rate * (at - start))
        add("wal_bytes", line, at, rate * 6 * DAY * 0.4 + written * 0.01)
        add("wal_segments", line, at, int(rate * 6 * DAY / (16 << 20)))
        add("wal_gaps", line, at, 0)
        add("wal_missing_segments", line, at, 0)

for name, samples in series.items():
    counter = name.endswith("_total")
    print(f"# TYPE {name.removesuffix('_total')} {'counter' if counter else 'gauge'}")
    # All samples of a series together, in the order of time.
    for labels, at, value in sorted(samples):
        print(f"{name}{{{labels}}} {value} {at}")
print("# EOF")
