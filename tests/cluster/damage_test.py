#!/usr/bin/env python3
"""What is wrong on the outside costs its sender an error and nobody else anything: ports, disks, directories, files."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from harness import BUILD, Cluster, Http, Process, free_ports, run_tests


def garbage():
    return [b"", b"\0" * 64, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(5000), b"\xff" * 100000, b"SLUICE" * 1000]


def test_garbage_on_the_core_and_fabric_ports_is_refused_and_harms_nobody():
    with Cluster(fabric="tcp") as cluster:
        http = cluster.http()
        assert http.put("farm/cow", b"moo").status == 201
        for address in cluster.addresses.values():
            port = int(address.rsplit(":", 1)[1])
            for data in garbage():
                stranger = socket.create_connection(("127.0.0.1", port), timeout=5)
                try:
                    stranger.sendall(data)
                    stranger.settimeout(0.2)
                    try:
                        while stranger.recv(4096):
                            pass
                    except (TimeoutError, ConnectionError):
                        pass
                except (BrokenPipeError, ConnectionError):
                    pass
                stranger.close()
        idle = [socket.create_connection(("127.0.0.1", int(a.rsplit(":", 1)[1]))) for a in cluster.addresses.values() for _ in range(20)]
        assert http.put("farm/cow", b"moo again").status == 200
        assert all(node.running() for node in cluster.nodes.values())
        log = "".join(pathlib.Path(node.log).read_text(errors="replace") for node in cluster.nodes.values())
        assert "fabric" in log, "no log line says why the strangers were refused"
        for each in idle:
            each.close()


def run_node(directory, *more):
    return subprocess.run([BUILD / "sluiced", "--data", directory, "--listen", f"shm:damage-{os.getpid()}", *more], capture_output=True, text=True, timeout=20)


def test_the_data_directory_of_another_node_is_refused_with_words():
    with Cluster() as cluster:
        for node in cluster.nodes.values():
            node.kill(signal.SIGTERM)
        result = run_node(cluster.directory / "node2", "--id", "1")
        assert result.returncode == 1 and "belongs to node 2" in result.stderr, result.stderr
        (cluster.directory / "node3" / "node.json").write_text("{ nonsense")
        result = run_node(cluster.directory / "node3", "--id", "3")
        assert result.returncode == 1 and "damaged" in result.stderr, result.stderr


def test_a_data_directory_in_use_is_refused_with_words():
    with Cluster(nodes=1) as cluster:
        result = run_node(cluster.directory / "node1", "--id", "1")
        assert result.returncode == 1 and "another process uses" in result.stderr, result.stderr


def test_wrong_options_are_refused_with_words():
    for options, words in [(["--id", "0"], "1 to 63"), (["--id", "x"], "came: x"), (["--id", "1", "--peer", "nonsense"], "ID=ADDRESS"),
                           (["--id", "1", "--listen", "carrier-pigeon:1"], "shm:"), (["--id", "1", "--config", "/nonexistent"], "cannot be read")]:
        with tempfile.TemporaryDirectory() as directory:
            result = run_node(f"{directory}/n", *options)
            assert result.returncode not in (0, -6, -11) and words in result.stderr, (options, result.returncode, result.stderr)


def test_a_node_of_another_cluster_is_refused_on_both_sides():
    first, second = free_ports(2)
    with tempfile.TemporaryDirectory() as directory:
        peers = ["--peer", f"1=tcp:127.0.0.1:{first}", "--peer", f"2=tcp:127.0.0.1:{second}"]
        one = Process("one", [BUILD / "sluiced", "--id", 1, "--data", f"{directory}/1", "--listen", f"tcp:127.0.0.1:{first}", "--cluster-name", "farm", *peers], f"{directory}/1.log")
        two = Process("two", [BUILD / "sluiced", "--id", 2, "--data", f"{directory}/2", "--listen", f"tcp:127.0.0.1:{second}", "--cluster-name", "ranch", *peers], f"{directory}/2.log")
        one.start(), two.start()
        try:
            time.sleep(1.5)
            logs = [pathlib.Path(f"{directory}/{n}.log").read_text() for n in (1, 2)]
            assert one.running() and two.running()
            assert all("cluster" in log for log in logs), logs
            assert "is connected" not in logs[0] + logs[1]
        finally:
            one.kill(signal.SIGTERM), two.kill(signal.SIGTERM)


def segments(directory):
    return sorted(pathlib.Path(directory, "log").glob("segment-*"))


def test_a_corrupted_entry_in_the_middle_of_the_log_is_found_and_never_served():
    with Cluster(nodes=1) as cluster:
        http = cluster.http()
        for n in range(200):
            assert http.put(f"farm/{n}", os.urandom(600)).status == 201
        cluster.nodes[1].kill(signal.SIGKILL)
        target = segments(cluster.directory / "node1")[0]
        data = bytearray(target.read_bytes())
        used = max(i for i in range(0, len(data), 4096) if any(data[i:i + 4096]))
        # Well inside of a record: batches are padded to whole blocks, and padding holds nothing.
        place = next(i for i in range(used // 2, used) if all(data[i:i + 64]))
        data[place + 32] ^= 0x40
        target.write_bytes(data)
        cluster.nodes[1].start()
        cluster.nodes[1].child.wait(20)
        log = pathlib.Path(cluster.nodes[1].log).read_text()
        assert cluster.nodes[1].child.returncode == 1, "a node served from a log that is damaged in the middle"
        assert target.name.split("-")[1] in log, f"the message does not say where: {log[-500:]}"


def harm_a_batch(directory):
    """Flips a bit well inside of the log's used part, where later batches follow."""
    target = segments(directory)[0]
    data = bytearray(target.read_bytes())
    used = max(i for i in range(0, len(data), 4096) if any(data[i:i + 4096]))
    place = next(i for i in range(used // 2, used) if all(data[i:i + 64]))
    data[place + 32] ^= 0x40
    target.write_bytes(data)


def lose_the_store(directory):
    for manifest in pathlib.Path(directory, "store").glob("MANIFEST-*"):
        os.truncate(manifest, 20)


def lose_the_log(directory):
    for segment in segments(directory):
        segment.unlink()


def test_a_replica_whose_disk_lied_starts_without_a_vote_says_so_and_nothing_is_missing():
    for harm, words in [(harm_a_batch, "the log is damaged"), (lose_the_store, "set aside"), (lose_the_log, "the log is damaged")]:
        with Cluster() as cluster:
            http = cluster.http(60)
            values = {f"farm/{n}": os.urandom(600) for n in range(150)}
            for key, value in values.items():
                assert http.put(key, value).status == 201
            victim = cluster.nodes[3]
            # A clean end makes the store durable, so that the log alone, or the store alone, is what is missing.
            victim.kill(signal.SIGTERM)
            harm(cluster.directory / "node3")
            victim.start()
            for n in range(20):
                values[f"more/{n}"] = os.urandom(100)
                cluster.wait_for(lambda: http.put(f"more/{n}", values[f"more/{n}"]).status in (200, 201), 20, f"no write after {harm.__name__}")
            cluster.wait_for(lambda: words in pathlib.Path(victim.log).read_text(), 20, f"{harm.__name__}: the log does not say so")
            cluster.wait_for(lambda: all(http.get(key).body == value for key, value in values.items()), 30, f"something is missing after {harm.__name__}")
            assert victim.running()


def test_a_full_disk_makes_the_node_read_only_and_room_makes_it_write_again():
    if os.geteuid() != 0:
        print("      needs root for a loop device: not run")
        return
    with tempfile.TemporaryDirectory() as directory:
        image, mount = f"{directory}/disk", f"{directory}/mount"
        os.mkdir(mount)
        subprocess.run(["truncate", "-s", "400M", image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        try:
            cluster = Cluster(nodes=1, directory=mount, sluiced_options=("--segment-bytes", "16777216"))
            with cluster:
                http = cluster.http()
                assert http.put("farm/cow", b"moo").status == 201
                free = shutil.disk_usage(mount).free
                with open(f"{mount}/ballast", "wb") as ballast:
                    os.posix_fallocate(ballast.fileno(), 0, max(0, free - (10 << 20)))
                cluster.wait_for(lambda: http.put("farm/full", b"x").status == 507, 10, "a full disk was not noticed")
                answer = http.put("farm/full", b"x")
                assert answer.code == "storage_full", answer.body
                assert http.get("farm/cow").body == b"moo"
                os.unlink(f"{mount}/ballast")
                cluster.wait_for(lambda: http.put("farm/cow", b"moo").status == 200, 10, "room did not make the node writable")
                assert cluster.nodes[1].running()
        finally:
            subprocess.run(["umount", mount], check=False)


def test_bad_lambdas_are_refused_with_the_loaders_words_and_the_store_goes_on():
    with Cluster(nodes=1) as cluster, tempfile.TemporaryDirectory() as directory:
        http = cluster.http(60)

        def upload(name, data):
            mark = "xxBOUNDARYxx"
            body = (f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}.so"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode() + data +
                    f'\r\n--{mark}\r\nContent-Disposition: form-data; name="manifest"\r\n\r\n{{"name":"{name}"}}\r\n--{mark}--\r\n'.encode())
            return http.call("POST", "/v1/lambdas", body, Content_Type=f"multipart/form-data; boundary={mark}")

        def compiled(name, source, *flags):
            path = pathlib.Path(directory, name)
            path.with_suffix(".c").write_text(source)
            subprocess.run(["cc", "-shared", "-fPIC", "-I", BUILD.parent if (BUILD.parent / "api").exists() else ".", *flags, "-o", path.with_suffix(".so"), path.with_suffix(".c")], check=True)
            return path.with_suffix(".so").read_bytes()

        good = compiled("good", '#include "api/sluice_lambda.h"\nstatic int on(struct sluice_context *c, const struct sluice_event *e, void *s) { (void)c; (void)e; (void)s; return 0; }\nint sluice_lambda_initialize(const struct sluice_host *h, const char *c, void **s) { (void)c; (void)s; return h->watch(h, SLUICE_PREFIX, "farm/", on, 0); }\n')
        other_machine = bytearray(good)
        other_machine[18:20] = (183).to_bytes(2, "little")  # AArch64
        refusing = compiled("refusing", '#include "api/sluice_lambda.h"\nint sluice_lambda_initialize(const struct sluice_host *h, const char *c, void **s) { (void)c; (void)s; h->error(h, "the moon is %s", "wrong"); return 7; }\n')
        crashing = compiled("crashing", '#include "api/sluice_lambda.h"\nint sluice_lambda_initialize(const struct sluice_host *h, const char *c, void **s) { (void)h; (void)c; (void)s; *(volatile int *)8 = 1; return 0; }\n')
        for name, data, words in [("text", b"#!/bin/sh\necho hello\n", ""), ("arm", bytes(other_machine), "AArch64"), ("refusing", refusing, "the moon is wrong"),
                                  ("crashing", crashing, "SIGSEGV"), ("cut", good[:200], "")]:
            answer = upload(name, data)
            assert answer.status == 422, (name, answer.status, answer.body)
            assert answer.code == "unprocessable" and words.lower() in answer.body.decode().lower(), (name, answer.body)
        answer = upload("good", good)
        assert answer.status == 201, answer.body
        assert cluster.nodes[1].running() and http.put("farm/cow", b"moo").status == 201


if __name__ == "__main__":
    run_tests(globals())
