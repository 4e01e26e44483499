#!/usr/bin/env python3
"""Kills a leader under load, again and again: kills.py [--kills N] [--fabric shm|tcp|both] [--silent]

Each round kills the node that leads the probed shard (or, with --silent, stops it, so that its death can't be seen), measures the longest pause between two
acknowledged writes, starts it again and goes on once it has caught up. At the end every acknowledged write is read back, and of each replica alone the last ones and a sample. A campaign of its own;
the last line counts as the tests' do."""

import argparse
import contextlib
import http.client
import json
import random
import signal
import statistics
import sys
import time

from harness import Cluster, Writers


class Timed(Writers):
    """Remembers when writes to the probed shard were acknowledged: other shards may have other leaders, which go on."""

    def __init__(self, cluster, count=4, keys=8):
        # Long campaigns would fill the shards' tables of keys, and kill leaders whom nobody writes to.
        super().__init__(cluster, count, keys, keyed_every=16)

    def verify_each(self, sample=1500):
        """What each node answers where it is the only one: stable reads of what was acknowledged."""
        last = {}
        for key, version in self.acknowledged:
            last[key] = max(version, last.get(key, 0))
        asked = sorted({*last.items(), *random.sample(sorted(self.acknowledged), min(sample, len(self.acknowledged)))})
        for i, node in self.cluster.nodes.items():
            others = [other for other in self.cluster.nodes.values() if other is not node]
            for other in others:
                other.kill(signal.SIGKILL)
            reader = self.cluster.http()
            for key, version in asked:
                kept = []

                def held(key=key, version=version):
                    kept[:] = [reader.get(key, f"?version={version}&consistency=stable", Sluice_Timeout="5s")]
                    return kept[0].status == 200
                with contextlib.suppress(AssertionError):
                    self.cluster.wait_for(held, 15, "")
                assert kept and kept[0].body == str(self.acknowledged[key, version]).encode(), \
                    f"node {i} alone does not have {key} version {version}: {kept and (kept[0].status, kept[0].body[:60])}"
            for other in others:
                other.start()
            for other in self.cluster.nodes:
                self.cluster.wait_for(lambda other=other: caught_up(self.cluster, other), 60, f"node {other} has not caught up")
        return len(asked)

    def verify_all(self):
        """Reads whole histories: thousands of single reads would take longer than the campaign."""
        missing = []
        by_key = {}
        for (key, version), number in self.acknowledged.items():
            by_key.setdefault(key, {})[version] = number
        for key, versions in by_key.items():
            connection = http.client.HTTPConnection("127.0.0.1", self.cluster.http_port, timeout=120)
            connection.request("GET", f"/v1/history/{key}?data=true", headers={"Accept": "application/x-ndjson", "Sluice-Timeout": "60s"})
            answer = connection.getresponse()
            assert answer.status == 200, (answer.status, answer.read())
            held = {}
            for line in answer.read().splitlines():
                version = json.loads(line)
                held[version["version"]] = version
            missing += [(key, version, number) for version, number in versions.items()
                        if version not in held or self.number_of(held[version]) != number]
            connection.close()
        assert not missing, f"{len(missing)} acknowledged writes are lost or wrong, the first: {missing[:3]}"

    @staticmethod
    def number_of(version):
        import base64
        return int(base64.b64decode(version["data"]))


def caught_up(cluster, node):
    shards = cluster.status()["shards"]
    lags = [int(replica["lag"]) for shard in shards for replica in shard["replicas"] if replica["node"] == node]
    return len(lags) > 0 and all(lag < 200 for lag in lags)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def campaign(fabric, kills, silent):
    pauses, began = [], time.monotonic()
    with Cluster(fabric=fabric) as cluster, Timed(cluster) as writers:
        cluster.leader_of("w0/k0")
        for i in range(kills):
            leader = cluster.leader_of(f"w{i % 4}/k0")
            node = cluster.nodes[leader]
            time.sleep(0.05)
            writers.reset_pause()
            node.kill(signal.SIGSTOP if silent else signal.SIGKILL)
            time.sleep(1.2 if silent else 0.4)
            cluster.wait_for(lambda: time.monotonic() - writers.last < 0.1, 20, "no write was acknowledged after the kill")
            pauses.append(writers.pause())
            if silent:
                node.kill(signal.SIGCONT)
            else:
                node.start()
            cluster.wait_for(lambda leader=leader: caught_up(cluster, leader), 60, f"node {leader} has not caught up")
            if (i + 1) % 50 == 0:
                print(f"      {fabric}: {i + 1} of {kills}, {writers.total} writes, median pause {statistics.median(pauses) * 1000:.0f} ms", flush=True)
        writers.stopping.set()
        time.sleep(0.5)
        writers.verify_all()
        single = writers.verify_each()
        what = "silences" if silent else "kills"
        print(f"      {fabric}: {kills} {what} in {time.monotonic() - began:.0f} s; {writers.total} acknowledged writes, all there, {single} of them read from each node alone; errors on the way: {writers.errors}")
        print(f"      {fabric}: longest pause of all writes per kill: median {statistics.median(pauses) * 1000:.0f} ms, p90 {percentile(pauses, 0.9) * 1000:.0f} ms, "
              f"longest {max(pauses) * 1000:.0f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--fabric", choices=("shm", "tcp", "both"), default="both")
    parser.add_argument("--silent", action="store_true", help="stop the leader for a while instead of killing it")
    options = parser.parse_args()
    failed = 0
    fabrics = ("shm", "tcp") if options.fabric == "both" else (options.fabric,)
    for fabric in fabrics:
        try:
            campaign(fabric, options.kills, options.silent)
        except AssertionError as error:
            failed += 1
            print(f"FAIL  {fabric}: {error}", flush=True)
    print(f"{len(fabrics) - failed} passed, {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
