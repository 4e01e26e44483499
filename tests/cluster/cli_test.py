#!/usr/bin/env python3
"""The command line against a scripted server: what it sends, what it shows, how it ends. No cluster is needed."""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness import BUILD, free_ports, run_tests

WRITTEN = {"key": "farm/cow", "version": 3, "revision": 17, "shard": 5, "time": "2026-11-23T02:40:00.000000001Z", "time_ns": "1795401600000000001",
           "object_time": "2026-11-23T02:40:00Z", "object_time_ns": "1795401600000000000", "size": 4}


def problem(status, code, detail):
    return status, {"Content-Type": "application/problem+json"}, json.dumps({"status": status, "code": code, "detail": detail}).encode()


def answer(document, status=200, **headers):
    return status, {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}, json.dumps(document).encode()


class Drop(Exception):
    """The connection breaks instead of an answer."""


class Server:
    """Answers each request with the next of `script` (the last one for ever); remembers what came."""

    def __init__(self, *script):
        self.script, self.requests, self.lock = list(script), [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with outer.lock:
                    outer.requests.append((self.command, self.path, self.headers, body))
                    step = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                if callable(step):
                    step = step(self, body)
                    if step is None:
                        return
                status, headers, data = step
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def sluice(self, *arguments, **more):
        return sluice(*arguments, url=self.url, **more)


def drop(handler, _):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def stream(*pieces, then=drop):
    """An event stream sent in pieces."""
    def run(handler, body):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.005)
        return then(handler, body)
    return run


def event(kind, data, cursor=None):
    return (f"event: {kind}\n" + (f"id: {cursor}\n" if cursor else "") + f"data: {json.dumps(data)}\n\n").encode()


def sluice(*arguments, url=None, stdin=b"", env=None, timeout=20, cwd=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    environment.update({"http_proxy": "http://127.0.0.1:1", "LC_ALL": "C.UTF-8"})
    if url:
        environment["SLUICE_URL"] = url
    environment.update(env or {})
    return subprocess.run([BUILD / "sluice", *map(str, arguments)], input=stdin, capture_output=True, env=environment, timeout=timeout, check=False, cwd=cwd)


def check(result, code, out=None, err=None):
    shown = f"exit {result.returncode}, stdout {result.stdout[:400]!r}, stderr {result.stderr[:400]!r}"
    assert result.returncode == code, shown
    if out is not None:
        assert out.encode() in result.stdout, f"no {out!r} in: {shown}"
    if err is not None:
        assert err.encode() in result.stderr, f"no {err!r} in: {shown}"
    assert b"Sanitizer" not in result.stderr, shown
    return result


COMMANDS = [["put"], ["get"], ["rm"], ["ls"], ["history"], ["watch"], ["snapshot"], ["cluster"], ["up"], *[["cluster", name] for name in ("add", "remove", "replace", "transfer")],
            *[["pool", name] for name in ("ls", "get", "put", "rm")], *[["lambda", name] for name in ("ls", "get", "put", "rm", "enable", "disable", "log")]]


def test_every_command_explains_itself_with_an_example_and_its_exit_codes():
    for command in COMMANDS:
        out = check(sluice(*command, "--help"), 0, "Usage: sluice " + " ".join(command)).stdout.decode()
        assert re.search(r"Examples?:\n  sluice " + command[0], out), (command, out)
        assert "Exit status:" in out, command
    listing = check(sluice("--help"), 0).stdout.decode()
    for name in {command[0] for command in COMMANDS} | {"version"}:
        assert f"\n  {name} " in listing, name
    check(sluice("help", "put"), 0, "Usage: sluice put")
    check(sluice("version"), 0, "sluice 0.")


def test_wrong_usage_ends_with_2_and_says_what_was_expected():
    for arguments, words in [([], "COMMAND"), (["fly"], 'no command "fly"'), (["put"], "KEY was expected"), (["get", "a", "b"], "came another: b"),
                             (["get", "a", "--at", "yesterday"], "a time was expected"), (["get", "a", "--version", "0"], "from 1 to"),
                             (["get", "a", "--version", "1", "--at", "now"], "exclude each other"), (["get", "a", "--range", "x"], "bytes like 0-99"),
                             (["put", "a", "--ack", "soon"], "persisted or delivered"), (["put", "a", "--if-match", "1", "--if-none-match"], "exclude"),
                             (["watch"], "PATTERN was expected"), (["watch", "a", "--prefix", "--glob"], "exclude"), (["snapshot"], "KEY or --prefix"),
                             (["ls", "--limit", "0"], "from 1 to"), (["pool", "put", "p", "--policy", "[]"], "JSON object"), (["lambda", "put"], "FILE was expected"),
                             (["lambda", "put", "x.so", "--config", "{"], "JSON object"), (["get", "a", "--url", "127.0.0.1:8080"], "http://127.0.0.1:8080"),
                             (["get", "a", "--timeout", "61"], "seconds from"), (["up", "--nodes", "0"], "from 1 to"), (["up", "--fabric", "carrier-pigeon"], "shm or tcp"),
                             (["get", ""], "at least one character")]:
        check(sluice(*arguments, url="http://127.0.0.1:1"), 2, err=words)


def test_put_sends_the_bytes_with_a_type_and_a_key_to_repeat_it_by():
    value = bytes(range(256)) * 5000
    with Server(answer(WRITTEN)) as server, tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "cow.JPG")
        path.write_bytes(value)
        check(server.sluice("put", "/farm/cow 1?#%é/p", path, "--if-match", "2", "--object-time", "2026-11-23T02:40:00Z", "--ack", "delivered"), 0,
              "farm/cow: version 3 written at 2026-11-23T02:40:00.000000001Z, 4 B, shard 5")
        method, target, headers, body = server.requests[0]
        assert (method, body) == ("PUT", value)
        assert target == "/v1/objects/farm/cow%201%3F%23%25%C3%A9/p?ack=delivered"
        assert headers["Content-Type"] == "image/jpeg" and headers["If-Match"] == '"2"' and headers["Sluice-Object-Time"] == "1795401600000000000"
        assert re.fullmatch("[0-9a-f]{32}", headers["Idempotency-Key"]) and 4000 < int(headers["Sluice-Timeout"].removesuffix("ms")) <= 5000
        check(server.sluice("put", "a/../b", "-", "--if-none-match", "--content-type", "text/plain", "--idempotency-key", "mine", stdin=b"moo", env={"SLUICE_TOKEN": "s3cret"}), 0)
        method, target, headers, body = server.requests[1]
        assert target == "/v1/objects/a/../b" and body == b"moo" and headers["If-None-Match"] == "*" and headers["Content-Type"] == "text/plain"
        assert headers["Idempotency-Key"] == "mine" and headers["Authorization"] == "Bearer s3cret"
        assert json.loads(check(server.sluice("put", "e", "--json"), 0).stdout) == WRITTEN
        assert server.requests[2][3] == b"" and server.requests[2][2]["Content-Type"] == "application/octet-stream"
        check(server.sluice("put", "e", "/nonexistent"), 1, err="/nonexistent cannot be read: No such file")
        check(server.sluice("put", "e", "--idempotency-key", "a\nX: b"), 2, err="line feed")
        assert len(server.requests) == 3


