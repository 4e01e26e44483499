#!/usr/bin/env python3
"""The accounts of a campaign bite: a history without fault passes, and each lie that is told on purpose is named by the check whose business it is."""

import base64
import copy
import http.server
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
from accounting import READS, Outages, versions_of, wrong_versions  # noqa: E402
from harness import BUILD, run_tests  # noqa: E402
from watcher import Watcher  # noqa: E402

LOAD, LINEAR = BUILD / "tests/chaos/load", BUILD / "tests/linear"
KEYS = ("chaos/0/k0", "chaos/0/k1", "chaos/0/k2")
SECOND = 1_000_000_000


def true_history():
    """What honest servers would have given: puts, a delete, reads after each, one write of unknown outcome that was applied, one that was refused."""
    lines, now = [], 1000

    def add(key, kind, outcome, **more):
        nonlocal now
        lines.append({"client": 1, "key": key, "kind": kind, "start": now, "end": now + 50, "outcome": outcome, "shard": KEYS.index(key), "status": 200, "attempts": 1, **more})
        now += 100
    for key in KEYS:
        for version in range(1, 6):
            name = f"{key[-2:]}-{version}"
            if version == 4:
                add(key, "delete", "ok", version=version, time=now)
                add(key, "get", "ok", version=version, deleted=True)
            else:
                add(key, "put", "ok" if version != 3 else "unknown", value=name, **({"version": version, "time": now} if version != 3 else {}))
                add(key, "get", "ok", version=version, value=name)
        add(key, "put", "failed-not-applied", value=f"{key[-2:]}-refused", status=503)
    return lines


def true_versions(history):
    held = {key: {} for key in KEYS}
    for each in history:
        if each["kind"] == "get":
            held[each["key"]][each["version"]] = each.get("value")
    return held


