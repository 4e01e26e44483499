#!/usr/bin/python3
"""Two releases side by side: nodes are replaced one by one by a release that is one ahead in every level, protocol and format, under load.

The later release is the same code linked with api/release.c of the next one (build/next/sluiced): it speaks and writes one more of each, once all nodes do.
"""

import contextlib
import hashlib
import json
import re
import signal
import subprocess

from harness import BUILD, Cluster, Writers, run_tests

OLD, NEXT = BUILD / "sluiced", BUILD / "next" / "sluiced"
OLD_LEVEL, NEXT_LEVEL = 2, 3


class Mixed(Cluster):
    """A cluster whose nodes are of either release."""

    def __init__(self):
        super().__init__(nodes=3, sluiced_options=("--segment-bytes", 1 << 20))

    def data(self, node):
        return self.directory / f"node{node}"

    def log(self, node):
        return self.nodes[node].log.read_text(errors="replace")

    def run(self, node, program):
        """Stops the node in order and starts it again as this program, on the same data."""
        process = self.nodes[node]
        process.kill(signal.SIGTERM)
        process.command[0] = str(program)
        process.start()

    def replace(self, node, program):
        self.run(node, program)
        self.wait_for(lambda: self.whole(node, NEXT_LEVEL if program == NEXT else OLD_LEVEL), 30, f"node {node} does not come back as {program}")

    def whole(self, node=None, highest=None):
        """Everybody is there, everything is led, nobody lags; and the map knows which release the node is of."""
        state = self.status()
        if highest is not None and {each["id"]: each["levels"][1] for each in state["nodes"]}[node] != highest:
            return False
        return all(shard["leader"] for shard in [*state["shards"], state["map_group"]]) and all(each["reachable"] for each in state["nodes"]) and \
            all(replica["role"] != "unreachable" and replica.get("lag", 0) < 100 for shard in [*state["shards"], state["map_group"]] for replica in shard["replicas"])

    def protocols(self):
        return {(node["id"], peer["node"]): peer["protocol"] for node in self.status()["nodes"] for peer in node["peers"]}

    def format_of(self, node):
        return json.loads((self.data(node) / "node.json").read_text())["format"]

    def order(self, map_leader_first):
        leader = self.status()["map_group"]["leader"]
        others = [node for node in self.nodes if node != leader]
        return [leader, *others] if map_leader_first else [*others, leader]

    def digest(self, node):
        """What the node has on disk, but for the lock and RocksDB's own log, which every opening writes."""
        files = {}
        for path in sorted(self.data(node).rglob("*")):
            if path.is_file() and not path.name.startswith(("LOG", "lock")):
                files[str(path.relative_to(self.data(node)))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return files

    def refused(self, node, words):
        """The old release does not start on this node's data, says why, and leaves them as they are."""
        command = [str(OLD), *self.nodes[node].command[1:]]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        said = done.stderr.decode()
        assert done.returncode == 1 and re.search(words, said), f"exit status {done.returncode}: {said}"


def rolled_out(cluster, writers, nodes):
    """The nodes are replaced in this order; the level and what rests on it rise with the last one, and not before."""
    for done, node in enumerate(nodes, 1):
        state = cluster.status()
        assert state["level"] == OLD_LEVEL, f"level {state['level']} with {done - 1} of {len(nodes)} nodes"
        assert all(cluster.format_of(each) == 1 for each in cluster.nodes), "a format rose before all nodes read it"
        before = writers.total
        cluster.replace(node, NEXT)
        cluster.wait_for(lambda before=before: writers.total > before + 20, 20, f"no writes once node {node} was replaced")
    cluster.wait_for(lambda: cluster.status()["level"] == NEXT_LEVEL, 20, "the level does not rise")
    cluster.wait_for(lambda: set(cluster.protocols().values()) == {3}, 20, "the nodes do not speak the later protocol")
    cluster.wait_for(lambda: all(cluster.format_of(node) == 2 for node in cluster.nodes), 20, "the later format is not written")


def test_a_release_is_rolled_out_from_the_leader_of_the_map_on_and_no_request_fails():
    with Mixed() as cluster:
        cluster.wait_for(lambda: cluster.status()["level"] == OLD_LEVEL and cluster.whole(), 20, "the nodes do not agree on a level")
        with Writers(cluster) as writers:
            cluster.wait_for(lambda: writers.total > 100, 20, "no writes")
            nodes = cluster.order(map_leader_first=True)
            # Until all are of the next release, each can go back: nothing on its disk is of a later format.
            cluster.replace(nodes[0], NEXT)
            assert set(cluster.protocols().values()) <= {0, 2}, "a later protocol than both understand"
            cluster.replace(nodes[0], OLD)
            rolled_out(cluster, writers, nodes)
        writers.verify(cluster.http())
        print(f"      {writers.total} writes, all there; errors on the way: {writers.errors}")
        assert not writers.errors, writers.errors

        # The way back is closed, in words, and what is on disk is left as it is.
        node = nodes[1]
        cluster.nodes[node].kill(signal.SIGTERM)
        before = cluster.digest(node)
        cluster.refused(node, "node.json has format 2, this program reads formats up to 1; use the release that wrote it")
        assert cluster.digest(node) == before, "a release that does not read the data changed them"
        identity = cluster.data(node) / "node.json"
        text = identity.read_text()
        identity.write_text(text.replace('"format": 2', '"format": 1'))
        cluster.refused(node, "the store has format 2, this release reads 1; use the release that wrote it")
        identity.write_text(text)
        cluster.replace(node, NEXT)
        writers.verify(cluster.http())


def test_a_release_is_rolled_out_up_to_the_leader_of_the_map_and_an_older_node_is_refused_on_both_sides():
    with Mixed() as cluster:
        cluster.wait_for(lambda: cluster.status()["level"] == OLD_LEVEL and cluster.whole(), 20, "the nodes do not agree on a level")
        with Writers(cluster) as writers:
            cluster.wait_for(lambda: writers.total > 100, 20, "no writes")
            nodes = cluster.order(map_leader_first=False)
            # The first one is of the next release, and away when the level rises: its disk knows of no later one.
            away = nodes[0]
            cluster.replace(away, NEXT)
            cluster.nodes[away].kill(signal.SIGTERM)
            for node in nodes[1:]:
                assert cluster.status()["level"] == OLD_LEVEL
                cluster.run(node, NEXT)
                others = {each for each in cluster.nodes if each != away}
                cluster.wait_for(lambda others=others: others <= {each["id"] for each in cluster.status()["nodes"] if each["reachable"]}, 20, "a node does not come back")
            cluster.wait_for(lambda: cluster.status()["level"] == NEXT_LEVEL, 20, "the level does not rise")
            assert cluster.format_of(away) == 1
            cluster.nodes[away].command[0] = str(OLD)
            cluster.nodes[away].start()
            cluster.wait_for(lambda: not cluster.nodes[away].running(), 20, "the older release goes on")
            assert cluster.nodes[away].child.returncode == 1
            assert "the cluster works at level 3, and this release understands levels 1 to 2: start this node with the release that the others run" in cluster.log(away)
            said = f"node {away} understands levels 1 to 2, the cluster works at level 3"
            assert any(said in cluster.log(node) for node in nodes[1:]), "the others do not say whom they refused"
            cluster.nodes[away].command[0] = str(NEXT)
            cluster.nodes[away].start()
            cluster.wait_for(lambda: cluster.whole(away, NEXT_LEVEL), 30, "it does not come back with the next release")
        writers.verify(cluster.http())
        print(f"      {writers.total} writes, all there; errors on the way: {writers.errors}")

        joining = subprocess.run([OLD, "--id", "4", "--data", cluster.directory / "node4", "--listen", cluster.addresses[1] + "-4", "--join", cluster.addresses[1]],
                                 capture_output=True, timeout=60, check=False)
        assert joining.returncode == 1 and b"works at level 3, node 4 understands 1 to 2" in joining.stderr, joining.stderr
        with contextlib.suppress(StopIteration):
            next(node for node in cluster.nodes if "refused: this cluster works at level 3, node 4" in cluster.log(node))
            return
        raise AssertionError("nobody in the cluster says that node 4 was refused")


if __name__ == "__main__":
    run_tests(dict(globals()))
