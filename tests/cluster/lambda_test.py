#!/usr/bin/env python3
"""Lambdas in real clusters: uploads good and bad, effects exactly once while processes are killed, upgrades under load, removal."""

import http.client
import json
import signal
import threading
import time
import uuid

from harness import BUILD, Cluster, run_tests

LOOP_S = 30


def upload(cluster, name, file, config=None, file_name="lambda.so"):
    """POST /v1/lambdas as curl -F does it."""
    mark = uuid.uuid4().hex
    manifest = json.dumps({"name": name, **({"config": config} if config is not None else {})})
    parts = [(f'name="file"; filename="{file_name}"', "application/octet-stream", file),
             ('name="manifest"', "application/json", manifest.encode())]
    body = b"".join(f"--{mark}\r\nContent-Disposition: form-data; {head}\r\nContent-Type: {kind}\r\n\r\n".encode() + data + b"\r\n"
                    for head, kind, data in parts) + f"--{mark}--\r\n".encode()
    return cluster.http().call("POST", "/v1/lambdas", body, Content_Type=f"multipart/form-data; boundary={mark}")


def module(name):
    return (BUILD / "lambdas" / f"{name}.so").read_bytes()


def install(cluster, name="hello", config=None):
    answer = upload(cluster, name, module(name), config)
    assert answer.status == 201, f"{answer.status} {answer.body}"
    version = int(answer.json["version"])
    cluster.wait_for(lambda: status(cluster, name)["state"] == "active", LOOP_S, f"{name} is not active")
    return version


def status(cluster, name="hello"):
    return cluster.http().call("GET", f"/v1/lambdas/{name}").json


def put(client, key, value, sequence):
    """Until it is acknowledged; applied once."""
    ends = time.monotonic() + LOOP_S
    while time.monotonic() < ends:
        try:
            answer = client.put(key, value, Idempotency_Key=sequence, Sluice_Timeout="10s")
            if answer.status in (200, 201):
                return int(answer.json["version"])
            last = answer.body
        except (OSError, http.client.HTTPException) as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"{key} takes no write: {last}")


class Farm:
    """Puts rising numbers under a few keys below hello/, each once, while the body of a with statement runs."""

    def __init__(self, cluster, writers=2, keys=4, pause=0.004):
        self.cluster, self.keys, self.pause = cluster, keys, pause
        self.stopping, self.error = threading.Event(), None
        self.latest = {}
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(writers)]

    def run(self, writer):
        client, number = self.cluster.http(), 0
        try:
            while not self.stopping.is_set():
                number += 1
                key = f"w{writer}k{number % self.keys}"
                self.latest[key] = put(client, f"hello/{key}", str(number).encode(), f"{writer}-{number}")
                time.sleep(self.pause)
        except Exception as error:  # noqa: BLE001 - reported by the test
            self.error = error

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(LOOP_S)
        if kind is None and self.error:
            raise self.error

    def verify(self):
        """Each version of hello/K made exactly one version of greetings/K, in order."""
        client = self.cluster.http()
        for key, latest in self.latest.items():
            def greeted(key=key, latest=latest):
                return int(client.get(f"greetings/{key}").headers["Sluice-Version"]) >= latest
            try:
                self.cluster.wait_for(greeted, LOOP_S, f"greetings/{key} does not reach version {latest}")
            except AssertionError as error:
                at = client.get(f"greetings/{key}").headers["Sluice-Version"]
                raise AssertionError(f"{error}, it is at {at}; {json.dumps(status(self.cluster))}") from None
        time.sleep(0.5)  # a repetition that should not be would come now
        wrong, total = [], 0
        for key, latest in self.latest.items():
            last = int(client.get(f"greetings/{key}").headers["Sluice-Version"])
            if last != latest:
                wrong.append(f"greetings/{key} has {last} versions instead of {latest}")
            for version in range(1, latest + 1):
                said = client.get(f"greetings/{key}", f"?version={version}").body.decode()
                put_ = client.get(f"hello/{key}", f"?version={version}").body.decode()
                total += 1
                if said != f"Hello, {put_}!\n":
                    wrong.append(f"greetings/{key} version {version} is {said!r}, for {put_!r}")
        assert not wrong, f"{len(wrong)} of {total} effects are wrong, the first: {wrong[:3]}"
        return total


def test_an_upload_runs_at_once_and_is_gone_when_it_is_deleted():
    with Cluster(nodes=1) as cluster:
        client = cluster.http()
        install(cluster)
        assert client.put("hello/you", b"world").status == 201
        cluster.wait_for(lambda: client.get("greetings/you").body == b"Hello, world!\n", LOOP_S, "no greeting")
        seen = status(cluster)
        assert seen["counters"]["greetings"] == 1 and seen["watches"] and not seen["parked"], seen
        assert client.call("DELETE", "/v1/lambdas/hello").status in (200, 204)
        assert client.call("GET", "/v1/lambdas/hello").status == 404
        cluster.wait_for(lambda: not list(cluster.directory.glob("node1/lambdas/*")), LOOP_S, "it is still loaded")
        client.put("hello/you", b"again")
        time.sleep(0.3)
        assert client.get("greetings/you").headers["Sluice-Version"] == "1"