def test_each_kind_of_failure_has_its_exit_code_and_the_servers_own_words():
    for status, code, exit_code in [(400, "invalid_argument", 1), (403, "forbidden", 1), (404, "not_found", 3), (404, "deleted", 3), (410, "gone", 3), (409, "conflict", 1),
                                    (412, "condition_failed", 4), (413, "too_large", 1), (422, "idempotency_mismatch", 1), (429, "busy", 5),
                                    (503, "unavailable", 5), (504, "outcome_unknown", 5), (507, "storage_full", 1)]:
        with Server(problem(status, code, f"because of \x1b[31m{code}")) as server:
            result = check(server.sluice("put", "farm/cow", "--timeout", "0.1"), exit_code, err=f"sluice put: farm/cow: because of ?[31m{code} ({code})")
            assert result.stdout == b"" and b"\x1b" not in result.stderr
            check(server.sluice("watch", "farm/"), exit_code, err=f"({code})")
    with Server((500, {}, b"<html>oops")) as server:
        check(server.sluice("get", "x"), 1, err="HTTP status 500")
    with Server((200, {}, b"<html>no gateway")) as server:
        check(server.sluice("ls"), 1, err="is it a Sluice gateway?")
    check(sluice("get", "x", url=f"http://127.0.0.1:{free_ports(1)[0]}"), 5, err='"sluice up" starts a store here')


def test_what_was_not_applied_is_sent_again_and_a_lost_answer_is_asked_for_again():
    for first in [problem(503, "unavailable", "no quorum"), problem(429, "busy", "busy"), problem(504, "outcome_unknown", "?"), drop]:
        with Server(first, answer(WRITTEN, 201)) as server:
            check(server.sluice("put", "farm/cow", stdin=b"moo"), 0)
            (_, _, one, body_one), (_, _, two, body_two) = server.requests
            assert one["Idempotency-Key"] == two["Idempotency-Key"] and body_one == body_two == b"moo"
    with Server(problem(503, "unavailable", "no quorum")) as server:
        began = time.monotonic()
        check(server.sluice("rm", "farm/cow", "--timeout", "0.6"), 5)
        assert 0.2 < time.monotonic() - began < 2 and len(server.requests) > 2
    with Server(problem(503, "unavailable", "x")[:1] + ({"Retry-After": "1"}, b"{}"), answer(WRITTEN)) as server:
        began = time.monotonic()
        check(server.sluice("rm", "farm/cow"), 0)
        assert 0.95 < time.monotonic() - began < 3
    for status, code in [(412, "condition_failed"), (500, "internal")]:
        with Server(problem(status, code, "x"), answer(WRITTEN)) as server:
            assert server.sluice("put", "farm/cow").returncode != 0 and len(server.requests) == 1
    with Server(problem(504, "outcome_unknown", "x"), answer({})) as server:  # a pool's removal has no key to repeat it by
        check(server.sluice("pool", "rm", "p"), 5)
        assert len(server.requests) == 1


