#!/usr/bin/python3
"""Nodes come, go and are replaced, and all of them are restarted, under load: every acknowledged write is accounted for."""

import json
import re
import shutil
import signal
import subprocess
import time

from harness import BUILD, Cluster, Process, Writers, run_tests


class Growing(Cluster):
    """A cluster whose members change. Its gateway is told of the first nodes alone: it learns of the others."""

    def join(self, node, like_the_founders=False):
        """Starts a node that joins through the first one that runs; or that is told what the founders were, and is none of them."""
        seed = next(self.addresses[each] for each, process in self.nodes.items() if process.running())
        mark = next(iter(self.addresses.values())).rsplit("-", 1)[0]
        founders = [part for each in (1, 2, 3) for part in ("--peer", f"{each}={self.addresses[each]}")]
        self.addresses[node] = f"{mark}-{node}"
        how = [*founders, "--advertise", self.addresses[node]] if like_the_founders else ["--join", seed]
        self.nodes[node] = Process(f"node{node}", [BUILD / "sluiced", "--id", node, "--data", self.directory / f"node{node}", "--listen", self.addresses[node], *how],
                                   self.directory / f"node{node}.log").start()

    def sluice(self, *arguments):
        done = subprocess.run([BUILD / "sluice", "cluster", *map(str, arguments), "--json", "--url", f"http://127.0.0.1:{self.http_port}"],
                              capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, f"sluice cluster {arguments}: {done.stderr.decode()}"
        return json.loads(done.stdout)

    def membership(self, state=None):
        nodes = (state or self.status())["nodes"]
        return {node["id"]: node["membership"] for node in nodes}

    def settled(self, nodes, replicas=3):
        """Every shard has as many replicas as are wanted, all of them members that keep up, on these nodes alone, and nothing moves."""
        state = self.status()
        for shard in [*state["shards"], state["map_group"]]:
            kept = {replica["node"] for replica in shard["replicas"]}
            wanted = replicas if "pool" in shard else (5 if len(nodes) >= 5 else min(3, len(nodes)))
            if shard["moving"] or not shard["leader"] or len(kept) != wanted or not kept <= set(nodes):
                return False
            if not all(replica.get("member") and replica["wanted"] and not replica["learner"] for replica in shard["replicas"]):
                return False
        return all(self.membership(state)[node] == "up" for node in nodes)

    def wait_until(self, condition, what, seconds=40):
        """Says where the shards stand when it does not come about."""
        try:
            self.wait_for(condition, seconds, what)
        except AssertionError:
            state = self.status()
            print(json.dumps([(node["id"], node["membership"]) for node in state["nodes"]]))
            for shard in [*state["shards"], state["map_group"]]:
                print(json.dumps({key: shard.get(key) for key in ("id", "leader", "moving", "replicas")}), flush=True)
            raise

    def wait_settled(self, nodes):
        self.wait_until(lambda: self.settled(nodes), f"shards are not settled on nodes {nodes}")

    def erased(self, node):
        """The shards of which it erased what it had left while it was down."""
        return re.findall(r"group=(\d+) was left while this node was down", self.nodes[node].log.read_text())

    def held(self):
        """How many replicas of shards each node holds, and how many it is preferred to lead."""
        count = {}
        for shard in self.status()["shards"]:
            for replica in shard["replicas"]:
                count[replica["node"]] = count.get(replica["node"], 0) + 1
        return count


def pausing(cluster, writers, what, action):
    """Does it, and says how long nobody's write was acknowledged meanwhile."""
    writers.reset_pause()
    begun = time.monotonic()
    action()
    print(f"      {what}: {time.monotonic() - begun:.1f} s, longest pause of writes {writers.pause() * 1000:.0f} ms", flush=True)
    return writers.pause()


def test_nodes_come_go_and_are_replaced_under_load_and_no_acknowledged_write_is_lost():
    with Growing(nodes=3, sluiced_options=("--segment-bytes", 4 << 20)) as cluster:
        cluster.wait_for(lambda: cluster.status()["level"] == 2, 20, "the nodes do not agree on a level")
        with Writers(cluster) as writers:
            def grow():
                cluster.join(4)
                cluster.wait_for(lambda: cluster.membership().get(4) == "up", 20, "node 4 does not come up")
                cluster.wait_settled([1, 2, 3, 4])
                # It is down while shards leave it, and did not keep the map, so that it never hears of them again.
                before = cluster.held()[4]
                cluster.nodes[4].kill()
                cluster.join(5, like_the_founders=True)
                cluster.wait_for(lambda: cluster.membership().get(5) == "up", 20, "node 5 does not come up")
                cluster.wait_until(lambda: not any(shard["moving"] for shard in cluster.status()["shards"]), "shards do not arrive at node 5")
                left = before - cluster.held()[4]
                assert left > 0, "no shard left node 4"
                cluster.nodes[4].start()
                cluster.wait_for(lambda: len(cluster.erased(4)) == left, 20, f"what node 4 held of {left} shards is not erased")
                cluster.wait_settled([1, 2, 3, 4, 5])
                cluster.nodes[4].kill()
                cluster.nodes[4].start()
                cluster.wait_settled([1, 2, 3, 4, 5])
            pausing(cluster, writers, "two nodes joined, one of them down for a while", grow)
            cluster.wait_for(lambda: all(node["reachable"] for node in cluster.status()["nodes"]), 20, "node 4 does not come back")
            erased = cluster.erased(4)
            assert len(erased) == len(set(erased)), f"{erased}: what was erased is there again"
            held = cluster.held()
            assert max(held.values()) - min(held.values()) <= 1 and len(held) == 5, held

            def shrink():
                answer = cluster.sluice("remove", 2)
                assert answer["node"] == 2 and answer["state"] == "draining", answer
                cluster.wait_until(lambda: cluster.membership()[2] == "gone", "node 2 does not go")
                cluster.wait_settled([1, 3, 4, 5])
                answer = cluster.sluice("remove", 2)
                assert answer["node"] == 2 and answer["state"] == "gone", f"asking again is no mistake: {answer}"
                cluster.nodes[2].kill(signal.SIGTERM)
            pausing(cluster, writers, "one node removed", shrink)

            def replace():
                cluster.nodes[3].kill()
                answer = cluster.sluice("replace", 3, "--with", 6)
                assert answer["node"] == 6 and answer["replaces"] == 3, answer
                cluster.join(6)
                cluster.wait_until(lambda: cluster.membership()[3] == "gone", "node 3 does not go")
                cluster.wait_settled([1, 4, 5, 6])
            pausing(cluster, writers, "a dead node replaced", replace)

            def come_back():
                shutil.rmtree(cluster.directory / "node2")
                cluster.join(2)
                cluster.wait_until(lambda: cluster.membership()[2] == "up", "node 2 does not come back, empty, under its number")
                cluster.wait_settled([1, 2, 4, 5, 6])
                assert json.loads((cluster.directory / "node2" / "node.json").read_text())["joined"] > 0
            pausing(cluster, writers, "a node that was removed taken in again, empty", come_back)

            def found_no_more():
                cluster.sluice("remove", 1)
                cluster.wait_until(lambda: cluster.membership()[1] == "gone", "node 1 does not go")
                cluster.wait_settled([2, 4, 5, 6])
                cluster.nodes[1].kill(signal.SIGTERM)
            pausing(cluster, writers, "the last of the founders removed", found_no_more)
        # Those who keep the map by now joined later, all of them.
        for node in (2, 4, 5, 6):
            cluster.nodes[node].kill()
        for node in (2, 4, 5, 6):
            cluster.nodes[node].start()
        cluster.wait_settled([2, 4, 5, 6])
        writers.verify(cluster.http())
        print(f"      {writers.total} writes, all there; errors on the way: {writers.errors}")


def test_all_nodes_are_restarted_under_load_and_no_request_fails():
    with Growing(nodes=3) as cluster:
        with Writers(cluster) as writers:
            cluster.wait_for(lambda: writers.total > 100, 20, "no writes")

            def led(nodes):
                state = cluster.status()
                return all(shard["leader"] in nodes for shard in [*state["shards"], state["map_group"]]) and \
                    all(node["reachable"] for node in state["nodes"]) and \
                    all(replica["role"] != "unreachable" and replica.get("lag", 0) < 100 for shard in state["shards"] for replica in shard["replicas"])
            pauses = []
            for node, process in cluster.nodes.items():
                def restart(process=process):
                    process.kill(signal.SIGTERM)
                    process.start()
                    cluster.wait_for(lambda: led(cluster.nodes), 30, "not every shard is led again")
                pauses.append(pausing(cluster, writers, f"node {node} restarted", restart))
        writers.verify(cluster.http())
        print(f"      {writers.total} writes, all there; longest pause {max(pauses) * 1000:.0f} ms; errors on the way: {writers.errors}")
        assert not writers.errors, writers.errors


def test_the_lead_is_moved_on_request():
    with Growing(nodes=3) as cluster:
        with Writers(cluster, count=2) as writers:
            cluster.wait_for(lambda: all(shard["leader"] for shard in cluster.status()["shards"]), 20, "not all are led")
            shard = cluster.status()["shards"][0]
            target = next(replica["node"] for replica in shard["replicas"] if replica["node"] != shard["leader"])

            def moved():
                answer = cluster.sluice("transfer", "--shard", shard["id"], "--to", target)
                return not answer["shards"]  # it leads already
            pausing(cluster, writers, f"shard {shard['id']} led by node {target}", lambda: cluster.wait_for(moved, 20, "the lead does not move"))
        writers.verify(cluster.http())


def test_a_node_of_another_cluster_is_refused_on_both_sides_with_words():
    with Growing(nodes=3) as cluster:
        stranger = Process("stranger", [BUILD / "sluiced", "--id", 3, "--data", cluster.directory / "stranger", "--listen", cluster.addresses[3] + "-other",
                                        "--cluster-name", "another", *(part for i, address in cluster.addresses.items() for part in ("--peer", f"{i}={address}"))],
                           cluster.directory / "stranger.log").start()
        try:
            cluster.wait_for(lambda: "expected cluster" in (cluster.directory / "stranger.log").read_text(), 20, "the stranger is not told")
            cluster.wait_for(lambda: "expected cluster" in (cluster.directory / "node1.log").read_text(), 20, "the node does not say whom it refused")
        finally:
            stranger.kill()
        # A number that is in use is not given twice.
        cluster.wait_for(lambda: cluster.status()["level"] == 2, 20, "the nodes do not agree on a level")
        again = subprocess.run([BUILD / "sluiced", "--id", "2", "--data", cluster.directory / "again", "--listen", cluster.addresses[2] + "-again", "--join", cluster.addresses[1]],
                               capture_output=True, timeout=60, check=False)
        assert again.returncode == 1 and b"is a member already" in again.stderr and b"replace" in again.stderr, again.stderr


if __name__ == "__main__":
    run_tests(dict(globals()))