def judged(history):
    """Exit status and words of the checker of histories."""
    with tempfile.NamedTemporaryFile("w", suffix=".ndjson") as file:
        file.writelines(json.dumps(each) + "\n" for each in history)
        file.flush()
        result = subprocess.run([LINEAR, file.name], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def of(history, key, kind, version):
    return next(each for each in history if (each["key"], each["kind"], each.get("version")) == (key, kind, version))


def named(wrong, *words):
    assert any(all(word in sentence for word in words) for sentence in wrong), (words, wrong)


def test_a_history_without_fault_passes_every_check():
    history = true_history()
    assert judged(history)[0] == 0, judged(history)
    assert wrong_versions(history, true_versions(history)) == []


def test_a_stale_read_is_named():
    history = true_history()
    of(history, KEYS[1], "get", 2).update(version=1, value="k1-1")
    status, text = judged(history)
    assert status == 1 and KEYS[1] in text, (status, text)


def test_a_read_of_what_was_never_written_is_named():
    history = true_history()
    of(history, KEYS[0], "get", 5).update(value="k0-invented")
    status, text = judged(history)
    assert status == 1 and KEYS[0] in text, (status, text)


def test_a_read_that_forgets_a_delete_is_named():
    history = true_history()
    forgotten = of(history, KEYS[2], "get", 4)
    del forgotten["deleted"]
    forgotten.update(version=3, value="k2-3")
    status, text = judged(history)
    assert status == 1 and KEYS[2] in text, (status, text)


def test_a_past_time_with_two_answers_is_named():
    history = true_history()
    at = of(history, KEYS[0], "put", 2)["time"]
    for version, name in ((2, "k0-2"), (1, "k0-1")):
        last = history[-1]["end"]
        history.append({"client": 2, "key": KEYS[0], "kind": "get-at", "at": at, "start": last + 10, "end": last + 20, "outcome": "ok", "version": version, "value": name})
    status, text = judged(history)
    assert status == 1 and KEYS[0] in text, (status, text)


def test_a_doubled_retry_is_named():
    history = true_history()
    held = true_versions(history)
    held[KEYS[1]][6] = "k1-5"
    named(wrong_versions(history, held), KEYS[1], "k1-5", "applied twice", "5 and 6")
    # A reader that saw it is enough for the checker of histories, too.
    last = history[-1]["end"]
    history.append({"client": 2, "key": KEYS[1], "kind": "get", "start": last + 10, "end": last + 20, "outcome": "ok", "version": 6, "value": "k1-5"})
    status, text = judged(history)
    assert status == 1 and KEYS[1] in text, (status, text)


def test_a_doubled_delete_is_named():
    history = true_history()
    held = true_versions(history)
    held[KEYS[0]][6] = None
    named(wrong_versions(history, held), KEYS[0], "tombstones")


def test_a_refused_write_that_was_applied_is_named():
    history = true_history()
    held = true_versions(history)
    held[KEYS[2]][6] = "k2-refused"
    named(wrong_versions(history, held), KEYS[2], "k2-refused", "refused with 503")


def test_a_version_that_is_gone_or_changed_is_named():
    history = true_history()
    held = true_versions(history)
    del held[KEYS[0]][5]
    named(wrong_versions(history, held), KEYS[0], "not held", "5")
    held = true_versions(history)
    del held[KEYS[0]][2]
    named(wrong_versions(history, held), KEYS[0], "no version 2")
    held = true_versions(history)
    held[KEYS[0]][1], held[KEYS[0]][2] = held[KEYS[0]][2], held[KEYS[0]][1]
    named(wrong_versions(history, held), KEYS[0], "acknowledged as version")


def test_versions_are_read_as_the_gateway_writes_them():
    lines = [{"version": 1, "data": base64.b64encode(b"c1-7 aaaa").decode()}, {"version": 2, "deleted": True}]
    assert versions_of(lines) == {1: "c1-7", 2: None}


# --- A replica that lies about what it holds ---

def filled(name):
    """The value that the load writes under a name (load.c, value_of)."""
    mixed = 14695981039346656037
    for byte in name.encode():
        mixed = (mixed ^ byte) * 1099511628211 % 2**64
    whole = 2000 + (mixed >> 8) % 3000 if mixed % 16 == 0 else 60 + (mixed >> 8) % 200
    return (name + " ").encode() + bytes([ord("a") + mixed % 26]) * (whole - len(name) - 1)


class Replica(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held, torn = {}, None

    def do_GET(self):  # noqa: N802 - the library's name
        url = urllib.parse.urlsplit(self.path)
        key, version = url.path.removeprefix("/v1/objects/"), int(urllib.parse.parse_qs(url.query)["version"][0])
        versions = self.held[key]
        name = versions.get(version)
        body = json.dumps({"code": "deleted" if version in versions else "not_found"}, separators=(",", ":")).encode() if name is None else filled(name)
        if (key, version) == self.torn:
            body = body[:-1] + b"!"
        self.send_response(404 if name is None else 200)
        self.send_header("Content-Type", "application/problem+json" if name is None else "application/octet-stream")
        self.send_header("Sluice-Version", str(version))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def verified(history, held, torn=None):
    """Exit status and words of the reader of replicas."""
    handler = type("Lying", (Replica,), {"held": held, "torn": torn})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    lines = [f"{each['key']} {each['version']} {each.get('value', '-')}\n" for each in history if each["kind"] not in READS and each["outcome"] == "ok"]
    result = subprocess.run([LOAD, "verify", "2", f"127.0.0.1:{server.server_port}", "2"], input="".join(lines), capture_output=True, text=True, check=False, timeout=30)
    server.shutdown()
    server.server_close()
    assert f"{len(lines)} agree" in result.stdout or result.returncode != 0, result.stdout
    return result.returncode, result.stdout


def test_a_lost_write_is_named_and_the_replica_that_holds_all_passes():
    history = true_history()
    held = true_versions(history)
    assert verified(history, held)[0] == 0, verified(history, held)
    for lie in (lambda versions: versions.pop(2), lambda versions: versions.update({2: "k1-1"}), lambda versions: versions.update({2: None})):
        lying = copy.deepcopy(held)
        lie(lying[KEYS[1]])
        status, text = verified(history, lying)
        assert status == 1 and f"{KEYS[1]} version 2" in text and "1 differ" in text, (status, text)


def test_a_torn_value_and_a_lost_tombstone_are_named():
    history = true_history()
    held = true_versions(history)
    status, text = verified(history, held, torn=(KEYS[0], 1))
    assert status == 1 and f"{KEYS[0]} version 1" in text, (status, text)
    held[KEYS[2]][4] = "k2-2"
    status, text = verified(history, held)
    assert status == 1 and f"{KEYS[2]} version 4" in text, (status, text)


# --- A watch that lies ---

def watched(events):
    """A watcher that was sent these events, in chunks whose borders fall anywhere."""
    text = "".join(f"id: c{i}\nevent: {'delete' if deleted else 'put'}\ndata: {json.dumps({'shard': shard, 'revision': revision, 'key': key, 'version': version})}\n\n"
                   for i, (shard, revision, key, version, deleted) in enumerate(events)).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(text[at:at + 37]), text[at:at + 37]) for at in range(0, len(text), 37))

    class Connection:
        def makefile(self, _):
            return io.BytesIO(b"HTTP/1.1 200 OK\r\n\r\n" + chunks + b"0\r\n\r\n")
    watcher = Watcher([], "chaos/")
    watcher.read(Connection())
    return watcher


