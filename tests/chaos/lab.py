"""A laboratory: core nodes and gateways as real processes, each in a network namespace of its own, and what can be done to them.

Everything lives in namespaces that end with the process (network, mounts, processes), so that nothing of it stays on the host."""

import ctypes
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "cluster"))
from harness import BUILD, Cluster, Http, Process  # noqa: E402

LOAD, WEATHER = BUILD / "tests/chaos/load", BUILD / "tests/chaos/weather"
INSIDE = "SLUICE_LAB"
PORT = 7000


def missing():
    """What this machine lacks, in words; None where nothing does."""
    if os.geteuid() != 0:
        return "root is needed to make network namespaces; run it with sudo"
    for tool, package in (("ip", "iproute2"), ("nft", "nftables"), ("iptables", "iptables"), ("unshare", "util-linux"), ("mkfs.ext4", "e2fsprogs")):
        if shutil.which(tool) is None:
            return f"the program {tool} is not there; it is in Debian's package {package}"
    for program in (BUILD / "sluiced", BUILD / "sluice-gateway", LOAD, WEATHER):
        if not program.exists():
            return f"{program} is not built; make all tests"
    trial = "ip link add name lab type bridge && ip link add name labv type veth peer name labw && nft add table inet t && iptables -A INPUT -j NFQUEUE --queue-num 7 --queue-bypass && mount -t tmpfs none /mnt"
    result = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-c", trial], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        return f"namespaces, bridges, veth pairs, nftables or NFQUEUE don't work here: {result.stderr.strip()}"
    return None


def enter():
    """Goes on in namespaces of its own. What can't be done here counts as neither passed nor failed."""
    if os.environ.get(INSIDE):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        sh("mount -t tmpfs none /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs none /run/netns; }")
        sh("ip link set lo up && ip link add name lab type bridge && ip addr add 10.77.0.1/24 dev lab && ip link set lab up")
        return
    why = missing()
    if why is not None:
        print(f"skipped: {why}")
        print("0 passed, 0 failed")
        sys.exit(0)
    sys.stdout.flush()
    os.environ[INSIDE] = "1"
    child = subprocess.Popen(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", sys.executable, *sys.argv], preexec_fn=die_with_parent)
    # unshare waits on through SIGTERM. Its end by force takes all that runs in the namespaces with it, and so does this process's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.kill())
    status = child.wait()
    sys.exit(status if status >= 0 else 128 - status)


def sh(command, **more):
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, **more)
    if result.returncode != 0:
        raise RuntimeError(f"{command}: {result.stderr.strip() or result.returncode}")
    return result.stdout


class Place:
    """A network namespace with one address on the laboratory's bridge."""

    def __init__(self, name, number):
        self.name, self.number, self.address = name, number, f"10.77.0.{number}"
        self.weather = None
        sh(f"ip netns add {name} && ip link add name v{number} type veth peer name eth0 netns {name} && ip link set v{number} master lab up && "
           f"ip -n {name} addr add {self.address}/24 dev eth0 && ip -n {name} link set eth0 up && ip -n {name} link set lo up")
        self.run("nft 'add table inet chaos; add chain inet chaos input { type filter hook input priority 0; }'")

    def run(self, command):
        return sh(f"ip netns exec {self.name} {command}")

    def command(self, *parts):
        return ["ip", "netns", "exec", self.name, *parts]

    def deafen(self, others):
        """Hears nothing of the others any more. What they hear of this place is their own business."""
        if others:
            self.run(f"nft add rule inet chaos input ip saddr '{{ {', '.join(each.address for each in others)} }}' drop")

    def heal(self):
        self.run("nft flush chain inet chaos input")

    def begin_weather(self, seed, delay_ms, jitter_ms, loss_permille, reorder_permille, others):
        self.weather = subprocess.Popen(self.command(WEATHER, "7", *map(str, (seed, delay_ms, jitter_ms, loss_permille, reorder_permille))), stdout=subprocess.PIPE, text=True)
        if self.weather.stdout.readline().strip() != "ready":
            raise RuntimeError("the program that delays packets did not start")
        for other in others:
            self.run(f"iptables -I INPUT -s {other.address} -j NFQUEUE --queue-num 7 --queue-bypass")

    def end_weather(self):
        if self.weather is None:
            return ""
        self.run("iptables -F INPUT")
        self.weather.terminate()
        counts = self.weather.communicate(timeout=20)[0].strip()
        self.weather = None
        return counts


