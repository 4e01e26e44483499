#!/usr/bin/env python3
"""fabric-perf as an operator uses it: both sides, all ways to run it, what it prints, how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from harness import BUILD, free_ports, run_tests

PROGRAM = BUILD / "fabric-perf"
FIT, FAILED, UNFIT, USAGE = 0, 1, 2, 64


def perf(*arguments, seconds=30):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=seconds, check=False)


@contextlib.contextmanager
def serving(address):
    """A serving side; gives the address that it says it listens on."""
    child = subprocess.Popen([PROGRAM, "--serve", address], stderr=subprocess.PIPE, text=True)
    try:
        line = child.stderr.readline()
        found = re.search(r"listening on (\S+);", line)
        assert found, line
        yield found.group(1), child
    finally:
        child.send_signal(signal.SIGTERM)
        rest = child.communicate(timeout=10)[1]
        assert child.returncode == 0, (child.returncode, rest)


class Network:
    """A TCP relay that is as slow as it is told to be."""

    def __init__(self, port, delay=0.0, bytes_per_second=None):
        self.target, self.delay, self.rate = port, delay, bytes_per_second
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self.relay, args=(source, sink), daemon=True).start()

    def relay(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay + (len(data) / self.rate if self.rate else 0))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def port_of(address):
    return int(address.rsplit(":", 1)[1])


def test_help_teaches_and_wrong_options_are_refused_with_what_was_expected():
    helped = perf("--help")
    assert helped.returncode == 0
    for word in ("--serve", "tcp:10.0.0.1:7900", "60 ms", "one way", "Exit status", "--json"):
        assert word in helped.stdout, word
    for arguments, expected in ((["--sizes", "0", "--self"], "sizes from 1 to 64M"), (["--sizes", "65M", "--self"], "sizes from 1 to 64M"), (["--sizes", "64,,1K", "--self"], "sizes from 1 to 64M"),
                                (["-t", "speed", "--self"], "latency, bandwidth or all"), (["-d", "up", "--self"], "there, back or both"), (["-n", "nan", "--self"], "a number from"),
                                ([], "an address was expected"), (["--serve"], "an address was expected"), (["--serve", "--self", "shm:x"], "came both"), (["shm:a", "shm:b"], "a second one: shm:b")):
        result = perf(*arguments)
        assert result.returncode == USAGE and expected in result.stderr, (arguments, result)


def check_document(document, sizes, direction):
    assert [each["size"] for each in document["latency"]] == sizes, document
    for each in document["latency"]:
        ways = each["one_way_us"]
        assert each["count"] > 0 and 0 < ways["min"] <= ways["p50"] <= ways["p90"] <= ways["p99"] <= ways["p999"] <= ways["max"], each
        assert abs(each["round_trip_us"]["p50"] - 2 * ways["p50"]) <= 0.001 * each["round_trip_us"]["p50"], "one way is half of a round trip"
    assert [each["size"] for each in document["bandwidth"]] == sizes, document
    for each in document["bandwidth"]:
        assert ("there" in each, "back" in each) == (direction != "back", direction != "there"), each
        for where in {"there", "back"} & set(each):
            rate = each[where]
            assert rate["messages"] > 0 and abs(rate["bytes_per_second"] - rate["messages_per_second"] * each["size"]) <= 0.001 * rate["bytes_per_second"], each
    assert document["verdict"] in ("fit", "tight", "unfit") and document["reasons"], document


def test_both_sides_start_by_themselves_over_each_provider():
    for address in ([], ["shm:"], ["tcp:127.0.0.1:0"]):
        result = perf("--self", "--json", "-n", "0.1", "-z", "1,64,100K", "-d", "both", *address)
        assert result.returncode in (FIT, UNFIT) and result.stderr == "", result
        document = json.loads(result.stdout)
        assert document["address"].startswith(address[0][:4] if address else "shm:"), document
        check_document(document, [1, 64, 100 << 10], "both")
        assert (document["verdict"] == "unfit") == (result.returncode == UNFIT), result


def test_a_server_serves_one_client_after_another_in_each_direction():
    with serving("tcp:127.0.0.1:0") as (address, _):
        for direction in ("there", "back", "both"):
            result = perf("--json", "-n", "0.1", "-z", "64,1M", "-d", direction, address)
            assert result.returncode in (FIT, UNFIT), result
            check_document(json.loads(result.stdout), [64, 1 << 20], direction)


def test_tables_are_for_people_and_tests_can_be_chosen():
    with serving(f"shm:fabric-perf-test-{os.getpid()}") as (address, _):
        latency = perf("-n", "0.05", "-z", "64,64K", "-t", "latency", address)
        assert latency.returncode in (FIT, UNFIT) and "one way" in latency.stdout and "64 KiB" in latency.stdout and "bandwidth" not in latency.stdout, latency
        assert "cluster with the default times" in latency.stdout, latency
        bandwidth = perf("-n", "0.05", "-z", "64K", "-t", "bandwidth", address)
        assert bandwidth.returncode in (FIT, UNFIT) and "MB/s" in bandwidth.stdout and "one way" not in bandwidth.stdout, bandwidth


def test_a_network_that_is_too_slow_is_called_unfit_with_the_reason():
    with serving("tcp:127.0.0.1:0") as (address, _):
        far = Network(port_of(address), delay=0.03)
        result = perf("--json", "-n", "0.5", "-z", "64", "-t", "latency", far.address)
        document = json.loads(result.stdout)
        assert result.returncode == UNFIT and document["verdict"] == "unfit" and "leases" in document["reasons"][0], result
        assert 30000 < document["latency"][0]["one_way_us"]["p50"] < 60000, document
        thin = Network(port_of(address), bytes_per_second=3e6)
        result = perf("-n", "0.5", "-z", "16K", "-t", "bandwidth", thin.address)
        assert result.returncode == UNFIT and "never catch up" in result.stdout and "NOT fit" in result.stdout, result


def test_what_prevents_a_measurement_is_said_with_what_to_do():
    (port,) = free_ports(1)
    nobody = perf(f"tcp:127.0.0.1:{port}")
    assert nobody.returncode == FAILED and "fabric-perf --serve" in nobody.stderr and str(port) in nobody.stderr, nobody
    wrong = perf("udp:127.0.0.1:1")
    assert wrong.returncode == FAILED and "tcp:HOST:PORT" in wrong.stderr, wrong
    with serving("tcp:127.0.0.1:0") as (address, _):
        taken = perf("--serve", address)
        assert taken.returncode == FAILED and "choose another port" in taken.stderr, taken
        again = perf("--self", address)
        assert again.returncode == FAILED and "choose another port" in again.stderr, again


def test_a_server_that_dies_ends_the_measurement():
    server = subprocess.Popen([PROGRAM, "--serve", "tcp:127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"listening on (\S+);", server.stderr.readline()).group(1)
        client = subprocess.Popen([PROGRAM, "-n", "60", "-t", "latency", address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "client has come" in server.stderr.readline()
    finally:
        server.kill()
        server.communicate()
    error = client.communicate(timeout=10)[1]
    assert client.returncode == FAILED and ("closed" in error or "reset" in error), (client.returncode, error)


def test_garbage_costs_its_sender_the_link_and_others_nothing():
    with serving("tcp:127.0.0.1:0") as (address, _):
        with socket.create_connection(("127.0.0.1", port_of(address))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while stranger.recv(4096):
                pass
        assert perf("-n", "0.05", "-t", "latency", "-z", "64", address).returncode in (FIT, UNFIT)


if __name__ == "__main__":
    run_tests(globals())