def test_get_gives_exactly_the_bytes():
    value = os.urandom(300000)
    facts = {"ETag": '"7"', "Sluice-Version": "7", "Sluice-Revision": "9", "Sluice-Time": "2026-11-23T02:40:00Z", "Content-Type": "image/png"}
    with Server((200, facts, value)) as server, tempfile.TemporaryDirectory() as directory:
        assert check(server.sluice("get", "farm/cow", "--version", "7"), 0).stdout == value
        assert server.requests[-1][1] == "/v1/objects/farm/cow?version=7"
        check(server.sluice("get", "farm/cow", "--at", "2026-11-23T02:40:00.5+01:00", "--clock", "object", "--consistency", "stable", "--range", "0-99"), 0)
        assert server.requests[-1][1] == "/v1/objects/farm/cow?at=1795398000500000000&clock=object&consistency=stable" and server.requests[-1][2]["Range"] == "bytes=0-99"
        check(server.sluice("get", "farm/cow", "--at", "-5m"), 0)
        at = int(re.search(r"at=(\d+)", server.requests[-1][1]).group(1))
        assert abs(time.time() - 300 - at / 1e9) < 10
        path = pathlib.Path(directory, "out")
        check(server.sluice("get", "farm/cow", "-o", path), 0)
        assert path.read_bytes() == value and stat.S_IMODE(path.stat().st_mode) == 0o666 & ~current_umask()
        shown = json.loads(check(server.sluice("get", "farm/cow", "--json"), 0).stdout)
        assert base64.b64decode(shown.pop("data")) == value
        assert shown == {"key": "farm/cow", "version": 7, "revision": 9, "time": "2026-11-23T02:40:00Z", "etag": '"7"', "content_type": "image/png", "size": len(value)}
        shown = json.loads(check(server.sluice("get", "farm/cow", "--json", "-o", path), 0).stdout)
        assert shown["file"] == str(path) and "data" not in shown
        check(server.sluice("get", "farm/cow", "-o", "/dev/null"), 0)
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode), "a device was replaced by a file"
        check(server.sluice("get", "farm/cow", "-o", f"{directory}/no/such"), 1, err="cannot be written")


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_get_that_breaks_off_leaves_the_file_as_it_was():
    def half(handler, _):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 500)
        return drop(handler, _)
    for script in [half, problem(404, "not_found", "nothing there")]:
        with Server(script) as server, tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "out")
            path.write_text("before")
            result = server.sluice("get", "farm/cow", "-o", path)
            assert result.returncode in (3, 5) and path.read_text() == "before", result
            assert os.listdir(directory) == ["out"]


def listed(key, **more):
    return {"key": key, "version": 1, "revision": 1, "shard": 1, "size": 2048, "content_type": "text/plain", "time": "2026-11-23T02:40:00Z", "time_ns": "1", **more}


def test_ls_follows_cursors_merges_folders_and_stops_at_its_limit():
    pages = [answer({"objects": [listed("a"), listed("c")], "prefixes": ["b/"], "at_ns": "5", "cursor": "p+2/="}), answer({"objects": [listed("d")], "prefixes": [], "at_ns": "5", "cursor": None})]
    with Server(*pages) as server:
        assert check(server.sluice("ls", "/x y", "--delimiter", "/"), 0).stdout.decode().split() == ["a", "b/", "c", "d"]
        assert server.requests[0][1] == "/v1/objects?prefix=x%20y&delimiter=%2F&limit=1000"
        assert server.requests[1][1] == "/v1/objects?prefix=x%20y&delimiter=%2F&limit=1000&cursor=p%2B2%2F%3D"
    with Server(*pages) as server:
        check(server.sluice("ls", "--limit", "3", "-l"), 0, "1  2.0 KiB  text/plain  2026-11-23T02:40:00Z  a\n-  -        -           -                     b/")
        assert len(server.requests) == 1 and server.requests[0][1] == "/v1/objects?limit=3"
    with Server(*pages) as server:
        lines = [json.loads(line) for line in check(server.sluice("ls", "--json"), 0).stdout.splitlines()]
        assert [line.get("key", line.get("prefix")) for line in lines] == ["a", "b/", "c", "d"]