class At(Http):
    """harness.Http to another address than this machine's own."""

    def __init__(self, address, timeout=30):
        super().__init__(8080, timeout)
        self.address = address

    def call(self, method, path, body=None, **headers):
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address, 8080, timeout=self.timeout)
        return super().call(method, path, body, **headers)


class Lab:
    """`count` nodes, two gateways in front of them."""

    def __init__(self, count, directory, small_disk=None, sluiced_options=()):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.places = {i: Place(f"n{i}", 10 + i) for i in range(1, count + 1)}
        self.gate_places = {i: Place(f"g{i}", 100 + i) for i in (1, 2)}
        self.small_disk, self.mounts = small_disk, []
        self.addresses = {i: f"tcp:{place.address}:{PORT}" for i, place in self.places.items()}
        peers = [part for i, address in self.addresses.items() for part in ("--peer", f"{i}={address}")]
        self.program = BUILD / "sluiced"
        self.nodes = {}
        for i, place in self.places.items():
            data = self.directory / f"node{i}"
            if i == small_disk:
                self.mount_small(data)
            self.nodes[i] = Process(f"node{i}", place.command(self.program, "--id", i, "--data", data / "data", "--listen", self.addresses[i], "--allow-inprocess", "yes",
                                                              "--segment-bytes", 16 << 20, *peers, *sluiced_options), self.directory / f"node{i}.log")
        for i in self.places:
            (self.directory / f"node{i}").mkdir(exist_ok=True)
        self.gates = {i: self.gate(f"gateway{i}", place, self.addresses.values()) for i, place in self.gate_places.items()}
        self.verifiers, self.guests, self.count = {}, {}, count

    def gate(self, name, place, addresses):
        return Process(name, place.command(BUILD / "sluice-gateway", "--listen", f"{place.address}:8080", "--insecure", "--prefer-tcp", "--nodes", ",".join(addresses)), self.directory / f"{name}.log")

    def mount_small(self, path):
        path.mkdir(exist_ok=True)
        image = f"{path}.ext4"
        sh(f"truncate -s 1500M {image} && mkfs.ext4 -q -m 0 {image} && mount -o loop {image} {path}")
        self.mounts.append(path)

    def start(self):
        for process in (*self.nodes.values(), *self.gates.values()):
            process.start()
        Cluster.wait_for(lambda: At(self.gate_places[1].address, 5).put("_ready", b"1").status in (200, 201), 60, "the cluster takes no writes")

    def http(self, gate=1, timeout=10):
        return At(self.gate_places[gate].address, timeout)

    def load_addresses(self):
        return [f"{place.address}:8080" for place in self.gate_places.values()]

    def status(self):
        """The cluster's state by whichever gateway answers."""
        for gate in self.gate_places:
            try:
                answer = self.http(gate, 5).call("GET", "/v1/cluster", Sluice_Timeout="3s")
                if answer.status == 200:
                    return answer.json
            except (OSError, http.client.HTTPException, ValueError):
                continue
        raise KeyError("no gateway answers")

    def leaders(self):
        return {shard["id"]: shard["leader"] for shard in self.status()["shards"]}

    def settled(self, node):
        """Runs, and holds what the others hold."""
        if not self.nodes[node].running():
            return False
        groups = self.status()["shards"]
        lags = [int(replica["lag"]) for shard in groups for replica in shard["replicas"] if replica["node"] == node]
        return (len(lags) > 0 or len(self.nodes) > 3) and all(lag < 500 for lag in lags)

    # --- Members that come and go ---

    def join(self):
        """A node with a number that was never used; it joins through the first one. Its number."""
        self.count += 1
        number, place = self.count, Place(f"n{self.count}", 10 + self.count)
        process = Process(f"node{number}", place.command(self.program, "--id", number, "--data", self.directory / f"node{number}" / "data", "--listen", f"tcp:{place.address}:{PORT}",
                                                         "--allow-inprocess", "yes", "--segment-bytes", 16 << 20, "--join", self.addresses[1]), self.directory / f"node{number}.log")
        (self.directory / f"node{number}").mkdir(exist_ok=True)
        self.guests[number] = place, process.start()
        return number

    def release(self, program):
        """What every process of a node runs from its next start on."""
        for process in [*self.nodes.values(), *(guest for _, guest in self.guests.values())]:
            process.command = [str(program) if part == str(self.program) else part for part in process.command]
        self.program = program

    def sluice(self, *arguments):
        done = subprocess.run([BUILD / "sluice", "cluster", *map(str, arguments), "--json", "--url", f"http://{self.gate_places[1].address}:8080"], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"sluice cluster {' '.join(map(str, arguments))}: {done.stderr.strip()}")

    def membership(self, node):
        return next((each["membership"] for each in self.status()["nodes"] if each["id"] == node), None)

    def holds(self, node):
        """Is a full member of a shard of the pools'."""
        return any(node in kept for kept in self.replicas().values())

    def placed(self, nodes):
        """All replicas are where they are wanted, on these nodes alone, as members; nothing moves."""
        state = self.status()
        return all(shard["leader"] and not shard["moving"] and {replica["node"] for replica in shard["replicas"]} <= set(nodes) and
                   all(replica.get("member") and replica["wanted"] and not replica["learner"] for replica in shard["replicas"])
                   for shard in [*state["shards"], state["map_group"]])

    def others(self, node):
        return [place for i, place in self.places.items() if i != node]

    def all_places(self):
        return [*self.places.values(), *self.gate_places.values()]

    def replicas(self):
        """Which nodes keep each shard."""
        return {shard["id"]: {replica["node"] for replica in shard["replicas"] if replica["member"]} for shard in self.status()["shards"]}

    def verify(self, writes, connections=8):
        """Reads what was acknowledged (pairs of a shard and a line KEY VERSION NAME) from each of its replicas, through a gateway that reaches that one alone.
        Yields (node, count, good, text)."""
        known = []
        # A replica whose node did not answer in time is listed without saying what it is.
        Cluster.wait_for(lambda: known.append(self.replicas()) is None, 60, "some replica does not say whether it is a member")
        replicas = known[-1]
        for i, place in self.places.items():
            lines = [line for shard, line in writes if i in replicas[shard]]
            if i not in self.verifiers:
                gate = Place(f"x{i}", 200 + i)
                gate.deafen(self.others(i))
                self.verifiers[i] = gate, self.gate(f"verifier{i}", gate, [self.addresses[i]]).start()
            gate, _ = self.verifiers[i]
            Cluster.wait_for(lambda gate=gate: At(gate.address, 5).call("GET", "/healthz").status == 200, 30, f"the gateway to node {i} alone does not answer")
            result = subprocess.run([LOAD, "verify", str(connections), f"{gate.address}:8080"], input="".join(lines), capture_output=True, text=True, check=False)
            yield i, len(lines), result.returncode == 0, result.stdout.strip()

    def processes(self):
        return [*self.nodes.values(), *self.gates.values(), *(process for _, process in (*self.verifiers.values(), *self.guests.values()))]

    def stop(self):
        for process in self.processes():
            process.kill(signal.SIGCONT)
            process.kill(signal.SIGKILL)
        for place in (*self.all_places(), *(place for place, _ in (*self.verifiers.values(), *self.guests.values()))):
            place.end_weather()
            # The kernel takes its time with a namespace's devices; the next cluster wants the names at once.
            sh(f"ip link del v{place.number} && ip netns del {place.name}")
        for path in self.mounts:
            sh(f"umount {path}")

    def tails(self, count=25):
        for process in self.processes():
            try:
                lines = pathlib.Path(process.log).read_text(errors="replace").splitlines()[-count:]
            except OSError:
                continue
            print(f"--- {process.name}", *lines, sep="\n")


def die_with_parent():
    """For children that write histories: an end of the test by force ends them too."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def read_history(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def now_ns():
    return time.monotonic_ns()