def test_a_bad_upload_is_refused_in_words_and_the_version_before_goes_on():
    with Cluster(nodes=1) as cluster:
        client = cluster.http()
        version = install(cluster)
        good = module("hello")
        other = bytearray(good)
        other[18:20] = b"\x28\x00" if good[18:20] != b"\x28\x00" else b"\x3e\x00"
        for file, config, words in [
            (b"int main(void) { return 0; }\n", None, "text file"),
            (bytes(other), None, "this node is"),
            (good[:len(good) // 2], None, "cut off"),
            (module("motion"), {"threshold": 7}, "\"threshold\" is a number from 0 to 1"),
        ]:
            answer = upload(cluster, "hello", file, config)
            assert answer.status == 422, f"{words}: {answer.status} {answer.body}"
            assert words in answer.json["detail"], f"{words}: {answer.json}"
        seen = status(cluster)
        assert int(seen["version"]) == version and seen["state"] == "active", seen
        client.put("hello/you", b"world")
        cluster.wait_for(lambda: client.get("greetings/you").body == b"Hello, world!\n", LOOP_S, "no greeting")


def exactly_once_while(disturb, nodes=3, fabric="shm", name=""):
    with Cluster(nodes=nodes, fabric=fabric) as cluster:
        install(cluster)
        with Farm(cluster) as farm:
            time.sleep(0.5)
            disturb(cluster)
            time.sleep(0.5)
        total = farm.verify()
        assert total > 50, f"only {total} events"
        print(f"      {name}{total} events, each greeted once", flush=True)


def kill_leaders(cluster):
    for key in ("hello/w0k1", "greetings/w0k1"):
        leader = cluster.leader_of(key)
        cluster.nodes[leader].kill(signal.SIGKILL)
        time.sleep(1.5)
        cluster.nodes[leader].start()
        time.sleep(2)


def test_effects_happen_exactly_once_while_leaders_are_killed_over_shm():
    exactly_once_while(kill_leaders)


def test_effects_happen_exactly_once_while_leaders_are_killed_over_tcp():
    exactly_once_while(kill_leaders, fabric="tcp")


def halt_leader(cluster):
    """A leader that wakes up believes for a moment that it still leads; its lambda's effects were sent by its successor and are
    forgotten by then."""
    leader = cluster.leader_of("hello/w0k1")
    cluster.nodes[leader].kill(signal.SIGSTOP)
    time.sleep(9)
    cluster.nodes[leader].kill(signal.SIGCONT)
    time.sleep(2)


def test_effects_happen_exactly_once_when_a_leader_was_halted_and_wakes():
    exactly_once_while(halt_leader)


def upgrades(cluster):
    for _ in range(5):
        install(cluster)
        time.sleep(0.2)


def test_effects_happen_exactly_once_while_the_lambda_is_upgraded():
    exactly_once_while(upgrades)


def restart_all(cluster):
    for node in cluster.nodes.values():
        node.kill(signal.SIGKILL)
    for node in cluster.nodes.values():
        node.start()
    cluster.wait_ready()
    time.sleep(1)


def test_effects_happen_exactly_once_when_all_nodes_are_killed_at_once():
    exactly_once_while(restart_all)


def test_a_lambda_that_is_disabled_catches_up_when_it_is_enabled():
    with Cluster(nodes=1) as cluster:
        client = cluster.http()
        install(cluster)
        with Farm(cluster) as farm:
            time.sleep(0.3)
            assert client.call("POST", "/v1/lambdas/hello/disable").status in (200, 204)
            cluster.wait_for(lambda: status(cluster)["state"] == "disabled", LOOP_S, "not disabled")
            time.sleep(0.3)
        assert client.call("POST", "/v1/lambdas/hello/enable").status in (200, 204)
        print(f"      {farm.verify()} events, each greeted once", flush=True)


def test_what_it_prints_is_followed():
    with Cluster(nodes=1) as cluster:
        install(cluster)
        client = cluster.http()
        client.put("hello/you", b"world")
        stream = http.client.HTTPConnection("127.0.0.1", cluster.http_port, timeout=LOOP_S)
        stream.request("GET", "/v1/lambdas/hello/log")
        answer = stream.getresponse()
        assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream"), answer.status
        for line in answer:
            if b"hello/you version 1 is greeted" in line:
                break
        stream.close()


if __name__ == "__main__":
    run_tests(globals())
