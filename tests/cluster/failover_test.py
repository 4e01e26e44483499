#!/usr/bin/env python3
"""Three core processes are killed, stopped and started again under load; every acknowledged write is accounted for."""

import re
import signal
import threading
import time

from harness import Cluster, Writers, run_tests


def kill_each_under_load(fabric):
    with Cluster(fabric=fabric) as cluster, Writers(cluster) as writers:
        time.sleep(1)
        for i, node in cluster.nodes.items():
            writers.reset_pause()
            node.kill(signal.SIGKILL)
            time.sleep(2.5)
            assert writers.pause() < 2.0, f"writes paused for {writers.pause():.2f} s after node {i} was killed"
            print(f"      {fabric}: node {i} killed, longest pause {writers.pause() * 1000:.0f} ms", flush=True)
            node.start()
            wait_caught_up(cluster, i)
        writers.stopping.set()
        time.sleep(0.5)
        assert writers.total > 200, f"only {writers.total} writes"
        writers.verify(cluster.http())
        print(f"      {fabric}: {writers.total} writes, all there; errors on the way: {writers.errors}", flush=True)


def wait_caught_up(cluster, node, seconds=20):
    def caught_up():
        shards = cluster.status()["shards"]
        lags = [int(replica["lag"]) for shard in shards for replica in shard["replicas"] if replica["node"] == node]
        return len(lags) > 0 and all(lag < 200 for lag in lags)
    cluster.wait_for(caught_up, seconds, f"node {node} has not caught up")


def test_killing_any_one_node_over_shm_loses_no_acknowledged_write_and_writes_go_on_within_two_seconds():
    kill_each_under_load("shm")


def test_killing_any_one_node_over_tcp_loses_no_acknowledged_write_and_writes_go_on_within_two_seconds():
    kill_each_under_load("tcp")


def test_a_stopped_leader_is_replaced_and_does_no_harm_when_it_wakes():
    with Cluster() as cluster, Writers(cluster) as writers:
        time.sleep(0.5)
        leader = cluster.leader_of("farm/probe")
        writers.reset_pause()
        cluster.nodes[leader].kill(signal.SIGSTOP)
        time.sleep(3)
        assert writers.pause() < 2.0, f"writes paused for {writers.pause():.2f} s"
        cluster.nodes[leader].kill(signal.SIGCONT)
        time.sleep(1.5)
        writers.stopping.set()
        time.sleep(0.5)
        writers.verify(cluster.http())


def test_with_two_of_three_dead_writes_get_503_and_stable_reads_go_on():
    with Cluster() as cluster:
        http = cluster.http()
        assert http.put("farm/cow", b"moo").status == 201
        # The survivor must have heard that the write is stable.
        time.sleep(0.3)
        in_flight = {}

        def late_put(number):
            in_flight[number] = cluster.http().put(f"farm/late{number}", b"x", Sluice_Timeout="3s")

        leader = cluster.leader_of("farm/cow")
        others = [i for i in cluster.nodes if i != leader]
        for i in others:
            cluster.nodes[i].kill(signal.SIGSTOP)
        threads = [threading.Thread(target=late_put, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        for i in others:
            cluster.nodes[i].kill(signal.SIGKILL)
        for thread in threads:
            thread.join()
        for number, answer in in_flight.items():
            assert answer.status in (503, 504), f"a write in flight got {answer.status}"
            assert answer.status == 503 or answer.code == "outcome_unknown", answer.body
        time.sleep(1)
        answer = http.put("farm/cow", b"again", Sluice_Timeout="2s")
        assert answer.status == 503, (answer.status, answer.body)
        assert "Retry-After" in answer.headers
        answer = http.get("farm/cow", "?consistency=stable")
        assert answer.status == 200 and answer.body == b"moo", (answer.status, answer.body)
        answer = http.get("farm/cow", "", Sluice_Timeout="1s")
        assert answer.status in (503, 504), f"a minority answered a linearizable read with {answer.status}"
        for i in others:
            cluster.nodes[i].start()
        cluster.wait_ready()
        assert http.get("farm/cow").body == b"moo"


def test_all_nodes_killed_at_once_come_back_with_everything():
    with Cluster() as cluster:
        with Writers(cluster) as writers:
            time.sleep(1.5)
            for node in cluster.nodes.values():
                node.kill(signal.SIGKILL)
            writers.stopping.set()
        for node in cluster.nodes.values():
            node.start()
        cluster.wait_ready()
        writers.verify(cluster.http())


def test_a_retry_with_the_same_key_applies_once_across_a_leader_change():
    with Cluster() as cluster:
        http = cluster.http()
        first = http.put("farm/once", b"1", Idempotency_Key="k1")
        assert first.status == 201, first.body
        leader = cluster.leader_of("farm/other-probe")
        cluster.nodes[cluster.leader_of("farm/once-probe")].kill(signal.SIGKILL)
        if cluster.nodes[leader].running():
            cluster.nodes[leader].kill(signal.SIGKILL)
            cluster.nodes[leader].start()
        cluster.wait_ready()
        again = cluster.http().put("farm/once", b"1", Idempotency_Key="k1")
        assert again.status == 201 and again.json["version"] == 1, again.body
        assert again.headers["Idempotency-Replayed"] == "true"
        other = cluster.http().put("farm/once", b"2", Idempotency_Key="k1")
        assert other.status == 422 and other.code == "idempotency_mismatch", other.body


def test_a_volatile_pool_survives_one_node_and_begins_a_new_epoch_without_a_quorum():
    with Cluster() as cluster:
        http = cluster.http()
        answer = http.call("PUT", "/v1/pools/fast", b'{"kind":"volatile","shards":2}', Content_Type="application/json")
        assert answer.status in (200, 201), answer.body
        for n in range(50):
            assert http.put(f"fast/{n}", str(n).encode()).status == 201
        cluster.nodes[1].kill(signal.SIGKILL)
        cluster.wait_for(lambda: http.put("fast/probe", b"x").status in (200, 201), 10, "the volatile pool takes no writes")
        for n in range(50):
            assert http.get(f"fast/{n}").body == str(n).encode()
        cluster.nodes[1].start()
        time.sleep(2)
        cluster.nodes[2].kill(signal.SIGKILL)
        cluster.wait_for(lambda: http.put("fast/probe", b"x").status in (200, 201), 10, "the volatile pool takes no writes")
        for n in range(50):
            assert http.get(f"fast/{n}").body == str(n).encode(), f"fast/{n} is lost although a quorum survived"
        for node in cluster.nodes.values():
            node.kill(signal.SIGKILL)
        for node in cluster.nodes.values():
            node.start()
        cluster.wait_for(lambda: cluster.http(5).put("fast/new", b"x").status == 201, 20, "the volatile pool takes no writes")
        assert cluster.http().get("fast/1").status == 404
        tag = cluster.http().get("fast/new").headers["ETag"]
        assert re.fullmatch(r'"([2-9]|[1-9][0-9]+)\.1"', tag), f"the ETag {tag} does not carry a later epoch"



if __name__ == "__main__":
    run_tests(globals())