def test_history_shows_versions_and_deletions():
    versions = [listed("k"), {"key": "k", "version": 2, "revision": 4, "deleted": True, "size": 0, "time": "2026-11-23T02:41:00Z"}]
    with Server(answer({"versions": versions, "cursor": None})) as server:
        out = check(server.sluice("history", "k", "--from", "1", "--to", "2026-11-23T02:40:00Z", "--desc", "--limit", "9"), 0).stdout.decode()
        assert [line.split()[:3] for line in out.splitlines()] == [["VERSION", "WHAT", "SIZE"], ["1", "put", "2.0"], ["2", "deleted", "-"]], out
        assert server.requests[0][1] == "/v1/history/k?from=1&to=1795401600000000000&order=desc&limit=9"
        assert [json.loads(line)["version"] for line in check(server.sluice("history", "k", "--json"), 0).stdout.splitlines()] == [1, 2]


def test_snapshot_asks_for_keys_and_prefixes_at_one_time():
    document = {"at_ns": "77", "objects": [{**listed("a"), "data": "bW9v"}], "missing": ["b"]}
    with Server(answer(document)) as server:
        out = check(server.sluice("snapshot", "a", "/b", "--prefix", "c/", "--at", "123"), 0).stdout.decode()
        assert json.loads(server.requests[0][3]) == {"keys": ["a", "b"], "prefixes": ["c/"], "at": "123"}
        assert "b    missing" in out and "all as of 77 ns" in out
        assert json.loads(check(server.sluice("snapshot", "a", "--json"), 0).stdout) == document


def test_watch_takes_the_pattern_for_what_it_looks_like():
    for arguments, query in [(["farm/"], "prefix=farm%2F"), (["farm/*/x"], "glob=farm%2F%2A%2Fx"), (["/farm/gate"], "key=farm%2Fgate"), (["a[12]"], "glob=a%5B12%5D"), ([""], "prefix="),
                             (["--regex", "farm/cow[0-9]+"], "regex=farm%2Fcow%5B0-9%5D%2B"), (["--key", "a*b"], "key=a%2Ab"), (["--prefix", "a"], "prefix=a"),
                             (["x/", "--from", "c/1", "--data"], "prefix=x%2F&from=c%2F1&data=true")]:
        with Server(stream(event("put", WRITTEN, "c1"))) as server:
            check(server.sluice("watch", *arguments, "-n", "1"), 0, "put     farm/cow  version 3  4 B")
            assert server.requests[0][1] == "/v1/watch?" + query, server.requests[0][1]


def test_watch_goes_on_where_it_stopped():
    script = [stream(event("put", {**WRITTEN, "version": 1}, "c1"), event("progress", {"closed_ns": "9"}, "c2"), b"event: put\ndata: {\"half\""), drop, problem(503, "unavailable", "no gateway"),
              stream(event("put", {**WRITTEN, "version": 2}, "c3")), stream(event("delete", {**WRITTEN, "version": 3}, "c4"), then=lambda *_: time.sleep(5))]
    with Server(*script) as server:
        result = check(server.sluice("watch", "farm/cow", "-n", "3", "--json"), 0, err="connecting again from where it stopped")
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [(line["event"], line["version"], line["cursor"]) for line in lines] == [("put", 1, "c1"), ("put", 2, "c3"), ("delete", 3, "c4")]
        assert [headers["Last-Event-ID"] for _, _, headers, _ in server.requests] == [None, "c2", "c2", "c2", "c3"]
    def failing(status, code):
        return event("error", {"status": status, "code": code, "detail": "of the store"})
    with Server(stream(event("put", WRITTEN, "c1"), failing(503, "unavailable")), stream(event("put", WRITTEN, "c2"), failing(410, "gone"), event("put", WRITTEN, "c3"))) as server:
        result = check(server.sluice("watch", "farm/cow"), 3, err="of the store (gone)")
        assert result.stdout.count(b"version 3") == 2 and server.requests[1][2]["Last-Event-ID"] == "c1"
    with Server(stream(event("put", WRITTEN, "c1")), problem(410, "gone", "that position is no longer kept")) as server:
        check(server.sluice("watch", "farm/cow"), 3, err="no longer kept (gone)")


