"""Watches over SSE that are resumed with Last-Event-ID wherever their connection breaks, and what is checked of them."""

import contextlib
import json
import socket
import threading
import time


class Watcher:
    """Follows a prefix through the gateways in turn, in a thread of its own."""

    def __init__(self, addresses, prefix):
        self.addresses, self.prefix = [address.split(":") for address in addresses], prefix
        self.events, self.cursor, self.closed_ns, self.resumed = [], None, 0, 0
        self.refused = {}
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def stop(self):
        self.stopping.set()
        self.thread.join(10)

    def run(self):
        turn = 0
        while not self.stopping.is_set():
            with contextlib.suppress(OSError):
                self.follow(*self.addresses[turn % len(self.addresses)])
            turn += 1
            time.sleep(0.05)

    def follow(self, host, port):
        with socket.create_connection((host, int(port)), timeout=2) as connection:
            resume = f"Last-Event-ID: {self.cursor}\r\n" if self.cursor else ""
            connection.sendall(f"GET /v1/watch?prefix={self.prefix} HTTP/1.1\r\nHost: gateway\r\nAccept: text/event-stream\r\n{resume}\r\n".encode())
            # Progress comes at least once a second; silence is a broken connection that nobody has told of.
            connection.settimeout(4)
            self.read(connection)

    def read(self, connection):
        stream = connection.makefile("rb")
        status = stream.readline().split()
        while stream.readline() not in (b"\r\n", b""):
            pass
        if len(status) < 2 or status[1] != b"200":
            said = status[1].decode() if len(status) > 1 else "nothing"
            self.refused[said] = self.refused.get(said, 0) + 1
            return
        self.resumed += 1
        kind = data = cursor = None
        for line in self.lines(stream):
            if line.startswith(b"event: "):
                kind = line[7:]
            elif line.startswith(b"data: "):
                data = line[6:]
            elif line.startswith(b"id: "):
                cursor = line[4:].decode()
            elif not line and kind is not None:
                self.take(kind, data, cursor)
                kind = data = cursor = None

    def lines(self, stream):
        """Whole lines of a chunked body: where chunks end says nothing of where lines do."""
        rest = b""
        while not self.stopping.is_set():
            head = stream.readline()
            if not head.endswith(b"\n"):
                return
            size = int(head, 16)
            chunk = stream.read(size)
            if size == 0 or len(chunk) < size:
                return
            stream.readline()
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole

    def take(self, kind, data, cursor):
        """A whole event; half a one before a break does not count, and comes again."""
        if kind in (b"put", b"delete"):
            said = json.loads(data)
            self.events.append((said["shard"], int(said["revision"]), said["key"], int(said["version"]), kind == b"delete"))
        elif kind == b"progress":
            self.closed_ns = int(json.loads(data)["closed_ns"])
        if cursor:
            self.cursor = cursor

    def faults(self, acknowledged):
        """What is wrong: `acknowledged` is a set of (key, version, deleted). At most ten sentences."""
        wrong, seen, last = [], set(), {}
        for shard, revision, key, version, deleted in self.events:
            if (key, version) in seen:
                wrong.append(f"{key} version {version} came twice")
            if revision <= last.get(shard, 0):
                wrong.append(f"shard {shard}: revision {revision} came after {last[shard]}")
            last[shard] = revision
            seen.add((key, version))
        known = {(key, version, deleted) for _, _, key, version, deleted in self.events}
        lost = acknowledged - known
        if lost:
            wrong.append(f"{len(lost)} acknowledged writes never came, such as {sorted(lost)[:3]}")
        # Versions have no gaps, so a hole is an event that was missed, whoever wrote it.
        highest = {}
        for key, version in seen:
            highest[key] = max(version, highest.get(key, 0))
        holes = sum(highest.values()) - len(seen)
        if holes:
            wrong.append(f"{holes} versions are missing in the midst")
        return wrong[:10]
