"""What is made of a history once it is written: functions of what was recorded alone, so that tests can hand them lies."""

import base64
import bisect
import itertools

READS = ("get", "get-at")
# No operation lasts longer: the load's patience and one attempt more.
OPERATION_NS_MAX = 20_000_000_000


def versions_of(lines):
    """What a key holds, from the lines of its history: version -> the value's name, None for a tombstone."""
    return {int(line["version"]): None if line.get("deleted") else base64.b64decode(line["data"]).split(b" ")[0].decode(errors="replace") for line in lines}


def wrong_versions(history, held):
    """Each write is held once, under the version that was acknowledged, and one that was refused is not held. `held`: key -> versions_of(). At most ten sentences."""
    wrong, writes, deletes = [], {}, {}
    for each in history:
        if each["kind"] == "delete":
            deletes.setdefault(each["key"], []).append(each)
        elif each["kind"] not in READS:
            writes[each["key"], each["value"]] = each
    for key, versions in held.items():
        seen = {}
        missing = set(range(1, max(versions, default=0) + 1)) - set(versions)
        if missing:
            wrong.append(f"{key} has no version {min(missing)}")
        for version, name in sorted(versions.items()):
            if name is None:
                continue
            write = writes.get((key, name))
            if name in seen:
                wrong.append(f"{key}: {name} was applied twice, as versions {seen[name]} and {version}")
            elif write is None:
                wrong.append(f"{key} version {version} holds {name}, which nobody wrote")
            elif write["outcome"] == "failed-not-applied":
                wrong.append(f"{key} version {version} holds {name}, which was refused with {write.get('status')}")
            elif write["outcome"] == "ok" and write["version"] != version:
                wrong.append(f"{key} version {version} holds {name}, which was acknowledged as version {write['version']}")
            seen[name] = version
        # A tombstone carries no name: none may be there that no delete accounts for.
        tombstones = {version for version, name in versions.items() if name is None}
        told = {each["version"] for each in deletes.get(key, ()) if each["outcome"] == "ok"}
        unknown = sum(each["outcome"] == "unknown" for each in deletes.get(key, ()))
        if told - tombstones:
            wrong.append(f"{key} version {min(told - tombstones)} was acknowledged as a tombstone and is none")
        if len(tombstones - told) > unknown:
            wrong.append(f"{key}: {len(tombstones - told)} tombstones were not acknowledged, and {unknown} deletes are of unknown outcome")
    acknowledged = {(key, write["version"]) for (key, _), write in writes.items() if write["outcome"] == "ok"}
    lost = {(key, version) for key, version in acknowledged if version not in held.get(key, {})}
    if lost:
        wrong.append(f"{len(lost)} acknowledged versions are not held, such as {sorted(lost)[:3]}")
    return wrong[:10]


class Outages:
    """How long writes to a shard stood still. A pause lies between two acknowledgements; of it counts the time in which at least one write was waited for,
    those that were refused meanwhile included. The end of the history ends the last pause: a shard that never comes back has one too."""

    def __init__(self, history):
        writes = [each for each in history if each["kind"] not in READS]
        shard_of = {each["key"]: each["shard"] for each in writes if each["outcome"] == "ok"}
        self.closing = max((each.get("end", each["start"]) for each in history), default=0)
        self.waits, self.ends = {}, {}
        for each in writes:
            if each["key"] in shard_of:
                self.waits.setdefault(shard_of[each["key"]], []).append((each["start"], each.get("end", each["start"])))
            if each["outcome"] == "ok":
                self.ends.setdefault(each["shard"], []).append(each["end"])
        for shard, ends in self.ends.items():
            self.waits[shard].sort()
            ends.sort()
            ends.append(self.closing)

    def waited(self, shard, begin, end):
        """Nanoseconds between these in which somebody waited."""
        waits, total, until = self.waits[shard], 0, begin
        first = bisect.bisect_left(waits, (begin - OPERATION_NS_MAX, 0))
        for start, ended in itertools.islice(waits, first, None):
            if start >= end:
                break
            total += max(0, min(ended, end) - max(start, until))
            until = max(until, min(ended, end))
        return total

    def longest(self, shard, begin, end):
        """Seconds: the longest pause of a shard that touches these times."""
        ends, worst = self.ends.get(shard, []), 0
        first = max(0, bisect.bisect_left(ends, begin) - 1)
        for earlier, later in itertools.pairwise(itertools.islice(ends, first, None)):
            if max(earlier, begin) >= end:
                break
            if later >= begin and later - earlier > worst:
                worst = max(worst, self.waited(shard, earlier, later))
        return worst / 1e9