def test_event_streams_are_read_however_they_are_cut():
    data = b"\xef\xbb\xbf: hello\r\nevent: put\r\nid: c\xc3\xa91\rdata: " + json.dumps({**WRITTEN, "key": "first"}).encode() + b"\r\r" + \
        b"id\nevent:put\ndata:{\"key\":\ndata: \"second\",\"version\":\"18446744073709551615\"}\n\nevent: nothing\n\ndata\n\nretry: 20\nevent: put\nid: a\0b\ndata: {\"key\":\"third\"}\r\n\r\n"
    for pieces in ([data], [data[i:i + 1] for i in range(len(data))], [data[:100], data[100:]]):
        with Server(stream(*pieces)) as server:
            result = check(server.sluice("watch", "x/", "-n", "3", "--json"), 0)
            lines = [json.loads(line) for line in result.stdout.splitlines()]
            assert [line["key"] for line in lines] == ["first", "second", "third"], lines
            assert [line.get("cursor") for line in lines] == ["cé1", None, None] and lines[1]["version"] == "18446744073709551615"
            assert b"no JSON object" in result.stderr


def test_watch_shows_values_that_are_text_and_never_drives_the_terminal():
    events = [event("put", {**WRITTEN, "data": base64.b64encode(b"38.5 \xc2\xb0C\n").decode()}, "1"), event("put", {**WRITTEN, "data": base64.b64encode(b"\x1b]0;x\x07").decode()}, "2"),
              event("put", {**WRITTEN, "truncated": True, "url": "/v1/objects/farm/cow?version=3"}, "3"), event("progress", {"closed_ns": "42"}, "4"), event("delete", WRITTEN, "5")]
    with Server(stream(*events)) as server:
        out = check(server.sluice("watch", "farm/", "--data", "--progress", "-n", "4"), 0).stdout
        assert "4 B\n38.5 °C\n".encode() in out and b"6 bytes that are no text" in out and b"too large for an event" in out and b"\x1b" not in out
        assert b"everything up to 42 ns has been seen\n" in out and b"delete  farm/cow  version 3\n" in out
    with Server(stream(event("put", WRITTEN, "1"), then=lambda *_: time.sleep(30))) as server:  # through a pipe, an event is there at once
        child = subprocess.Popen([BUILD / "sluice", "watch", "farm/"], env={"SLUICE_URL": server.url}, stdout=subprocess.PIPE)
        assert b"farm/cow" in child.stdout.readline()
        child.kill()
        child.wait()


def test_pools_are_shown_made_and_removed():
    root = {"prefix": "", "kind": "persistent", "shards": [1, 2, 3], "replicas": 3, "affinity": None, "lateness": "1500000000", "state": "live"}
    with Server(answer({"pools": [root]})) as server:
        out = check(server.sluice("pool", "ls"), 0).stdout.decode()
        assert out.splitlines()[1].split() == ["/", "persistent", "3", "3", "-", "1.5", "s", "live"], out
        assert json.loads(check(server.sluice("pool", "ls", "--json"), 0).stdout) == root
    with Server(answer(root)) as server:
        check(server.sluice("pool", "get", "/"), 0, "persistent")
        check(server.sluice("pool", "put", "/farm/frames/", "--kind", "volatile", "--shards", "4", "--replicas", "3", "--affinity", "(a)/.*", "--lateness", "0.25", "--policy", '{"kind":"x","extra":1}'), 0)
        check(server.sluice("pool", "rm", "farm/frames", "--force"), 0, "removed")
        assert [(method, path) for method, path, _, _ in server.requests] == [("GET", "/v1/pools/%2F"), ("PUT", "/v1/pools/farm%2Fframes"), ("DELETE", "/v1/pools/farm%2Fframes?force=true")]
        assert json.loads(server.requests[1][3]) == {"kind": "volatile", "shards": 4, "replicas": 3, "affinity": "(a)/.*", "lateness": "250000000", "extra": 1}


def test_a_lambda_is_uploaded_whole_and_steered_by_its_name():
    code = b"\x7fELF" + os.urandom(100000)
    with Server(answer({"name": "shapes", "version": 2, "sha256": hashlib.sha256(code).hexdigest(), "state": "active"}, 201)) as server, tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "shapes.so")
        path.write_bytes(code)
        config = pathlib.Path(directory, "config.json")
        config.write_text('{"limit":3}')
        check(server.sluice("lambda", "put", path, "--config", f"@{config}"), 0, "shapes: version 2, active")
        method, target, headers, body = server.requests[0]
        assert (method, target) == ("POST", "/v1/lambdas") and headers["Content-Type"].startswith("multipart/form-data; boundary=")
        parts = body.split(b"--" + headers["Content-Type"].split("boundary=")[1].encode())
        manifest = next(part for part in parts if b'name="manifest"' in part)
        assert json.loads(manifest.split(b"\r\n\r\n", 1)[1]) == {"name": "shapes", "config": {"limit": 3}}
        assert next(part for part in parts if b'name="file"' in part).split(b"\r\n\r\n", 1)[1] == code + b"\r\n"
        for action, method, target in [("enable", "POST", "/v1/lambdas/a%2Fb/enable"), ("disable", "POST", "/v1/lambdas/a%2Fb/disable"), ("rm", "DELETE", "/v1/lambdas/a%2Fb"), ("get", "GET", "/v1/lambdas/a%2Fb")]:
            check(server.sluice("lambda", action, "a/b"), 0)
            assert server.requests[-1][:2] == (method, target)
    with Server(problem(422, "unprocessable", "shapes.so: undefined symbol: moo")) as server:
        check(server.sluice("lambda", "put", BUILD / "sluice", "--name", "x"), 1, err="undefined symbol: moo")
    with Server(answer({"lambdas": [{"name": "shapes", "version": 2, "state": "failed", "events": 5, "failures": 1, "parked": 1, "queued": 0, "error": "boom"}]})) as server:
        check(server.sluice("lambda", "ls"), 0, "shapes  2        failed  5       1         1       0       boom")
        assert json.loads(check(server.sluice("lambda", "ls", "--json"), 0).stdout)["error"] == "boom"


