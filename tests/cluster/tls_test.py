#!/usr/bin/env python3
"""Three nodes and a gateway with TLS between them: they work as without, and who has no certificate stays outside."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile

from harness import BUILD, ROOT, Cluster, Process, free_ports, run_tests


def certificates(directory, *names, client=False, days=2):
    subprocess.run([ROOT / "scripts/certificates", *(["--client"] if client else []), directory, *names], check=True, env={**os.environ, "DAYS": str(days)})


def files(directory, name, prefix="SLUICE_TLS_"):
    """The environment of a process with the certificate NAME."""
    return {f"{prefix}CA": f"{directory}/ca.pem", f"{prefix}CERT": f"{directory}/{name}.pem", f"{prefix}KEY": f"{directory}/{name}.key"}


@contextlib.contextmanager
def secured():
    """A cluster whose nodes and gateway have certificates, and the directory of those."""
    with tempfile.TemporaryDirectory(prefix="sluice-tls-") as directory:
        certificates(directory, "node1", "node2", "node3")
        certificates(directory, "gateway", client=True)
        cluster = Cluster(fabric="tcp")
        for i, node in cluster.nodes.items():
            node.env = files(directory, f"node{i}")
        cluster.gateway.env = files(directory, "gateway", "SLUICE_GATEWAY_CORE_TLS_")
        with cluster:
            yield cluster, pathlib.Path(directory)


def log_of(process):
    return pathlib.Path(process.log).read_text(errors="replace")


def guest_of(cluster, number, env):
    """A further node of the cluster, with certificates of its own choice."""
    name, command = f"guest{number}", list(cluster.nodes[1].command)
    command[command.index("--id") + 1] = str(number)
    command[command.index("--listen") + 1] = f"tcp:127.0.0.1:{free_ports(1)[0]}"
    command[command.index("--data") + 1] = str(cluster.directory / name)
    return Process(name, command, cluster.directory / f"{name}.log", env).start()


def raw_greeting(address):
    """What a node says to somebody who opens a connection and greets in the clear."""
    host, port = address.removeprefix("tcp:").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"SLUICEF1" + bytes(72))
        answer = b""
        while data := connection.recv(4096):
            answer += data
    return answer


def test_a_cluster_with_tls_serves_survives_its_leader_and_lets_nobody_else_in():
    with secured() as (cluster, directory):
        http = cluster.http()
        value = os.urandom(5 << 20)
        for i in range(20):
            assert http.put(f"tls/k{i}", f"value {i}".encode()).status == 201
        assert http.put("tls/large", value).status == 201
        assert http.get("tls/large").body == value

        # The wire says no word in the clear, and a stranger is told what to give.
        answer = raw_greeting(cluster.addresses[1])
        assert answer.startswith(b"SLUICEV1") and b"TLS was expected" in answer, answer
        assert b"refused 127.0.0.1" in pathlib.Path(cluster.nodes[1].log).read_bytes()

        # A gateway in the clear, and one whose certificate another authority signed: they serve nothing, and the nodes say why.
        certificates(directory / "other", "gateway", client=True)
        others = {"clear": {}, "stranger": {**files(directory / "other", "gateway", "SLUICE_GATEWAY_CORE_TLS_"), "SLUICE_GATEWAY_CORE_TLS_CA": f"{directory}/ca.pem"}}
        for name, env in others.items():
            gateway = Process(name, [BUILD / "sluice-gateway", "--listen", "127.0.0.1:0", "--nodes", ",".join(cluster.addresses.values())], cluster.directory / f"{name}.log", env).start()
            try:
                words = "came a connection in the clear" if name == "clear" else "certificate is not accepted: unable to get local issuer"
                cluster.wait_for(lambda words=words: any(words in log_of(node) for node in cluster.nodes.values()), 10, f"no node refuses the gateway \"{name}\" with \"{words}\"")
            finally:
                gateway.kill()

        # A client's certificate makes no node.
        guest = guest_of(cluster, 4, files(directory, "gateway"))
        try:
            cluster.wait_for(lambda: any("one for clients alone" in log_of(node) for node in cluster.nodes.values()), 15, "no node refuses a client's certificate from a node")
        finally:
            guest.kill()

        # The leader dies; the others go on over their encrypted links.
        leader = cluster.leader_of("tls/k1")
        cluster.nodes[leader].kill()
        cluster.wait_for(lambda: cluster.http(5).put("tls/after", b"1").status in (200, 201), 20, "no write after the leader's death")
        # New certificates count from the next start on.
        certificates(directory, f"node{leader}")
        cluster.nodes[leader].start()
        cluster.wait_for(lambda: all(log_of(cluster.nodes[i]).count(f"node {leader} is connected") == 2 for i in cluster.nodes if i != leader), 20, "the node does not come back")
        for i in range(20):
            assert cluster.http().get(f"tls/k{i}").body == f"value {i}".encode()


def test_an_expired_certificate_keeps_a_node_outside_and_the_others_serve():
    with secured() as (cluster, directory):
        cluster.http().put("k", b"1")
        cluster.nodes[3].kill(signal.SIGTERM)
        subprocess.run(["openssl", "x509", "-req", "-in", "/dev/stdin", "-CA", directory / "ca.pem", "-CAkey", directory / "ca.key", "-days", "-1", "-out", directory / "node3.pem"],
                       input=subprocess.run(["openssl", "req", "-new", "-key", directory / "node3.key", "-subj", "/CN=node3"], capture_output=True, check=True).stdout, capture_output=True, check=True)
        cluster.nodes[3].start()
        cluster.wait_for(lambda: "will refuse the certificate" in log_of(cluster.nodes[3]), 10, "the node does not say that its certificate is too old")
        cluster.wait_for(lambda: any("certificate has expired" in log_of(cluster.nodes[i]) for i in (1, 2)), 10, "no node refuses the expired certificate")
        assert cluster.http().put("k", b"2").status in (200, 201)


def test_files_that_are_missing_or_wrong_stop_the_start_with_what_was_expected():
    with tempfile.TemporaryDirectory() as directory:
        certificates(directory, "node1")
        node = [BUILD / "sluiced", "--id", "1", "--data", f"{directory}/data", "--listen", "tcp:127.0.0.1:0"]
        gateway = [BUILD / "sluice-gateway", "--listen", "127.0.0.1:0", "--nodes", "tcp:127.0.0.1:1"]
        good = ["--tls-ca", f"{directory}/ca.pem", "--tls-cert", f"{directory}/node1.pem", "--tls-key", f"{directory}/node1.key"]
        for command, options, expected in ((node, good[:4], "without the key"), (node, [*good[:5], "/nowhere"], "/nowhere"), (node, [*good[:3], f"{directory}/ca.key", *good[4:]], "a PEM certificate"),
                                           (gateway, ["--core-tls-ca", f"{directory}/ca.pem"], "without the certificate")):
            result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=20, check=False)
            assert result.returncode == 1 and expected in result.stderr, (options, result)


def test_fabric_perf_measures_over_tls_and_refuses_who_has_none():
    with tempfile.TemporaryDirectory() as directory:
        certificates(directory, "node1", "node2")
        options = {i: [f"--tls-ca={directory}/ca.pem", f"--tls-cert={directory}/node{i}.pem", f"--tls-key={directory}/node{i}.key"] for i in (1, 2)}
        server = subprocess.Popen([BUILD / "fabric-perf", "--serve", "tcp:127.0.0.1:0", *options[1]], stderr=subprocess.PIPE, text=True)
        try:
            address = re.search(r"listening on (\S+);", server.stderr.readline()).group(1)
            measured = subprocess.run([BUILD / "fabric-perf", "--json", "-n", "0.1", "-d", "both", "-z", "64,256K", address, *options[2]], capture_output=True, text=True, timeout=20, check=False)
            assert measured.returncode in (0, 2), measured
            assert json.loads(measured.stdout)["tls"] is True, measured.stdout
            clear = subprocess.run([BUILD / "fabric-perf", "-n", "0.1", address], capture_output=True, text=True, timeout=20, check=False)
            assert clear.returncode == 1 and "TLS was expected" in clear.stderr, clear
        finally:
            server.terminate()
            server.communicate(timeout=10)


if __name__ == "__main__":
    run_tests(globals())
