"""Starts core nodes and gateways as real processes, for tests that kill, stop and starve them."""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD", ROOT / "build"))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """The stable code of problem+json, or None."""
        try:
            return self.json.get("code")
        except ValueError:
            return None


class Http:
    """One keep-alive connection; opens it again when it broke."""

    def __init__(self, port, timeout=30):
        self.port, self.timeout, self.connection = port, timeout, None

    def call(self, method, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            self.connection.request(method, path, body=body, headers=headers)
            answer = self.connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise

    def put(self, key, body, **headers):
        return self.call("PUT", f"/v1/objects/{key}", body, **headers)

    def get(self, key, query="", **headers):
        return self.call("GET", f"/v1/objects/{key}{query}", **headers)


class Process:
    def __init__(self, name, command, log, env=None):
        self.name, self.command, self.log, self.env = name, [str(part) for part in command], log, env
        self.child = None

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.command, stdout=log, stderr=log, env={**os.environ, **(self.env or {})})
        return self

    def kill(self, sign=signal.SIGKILL):
        if self.child and self.child.poll() is None:
            self.child.send_signal(sign)
            if sign in (signal.SIGKILL, signal.SIGTERM):
                self.child.wait(30)

    def running(self):
        return self.child is not None and self.child.poll() is None


class Cluster:
    """`nodes` core nodes over `fabric` and one gateway, in a directory of their own."""

    def __init__(self, nodes=3, fabric="shm", directory=None, sluiced_options=()):
        self.own = directory is None
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix="sluice-test-"))
        self.http_port, self.grpc_port, *ports = free_ports(2 + nodes)
        mark = f"sluice-test-{os.getpid()}-{self.http_port}"
        self.addresses = {i: f"shm:{mark}-{i}" if fabric == "shm" else f"tcp:127.0.0.1:{ports[i - 1]}" for i in range(1, nodes + 1)}
        peers = [part for i, address in self.addresses.items() for part in ("--peer", f"{i}={address}")]
        self.nodes = {
            i: Process(f"node{i}", [BUILD / "sluiced", "--id", i, "--data", self.directory / f"node{i}", "--listen", address, "--allow-inprocess", "yes",
                                    *peers, *sluiced_options], self.directory / f"node{i}.log")
            for i, address in self.addresses.items()
        }
        self.gateway = Process("gateway", [BUILD / "sluice-gateway", "--listen", f"127.0.0.1:{self.http_port}", "--grpc", f"127.0.0.1:{self.grpc_port}",
                                           "--nodes", ",".join(self.addresses.values())], self.directory / "gateway.log")

    def start(self, wait=True):
        for node in self.nodes.values():
            node.start()
        self.gateway.start()
        if wait:
            self.wait_ready()
        return self

    def http(self, timeout=30):
        return Http(self.http_port, timeout)

    def wait_ready(self, seconds=20):
        """Until a write succeeds."""
        def ready():
            return self.http(5).put("_ready", b"1").status in (200, 201)
        self.wait_for(ready, seconds, "the cluster takes no writes")

    @staticmethod
    def wait_for(condition, seconds, what):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, http.client.HTTPException, KeyError, ValueError):
                if condition():
                    return
            time.sleep(0.02)
        raise AssertionError(f"{what} within {seconds} s")

    def status(self):
        return self.http().call("GET", "/v1/cluster").json

    def leader_of(self, key):
        """The node that leads the shard of a key, which is made where it is missing."""
        http_client = self.http()
        if http_client.get(key).status == 404:
            http_client.put(key, b"probe")
        shard = http_client.call("GET", f"/v1/objects?prefix={key}&limit=1").json["objects"][0]["shard"]
        for each in self.status()["shards"]:
            if each["id"] == shard:
                return each["leader"]
        raise KeyError(shard)

    def stop(self):
        self.gateway.kill(signal.SIGTERM)
        for node in self.nodes.values():
            node.kill(signal.SIGCONT)
            node.kill(signal.SIGTERM)
        for process in [*self.nodes.values(), self.gateway]:
            process.kill()

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, error, trace):
        self.stop()
        if kind is not None:
            for process in [*self.nodes.values(), self.gateway]:
                with contextlib.suppress(OSError):
                    tail = pathlib.Path(process.log).read_text(errors="replace").splitlines()[-25:]
                    print(f"--- {process.name}", *tail, sep="\n", file=sys.stderr)
        if self.own:
            shutil.rmtree(self.directory, ignore_errors=True)


class Writers:
    """Puts of rising numbers under a few keys each; remembers what was acknowledged and the longest pause between two acknowledgements."""

    def __init__(self, cluster, count=4, keys=8, keyed_every=1):
        """Each `keyed_every`th write carries an Idempotency-Key: a shard remembers 100,000 of them for a quarter of an hour, and refuses what is beyond."""
        self.cluster, self.keys, self.keyed_every, self.stopping = cluster, keys, keyed_every, threading.Event()
        self.acknowledged, self.longest, self.errors, self.total = {}, 0.0, {}, 0
        self.lock = threading.Lock()
        self.last = None
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(count)]

    def run(self, writer):
        http_client, number = self.cluster.http(), 0
        while not self.stopping.is_set():
            number += 1
            key = f"w{writer}/k{number % self.keys}"
            try:
                keyed = {"Idempotency_Key": f"{writer}-{number}"} if number % self.keyed_every == 0 else {}
                answer = http_client.put(key, str(number).encode(), Sluice_Timeout="10s", **keyed)
            except (OSError, http.client.HTTPException) as error:
                self.note_error(type(error).__name__)
                continue
            if answer.status in (200, 201):
                self.note(key, answer.json["version"], number)
            else:
                self.note_error(answer.code or answer.status)
                time.sleep(0.01)

    def note(self, key, version, number):
        now = time.monotonic()
        with self.lock:
            if self.last is not None:
                self.longest = max(self.longest, now - self.last)
            self.last = now
            self.total += 1
            self.acknowledged[key, version] = number

    def note_error(self, what):
        with self.lock:
            self.errors[what] = self.errors.get(what, 0) + 1

    def reset_pause(self):
        with self.lock:
            self.longest, self.last = 0.0, time.monotonic()

    def pause(self):
        with self.lock:
            since = time.monotonic() - self.last if self.last else 0.0
            return max(self.longest, since)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)

    def verify(self, http_client):
        """Every acknowledged write is there, under the version that was acknowledged."""
        missing = []
        for (key, version), number in self.acknowledged.items():
            answer = http_client.get(key, f"?version={version}")
            if answer.status != 200 or answer.body != str(number).encode():
                missing.append((key, version, number, answer.status, answer.body[:60]))
        assert not missing, f"{len(missing)} acknowledged writes are lost or wrong, the first: {missing[:3]}"


def run_tests(namespace):
    """Runs every test_… function (or those named on the command line) and closes with the count."""
    names = [name for name in namespace if name.startswith("test_")]
    wanted = [name for name in names if not sys.argv[1:] or any(part in name for part in sys.argv[1:])]
    passed = failed = 0
    for name in wanted:
        began = time.monotonic()
        try:
            namespace[name]()
            passed += 1
            print(f"ok    {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as error:  # noqa: BLE001 - a test may fail in any way; the next one still runs
            failed += 1
            print(f"FAIL  {name} ({time.monotonic() - began:.1f} s): {type(error).__name__}: {error}", flush=True)
            if os.environ.get("SLUICE_TEST_TRACE"):
                raise
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