def test_cluster_shows_who_leads_and_who_is_behind_or_away():
    document = {"nodes": [{"id": 1, "state": "up", "membership": "up", "uptime_ms": 93784000, "peers": [{"node": 2, "connected": True}, {"node": 3, "connected": False}],
                           "storage": {"free_bytes": "1073741824", "total_bytes": "2147483648", "state": "ok"}}, {"id": 2, "state": "unreachable", "membership": "draining"}],
                "shards": [{"id": 4, "pool": "", "epoch": 1, "leader": 1, "stable": "18446744073709551615",
                            "replicas": [{"node": 1, "role": "leader", "lag": 0}, {"node": 2, "role": "unreachable"}, {"node": 3, "role": "follower", "lag": 14}]},
                           {"id": 5, "pool": "farm", "epoch": 2, "leader": 0, "replicas": []}]}
    with Server(answer(document)) as server:
        lines = [line.split() for line in check(server.sluice("cluster"), 0).stdout.decode().splitlines()]
        assert ["1", "up", "up", "1d", "2h", "2", "1.0", "GiB", "2.0", "GiB", "ok"] in lines and ["2", "unreachable", "draining", "-", "-", "-", "-", "-"] in lines, lines
        assert ["4", "/", "1", "1", "18446744073709551615", "1,", "2", "(unreachable),", "3", "(14", "behind)"] in lines and ["5", "farm", "none", "2", "-", "-"] in lines, lines
        assert json.loads(check(server.sluice("cluster", "--json"), 0).stdout) == document


def test_cluster_shows_who_learns_and_who_leaves():
    document = {"nodes": [], "shards": [{"id": 4, "pool": "", "epoch": 1, "leader": 1, "stable": "9", "moving": True, "replicas": [
        {"node": 1, "role": "leader", "wanted": True, "member": True, "learner": False, "lag": 0},
        {"node": 4, "role": "learner", "wanted": True, "member": False, "learner": True, "lag": 7},
        {"node": 2, "role": "unreachable", "wanted": False, "member": True, "learner": False}]}]}
    with Server(answer(document)) as server:
        check(server.sluice("cluster"), 0, "1, 4 (learner, 7 behind), 2 (unreachable, leaving)")


def test_cluster_says_how_far_a_rollout_is():
    def nodes(*levels):
        return {"level": 2, "nodes": [{"id": number, "state": "up", "levels": [1, level]} for number, level in enumerate(levels, 1)], "shards": []}
    with Server(answer(nodes(3, 2, 3))) as server:
        check(server.sluice("cluster"), 0, "works at level 2, and rises once all nodes are of the release of: 1, 3.")
    with Server(answer(nodes(2, 2, 2))) as server:
        assert b"level" not in check(server.sluice("cluster"), 0).stdout


def test_cluster_changes_its_members():
    def sent(reply, *arguments, out=None, status=200):
        with Server(answer(reply, status)) as server:
            check(server.sluice("cluster", *arguments), 0, out)
            request = server.requests[-1]
            return request[0], request[1], json.loads(request[3] or b"null")

    joining = {"node": 4, "state": "joining", "shards_moving": 0}
    assert sent(joining, "add", out="sluiced --id 4", status=201) == ("POST", "/v1/cluster/nodes", {})
    assert sent(joining, "add", "4", "--address", "tcp:h:1", status=201) == ("POST", "/v1/cluster/nodes", {"id": 4, "addresses": ["tcp:h:1"]})
    assert sent({"node": 2, "state": "draining", "shards_moving": 6}, "remove", "2", out="6 shards move") == ("DELETE", "/v1/cluster/nodes/2", None)
    assert sent({"node": 2, "state": "gone", "shards_moving": 0}, "remove", "2", "--force", out="gone")[1] == "/v1/cluster/nodes/2?force=true"
    assert sent({**joining, "replaces": 3}, "replace", "3", out="takes the places of node 3") == ("POST", "/v1/cluster/nodes/3/replace", {})
    assert sent({**joining, "replaces": 3}, "replace", "3", "--with", "6")[2] == {"with": 6}
    moved = {"shards": [{"shard": 5, "from": 2, "to": 0}]}
    assert sent(moved, "transfer", "--from", "2", out="any") == ("POST", "/v1/cluster/transfer", {"from": 2})
    assert sent({"shards": []}, "transfer", "--shard", "0", "--to", "1", out="nothing")[2] == {"shard": 0, "to": 1}
    for wrong in (["add", "64"], ["remove"], ["replace", "x"], ["transfer"], ["transfer", "3"], ["add", "4", "--address", "here"]):
        check(sluice("cluster", *wrong), 2)


