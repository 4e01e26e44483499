"""What can happen to a cluster in the laboratory: each fault begins, lasts, and ends, all drawn from one seed."""

import os
import shutil
import signal


class Fault:
    """A fault of the node `node`. `kind` names it in the report."""

    kind = ""
    seconds = (1.0, 4.0)

    def __init__(self, lab, node, random):
        self.lab, self.node, self.random = lab, node, random
        self.place, self.process = lab.places[node], lab.nodes[node]

    def begin(self):
        raise NotImplementedError

    def end(self):
        raise NotImplementedError

    def words(self):
        return f"{self.kind} of node {self.node}"


class Kill(Fault):
    kind = "SIGKILL"
    seconds = (0.2, 4.0)

    def begin(self):
        self.process.kill(signal.SIGKILL)

    def end(self):
        self.process.start()


class Stop(Fault):
    kind = "SIGSTOP"
    seconds = (0.3, 4.0)

    def begin(self):
        self.process.kill(signal.SIGSTOP)

    def end(self):
        self.process.kill(signal.SIGCONT)


class Restart(Fault):
    """A clean stop, as in a rolling restart."""

    kind = "clean restart"
    seconds = (0.1, 1.0)

    def begin(self):
        self.process.kill(signal.SIGTERM)

    def end(self):
        self.process.start()


class Cut(Fault):
    kind = "cut off from all"

    def begin(self):
        rest = [place for place in self.lab.all_places() if place is not self.place]
        self.place.deafen(rest)
        for place in rest:
            place.deafen([self.place])

    def end(self):
        for place in self.lab.all_places():
            place.heal()


class CutPeers(Cut):
    kind = "cut off from its peers"

    def begin(self):
        rest = self.lab.others(self.node)
        self.place.deafen(rest)
        for place in rest:
            place.deafen([self.place])


class Deaf(Cut):
    kind = "one way: hears no peer"

    def begin(self):
        self.place.deafen(self.lab.others(self.node))


class Mute(Cut):
    kind = "one way: no peer hears it"

    def begin(self):
        for place in self.lab.others(self.node):
            place.deafen([self.place])


class Partial(Cut):
    """Two that don't hear each other, and a third that hears both."""

    kind = "cut off from one peer"

    def begin(self):
        other = self.random.choice(self.lab.others(self.node))
        self.place.deafen([other])
        other.deafen([self.place])


class Weather(Fault):
    delay = (0, 0, 0, 0)

    def begin(self):
        self.place.begin_weather(self.random.getrandbits(40), *self.delay, self.lab.others(self.node))

    def end(self):
        self.place.end_weather()


class Delay(Weather):
    kind = "packets 20 to 100 ms late"
    delay = (20, 80, 0, 0)


class Loss(Weather):
    kind = "5% of packets lost"
    delay = (0, 2, 50, 0)


class Reorder(Weather):
    kind = "packets out of order"
    delay = (5, 20, 5, 250)


class DiskFull(Fault):
    """Only the node that has a small disk of its own."""

    kind = "disk full"
    seconds = (1.5, 4.0)

    def begin(self):
        self.ballast = f"{self.lab.directory}/node{self.node}/ballast"
        with open(self.ballast, "wb") as ballast:
            free = shutil.disk_usage(os.path.dirname(self.ballast)).free
            os.posix_fallocate(ballast.fileno(), 0, max(1, free - (8 << 20)))

    def end(self):
        os.unlink(self.ballast)


class Gateway(Fault):
    """Restarts one of the gateways; clients go to the other one."""

    kind = "gateway SIGKILL"
    seconds = (0.2, 2.0)

    def __init__(self, lab, gate, random):
        self.lab, self.node, self.random = lab, None, random
        self.gate = gate

    def begin(self):
        self.lab.gates[self.gate].kill(signal.SIGKILL)

    def end(self):
        self.lab.gates[self.gate].start()

    def words(self):
        return f"{self.kind} of gateway {self.gate}"


NODE_FAULTS = [Kill, Kill, Kill, Stop, Restart, Cut, CutPeers, Deaf, Mute, Partial, Delay, Loss, Reorder]
# Those that rewrite the rules of several places can't overlap with each other.
RULES = (Cut,)