def test_a_missed_a_repeated_and_a_disordered_event_of_a_watch_are_named():
    held = true_versions(true_history())
    events = [(KEYS.index(key), 10 * version, key, version, name is None) for key, versions in held.items() for version, name in sorted(versions.items())]
    acknowledged = {(key, version, deleted) for _, _, key, version, deleted in events if version != 3}
    good = watched(events)
    assert len(good.events) == len(events) and good.faults(acknowledged) == [], good.faults(acknowledged)
    missed = [event for event in events if event[2:4] != (KEYS[1], 5)]
    named(watched(missed).faults(acknowledged), "never came", KEYS[1])
    # One that nobody was told of counts as well: versions have no holes.
    missed = [event for event in events if event[2:4] != (KEYS[1], 3)]
    named(watched(missed).faults(acknowledged), "missing in the midst")
    named(watched([*events[:3], events[2], *events[3:]]).faults(acknowledged), "came twice")
    named(watched([events[1], events[0], *events[2:]]).faults(acknowledged), "came after")
    changed = [(*event[:4], not event[4]) if event[2:4] == (KEYS[0], 4) else event for event in events]
    named(watched(changed).faults(acknowledged), "never came", KEYS[0])


# --- How long writes stood still ---

def write(start, end, outcome="ok", key="a"):
    return {"kind": "put", "key": key, "shard": 1, "start": int(start * SECOND), "end": int(end * SECOND), "outcome": outcome}


def test_an_outage_is_all_the_time_in_which_somebody_waited_refusals_included():
    history = [write(0, 0.1), write(0.2, 1.2, "failed-not-applied"), write(1.2, 2.2, "unknown"), write(2.0, 4.2), write(9, 9.1)]
    outages = Outages(history)
    assert abs(outages.longest(1, 0, 5 * SECOND) - 4.0) < 1e-6, outages.longest(1, 0, 5 * SECOND)
    # Nobody asked between 4.2 and 9: that is no outage.
    assert abs(outages.longest(1, 5 * SECOND, 10 * SECOND) - 0.1) < 1e-6


def test_a_shard_that_never_comes_back_has_an_outage():
    history = [write(0, 0.1), *(write(each, each + 1, "failed-not-applied") for each in range(1, 8))]
    assert Outages(history).longest(1, 0, 2 * SECOND) >= 7.0


if __name__ == "__main__":
    run_tests(dict(globals()))