def test_a_full_output_is_an_error():
    with Server(answer({"objects": [listed("a")], "prefixes": [], "at_ns": "5", "cursor": None})) as server, open("/dev/full", "wb") as full:
        result = subprocess.run([BUILD / "sluice", "ls"], env={"SLUICE_URL": server.url}, stdout=full, stderr=subprocess.PIPE, check=False, timeout=20)
        assert result.returncode == 1 and b"cannot be written" in result.stderr


# --- sluice up, with programs that only pretend --------------------------------------------------------------------

NODE = """#!/usr/bin/env python3
import json, os, signal, sys
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps([os.path.basename(sys.argv[0]), os.getpid(), sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith("SLUICE_")}]) + "\\n")
print("\\x1b[31mhello from", sys.argv[2], file=sys.stderr, flush=True)
if os.environ.get("FAIL") == sys.argv[2]:
    sys.exit(64)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # one that comes between a look and a pause would be slept over
signal.sigwait({signal.SIGTERM})
"""
GATEWAY = """#!/usr/bin/env python3
import http.server, json, os, signal, sys
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps([os.path.basename(sys.argv[0]), os.getpid(), sys.argv[1:], {}]) + "\\n")
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # Not before the node that is to fail has done so.
        self.send_response(404 if self.path != "/readyz" else 503 if "FAIL" in os.environ else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
host, port = sys.argv[sys.argv.index("--listen") + 1].split(":")
http.server.HTTPServer((host, int(port)), Ready).serve_forever()
"""


class Up:
    """`sluice up` of several nodes, copied beside programs that pretend to be nodes and a gateway."""

    def __init__(self, directory, *arguments, **env):
        self.directory, self.record = pathlib.Path(directory), pathlib.Path(directory, "record")
        programs = pathlib.Path(directory, "bin")
        if not programs.exists():
            programs.mkdir()
            (programs / "sluice").write_bytes((BUILD / "sluice").read_bytes())
            (programs / "sluiced").write_text(NODE)
            (programs / "sluice-gateway").write_text(GATEWAY)
            for program in programs.iterdir():
                program.chmod(0o755)
        self.http, self.grpc = free_ports(2)
        self.log = open(pathlib.Path(directory, "out"), "ab+")
        self.log_begin = self.log.seek(0, 2)
        self.started_before = len(self.every_started())
        self.child = subprocess.Popen([programs / "sluice", "up", "--data", "data", "--http", f"127.0.0.1:{self.http}", "--grpc", f"127.0.0.1:{self.grpc}", *arguments],
                                      cwd=directory, stdout=self.log, stderr=self.log, env={**os.environ, "RECORD": str(self.record), "SLUICE_ID": "9", "SLUICE_LOG_LEVEL": "warn", **env})

    def output(self):
        self.log.seek(self.log_begin)
        return self.log.read().decode()

    def every_started(self):
        lines = self.record.read_text().splitlines(keepends=True) if self.record.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def started(self):
        """What this run started so far: a program tells of itself, so it may do so after the greeting."""
        return self.every_started()[self.started_before:]

    def greeted(self):
        """What was started, once the greeting has come and all programs have told of themselves: three nodes and a gateway."""
        self.wait(lambda: "Ctrl-C stops it" in self.output(), "no greeting came")
        self.wait(lambda: len(self.started()) == 4, "not all programs run")
        return self.started()

    def wait(self, condition, what):
        ends = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < ends, f"{what}; so far: {self.output()}"
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
        self.log.close()


def alive(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


def options_of(arguments, name):
    return [arguments[i + 1] for i, each in enumerate(arguments) if each == name]


def test_up_starts_nodes_and_a_gateway_that_know_each_other_and_stops_them_all():
    with tempfile.TemporaryDirectory() as directory:
        with Up(directory, "--nodes", "3") as up:
            started = up.greeted()
            nodes = [each for each in started if each[0] == "sluiced"]
            gateway = next(each for each in started if each[0] == "sluice-gateway")
            addresses = {options_of(each[2], "--id")[0]: options_of(each[2], "--listen")[0] for each in nodes}
            assert sorted(addresses) == ["1", "2", "3"] and len(set(addresses.values())) == 3
            assert all(address.startswith(f"shm:{os.path.realpath(directory)}/data/") for address in addresses.values()), addresses
            for _, _, arguments, env in nodes:
                assert sorted(options_of(arguments, "--peer")) == [f"{i}={address}" for i, address in sorted(addresses.items())]
                assert options_of(arguments, "--data") == [f"{os.path.realpath(directory)}/data/node{options_of(arguments, '--id')[0]}"]
                assert env == {"SLUICE_LOG_LEVEL": "warn"}, env
            assert len({options_of(each[2], "--cluster-name")[0] for each in nodes}) == 1
            assert all(address in " ".join(gateway[2]) for address in addresses.values())
            for each in started:
                assert str(each[1]) in up.output() and alive(each[1])
            assert f"http://127.0.0.1:{up.http}" in up.output() and "kill -9" in up.output()
            second = Up(directory, "--nodes", "3")
            assert second.child.wait(10) == 1 and 'another "sluice up" uses' in second.output()
            up.child.send_signal(signal.SIGINT)
            assert up.child.wait(10) == 0
            assert not any(alive(each[1]) for each in started), "a process was left behind"
        with Up(directory, "--nodes", "2") as up:
            assert up.child.wait(10) == 1 and "holds a cluster of 3 nodes" in up.output()
        with Up(directory, "-v") as up:  # the directory knows that there are three
            up.wait(lambda: up.output().count("| ") >= 3, "the nodes' logs were not shown")
            assert "\x1b" not in up.output()


def test_up_works_in_a_directory_of_any_name():
    with tempfile.TemporaryDirectory() as directory:
        for name in ("a,b = c", "long-" * 30):
            with Up(directory, "--nodes", "3", "--data", name) as up:
                addresses = {options_of(each[2], "--listen")[0] for each in up.greeted() if each[0] == "sluiced"}
                assert len(addresses) == 3 and all(re.fullmatch(r"shm:sluice-up-[0-9a-f]{16}-[123]", address) for address in addresses), addresses


def test_up_over_tcp_takes_free_ports_and_the_same_ones_again():
    seen = []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            with Up(directory, "--nodes", "3", "--fabric", "tcp") as up:
                seen.append(sorted({options_of(each[2], "--listen")[0] for each in up.greeted() if each[0] == "sluiced"}))
    assert seen[0] == seen[1] and len(seen[0]) == 3 and all(re.fullmatch(r"tcp:127\.0\.0\.1:\d+", address) for address in seen[0]), seen


def test_up_reports_a_death_starts_the_process_again_and_dies_with_its_children():
    with tempfile.TemporaryDirectory() as directory, Up(directory, "--nodes", "3", "--restart-after", "1") as up:
        victim = next(each[1] for each in up.greeted() if options_of(each[2], "--id") == ["2"])
        os.kill(victim, signal.SIGKILL)
        up.wait(lambda: f"node2 (pid {victim}) was killed by signal 9" in up.output(), "the death was not reported")
        up.wait(lambda: "node2 was started again" in up.output(), "it was not started again")
        up.wait(lambda: len(up.started()) == 5, "the program did not run again")
        assert options_of(up.started()[4][2], "--id") == ["2"]
        up.child.kill()
        up.child.wait()
        up.wait(lambda: not any(alive(each[1]) for each in up.started()), "children outlived their parent")


def test_up_that_cannot_start_says_why():
    with tempfile.TemporaryDirectory() as directory, Up(directory, "--nodes", "3", FAIL="2") as up:
        assert up.child.wait(20) == 1
        assert "node2" in up.output() and "ended with status 64" in up.output() and "hello from 2" in up.output()
        assert not any(alive(each[1]) for each in up.started())
    with tempfile.TemporaryDirectory() as directory, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check(sluice("up", "--data", f"{directory}/d", "--http", f"127.0.0.1:{port}"), 1, err="choose another with --http")
        check(sluice("up", "--data", f"{directory}/d", "--http", "8080"), 1, err="ADDR:PORT was expected")
        pathlib.Path(directory, "d").mkdir(exist_ok=True)
        pathlib.Path(directory, "d/up.ini").write_text("nodes = 99\n")
        check(sluice("up", "--data", f"{directory}/d", "--http", f"127.0.0.1:{free_ports(1)[0]}", "--grpc", f"127.0.0.1:{free_ports(1)[0]}"), 1, err="cannot be understood")
        pathlib.Path(directory, "file").write_text("")
        check(sluice("up", "--data", f"{directory}/file/d", "--http", f"127.0.0.1:{free_ports(1)[0]}", "--grpc", f"127.0.0.1:{free_ports(1)[0]}"), 1, err="cannot be made")


if __name__ == "__main__":
    run_tests(globals())
