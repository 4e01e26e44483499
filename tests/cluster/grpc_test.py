#!/usr/bin/python3
"""The gRPC services of a running cluster, by generated stubs and by a client that knows nothing but what reflection tells."""

import contextlib
import importlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format

from harness import BUILD, ROOT, Cluster, Process, free_ports, run_tests

try:
    from google.protobuf.message_factory import GetMessageClass
except ImportError:
    from google.protobuf.message_factory import MessageFactory

    def GetMessageClass(descriptor):
        return MessageFactory().GetPrototype(descriptor)

STUBS = tempfile.TemporaryDirectory()


def generate():
    """The stubs of api/proto, as a user would make them."""
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "api/proto").glob("*.proto"))
    subprocess.run(["protoc", f"-I{ROOT}", f"--python_out={STUBS.name}", f"--grpc_out={STUBS.name}", "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin",
                    *protos], check=True, cwd=ROOT)
    sys.path.insert(0, STUBS.name)
    return [importlib.import_module(f"api.proto.{name}") for name in ("sluice_pb2", "sluice_pb2_grpc", "health_pb2", "health_pb2_grpc", "reflection_pb2",
                                                                     "reflection_pb2_grpc", "reflection_v1_pb2", "reflection_v1_pb2_grpc")]


pb, rpc, health_pb, health_rpc, reflect_pb, reflect_rpc, reflect1_pb, reflect1_rpc = generate()
CODE = grpc.StatusCode
LARGE = [("grpc.max_receive_message_length", 80 << 20), ("grpc.max_send_message_length", 80 << 20)]


class Client:
    def __init__(self, address, options=()):
        self.channel = grpc.insecure_channel(address, options=[*LARGE, ("grpc.use_local_subchannel_pool", 1), *options])
        self.store = rpc.StoreStub(self.channel)
        self.lambdas = rpc.LambdasStub(self.channel)
        self.cluster = rpc.ClusterStub(self.channel)
        self.health = health_rpc.HealthStub(self.channel)

    def put(self, key, data, **more):
        return self.store.Put(pb.PutRequest(key=key, data=data, **more), timeout=20)

    def get(self, key, **more):
        return self.store.Get(pb.GetRequest(key=key, **more), timeout=20)


@contextlib.contextmanager
def fails(code, words=None):
    """The gRPC code and sluice's own; yields a dictionary that then holds trailers and details."""
    about = {}
    try:
        yield about
    except grpc.RpcError as error:
        about.update(error.trailing_metadata() or (), details=error.details())
        expected, own = code if isinstance(code, tuple) else (code, None)
        assert error.code() == expected, f"expected {expected}, came {error.code()}: {error.details()}"
        assert own is None or about.get("sluice-code") == own, f"expected {own}, came {about}"
        assert words is None or words in error.details(), f"expected {words!r} in {error.details()!r}"
        return
    raise AssertionError(f"expected {code}, but the call succeeded")


CLUSTER = None


def client():
    """One cluster for all tests; each has keys of its own."""
    global CLUSTER
    if "SLUICE_GRPC" in os.environ:
        return Client(os.environ["SLUICE_GRPC"])
    if CLUSTER is None:
        CLUSTER = Cluster(nodes=1)
        CLUSTER.start()
    return Client(f"127.0.0.1:{CLUSTER.grpc_port}")


def now_ns():
    return time.time_ns()


# --- Objects


def test_what_was_put_is_what_is_got_byte_for_byte():
    each = client()
    for size in (0, 1, 1000, 100_000, 3 << 20):
        data = os.urandom(size)
        written = each.put(f"bytes/{size}", data, content_type="image/jpeg")
        assert (written.key, written.version, written.size, written.created, written.durable) == (f"bytes/{size}", 1, size, True, True), written
        got = each.get(f"bytes/{size}")
        assert (got.data, got.content_type, got.version, got.revision, got.shard) == (data, "image/jpeg", 1, written.revision, written.shard)
        assert got.time_ns == written.time_ns and got.size == size
        assert abs(got.time_ns - now_ns()) < 60e9


def test_versions_rise_and_old_ones_stay_readable():
    each = client()
    first, second = each.put("versions/a", b"one"), each.put("versions/a", b"two")
    assert (first.version, second.version) == (1, 2) and first.created and not second.created
    assert second.time_ns > first.time_ns
    assert each.get("versions/a").data == b"two"
    assert each.get("versions/a", version=1).data == b"one"
    assert each.get("versions/a", at_ns=first.time_ns).data == b"one"
    assert each.get("/versions/a").version == 2, "one leading slash is allowed"
    assert each.get("versions/a", consistency=pb.STABLE, after_ns=second.time_ns).data == b"two"
    with fails((CODE.NOT_FOUND, "not_found")):
        each.get("versions/a", version=3)
    with fails((CODE.NOT_FOUND, "not_found")):
        each.get("versions/none")


def test_a_part_of_a_value_and_facts_alone():
    each = client()
    each.put("part/a", b"0123456789")
    got = each.get("part/a", offset=3, length=4)
    assert (got.data, got.size) == (b"3456", 10)
    assert each.get("part/a", offset=8).data == b"89"
    head = each.get("part/a", head=True)
    assert (head.data, head.size) == (b"", 10)
    with fails((CODE.OUT_OF_RANGE, "range_not_satisfiable")):
        each.get("part/a", offset=10)


def test_conditions_hold_or_nothing_happens():
    each = client()
    each.put("conditions/a", b"one", if_absent=True)
    with fails((CODE.FAILED_PRECONDITION, "condition_failed")):
        each.put("conditions/a", b"two", if_absent=True)
    with fails((CODE.FAILED_PRECONDITION, "condition_failed")):
        each.put("conditions/a", b"two", if_version=2)
    assert each.put("conditions/a", b"two", if_version=1).version == 2
    assert each.put("conditions/a", b"three", if_present=True).version == 3
    with fails((CODE.FAILED_PRECONDITION, "condition_failed")):
        each.put("conditions/none", b"x", if_present=True)
    with fails((CODE.FAILED_PRECONDITION, "condition_failed")):
        each.store.Delete(pb.DeleteRequest(key="conditions/a", if_version=1), timeout=20)
    assert each.get("conditions/a").data == b"three"


def test_a_deleted_object_says_so_and_its_history_stays():
    each = client()
    each.put("deleted/a", b"one", object_time_ns=1_000)
    gone = each.store.Delete(pb.DeleteRequest(key="deleted/a"), timeout=20)
    assert gone.version == 2
    with fails((CODE.NOT_FOUND, "deleted")) as about:
        each.get("deleted/a")
    assert about["sluice-version"] == "2", about
    with fails(CODE.NOT_FOUND):
        each.store.Delete(pb.DeleteRequest(key="deleted/a"), timeout=20)
    assert each.get("deleted/a", version=1).object_time_ns == 1_000
    again = each.put("deleted/a", b"two", if_absent=True)
    assert again.version == 3 and again.created
    history = list(each.store.History(pb.HistoryRequest(key="deleted/a"), timeout=20))
    assert [(one.version, one.deleted) for one in history] == [(1, False), (2, True), (3, False)]


def test_an_idempotency_key_applies_once():
    each = client()
    first = each.put("once/a", b"value", idempotency_key="k1")
    second = each.put("once/a", b"value", idempotency_key="k1")
    assert (first.version, first.replayed, second.version, second.replayed) == (1, False, 1, True)
    with fails((CODE.INVALID_ARGUMENT, "idempotency_mismatch")):
        each.put("once/a", b"another", idempotency_key="k1")
    assert each.get("once/a").version == 1


# --- Several objects


def test_a_listing_is_in_order_page_by_page_and_folds_at_a_delimiter():
    each = client()
    for key in ("list/b/2", "list/a", "list/b/1", "list/c", "listing"):
        each.put(key, b"x")
    names, cursor, pages = [], "", 0
    while True:
        page = each.store.List(pb.ListRequest(prefix="list/", limit=2, cursor=cursor), timeout=20)
        names += [one.key for one in page.objects]
        cursor, pages = page.cursor, pages + 1
        if not cursor:
            break
    assert names == ["list/a", "list/b/1", "list/b/2", "list/c"] and pages >= 2, (names, pages)
    folded = each.store.List(pb.ListRequest(prefix="list/", delimiter="/"), timeout=20)
    assert [one.key for one in folded.objects] == ["list/a", "list/c"] and list(folded.prefixes) == ["list/b/"]
    assert folded.at_ns > 0 and folded.watch_cursor


def test_history_streams_any_number_of_versions():
    each = client()
    values = [f"{n}-".encode() + b"v" * (n * 500) for n in range(60)]
    for value in values:
        each.put("history/a", value)
    history = list(each.store.History(pb.HistoryRequest(key="history/a", data=True), timeout=30))
    assert [one.data for one in history] == values
    assert [one.version for one in history] == list(range(1, 61))
    some = list(each.store.History(pb.HistoryRequest(key="history/a", version_from=10, version_to=20, limit=5), timeout=20))
    assert [(one.version, one.data) for one in some] == [(n, b"") for n in range(10, 15)]
    back = list(each.store.History(pb.HistoryRequest(key="history/a", descending=True, limit=3), timeout=20))
    assert [one.version for one in back] == [60, 59, 58]
    with fails((CODE.NOT_FOUND, "not_found")):
        list(each.store.History(pb.HistoryRequest(key="history/none"), timeout=20))


def test_a_slow_reader_of_history_gets_all_of_it():
    each = Client(client_address(), [("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)])
    for n in range(30):
        each.put("history/large", bytes([n]) * 300_000)
    seen = []
    for one in each.store.History(pb.HistoryRequest(key="history/large", data=True), timeout=60):
        seen.append((one.version, one.data[:1], len(one.data)))
        time.sleep(0.02)
    assert seen == [(n + 1, bytes([n]), 300_000) for n in range(30)]


def test_a_snapshot_is_one_instant():
    each = client()
    each.put("snapshot/a", b"a1")
    at = each.put("snapshot/b", b"b1").time_ns
    each.put("snapshot/a", b"a2")
    snapshot = each.store.Snapshot(pb.SnapshotRequest(keys=["snapshot/a", "snapshot/none"], prefixes=["snapshot/b"]), timeout=20)
    assert {one.key: one.data for one in snapshot.objects} == {"snapshot/a": b"a2", "snapshot/b": b"b1"}
    assert list(snapshot.missing) == ["snapshot/none"] and snapshot.at_ns > at
    then = each.store.Snapshot(pb.SnapshotRequest(keys=["snapshot/a", "snapshot/b"], at_ns=at), timeout=20)
    assert {one.key: one.data for one in then.objects} == {"snapshot/a": b"a1", "snapshot/b": b"b1"} and then.at_ns == at


def operation(key, data=None, **more):
    if data is None:
        return pb.Operation(delete=pb.DeleteRequest(key=key, **more))
    return pb.Operation(put=pb.PutRequest(key=key, data=data, **more))


def keys_of_one_shard(each, count):
    shards = {}
    for n in range(1000):
        key = f"batch/{n}"
        shard = each.put(key, b"0").shard
        shards.setdefault(shard, []).append(key)
        if len(shards[shard]) == count:
            return shards[shard], next((other[0] for number, other in shards.items() if number != shard), None)
    raise AssertionError("keys do not share shards")


def test_a_batch_is_all_or_nothing():
    each = client()
    (a, b, c), elsewhere = keys_of_one_shard(each, 3)
    done = each.store.Batch(pb.BatchRequest(operations=[operation(a, b"1"), operation(b, b"2", if_version=1), operation(c)], idempotency_key="b"), timeout=20)
    assert [one.version for one in done.results] == [2, 2, 2] and len({one.revision for one in done.results} | {done.revision}) == 1
    assert (each.get(a).data, each.get(b).data) == (b"1", b"2")
    with fails((CODE.FAILED_PRECONDITION, "condition_failed")):
        each.store.Batch(pb.BatchRequest(operations=[operation(a, b"x"), operation(b, b"x", if_version=9)]), timeout=20)
    assert each.get(a).version == 2
    if elsewhere is not None:
        with fails((CODE.FAILED_PRECONDITION, "conflict")) as about:
            each.store.Batch(pb.BatchRequest(operations=[operation(a, b"x"), operation(elsewhere, b"x")]), timeout=20)
        assert a in json.dumps(json.loads(about["sluice-detail-bin"])), about
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument")):
        each.store.Batch(pb.BatchRequest(), timeout=20)


# --- Watch


class Watching:
    """Collects a watch's events in a thread; `wait` for a number of changes."""

    def __init__(self, each, **what):
        self.call = each.store.Watch(pb.WatchRequest(**what))
        self.events, self.error, self.changed = [], None, threading.Condition()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        self.call.initial_metadata()  # the headers come once it is subscribed

    def run(self):
        try:
            for event in self.call:
                with self.changed:
                    self.events.append(event)
                    self.changed.notify_all()
        except grpc.RpcError as error:
            self.error = error
        with self.changed:
            self.changed.notify_all()

    def changes(self):
        return [event for event in self.events if event.type != pb.WatchEvent.PROGRESS]

    def wait(self, count, seconds=15):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.changes()) >= count or self.error, seconds), f"only {len(self.changes())} of {count} changes came"
        assert self.error is None, self.error
        return self.changes()

    def stop(self):
        self.call.cancel()
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_a_watch_sees_every_change_once_and_in_order():
    each = client()
    watch = Watching(each, prefix="watch/a", data=True)
    for n in range(50):
        each.put("watch/a1", str(n).encode())
    each.put("watch/other", b"no")
    each.store.Delete(pb.DeleteRequest(key="watch/a1"), timeout=20)
    changes = watch.wait(51)
    assert [change.object.data for change in changes[:50]] == [str(n).encode() for n in range(50)]
    assert changes[50].type == pb.WatchEvent.DELETE and changes[50].object.version == 51
    with watch.changed:
        assert watch.changed.wait_for(lambda: any(e.type == pb.WatchEvent.PROGRESS and e.closed_ns >= changes[50].object.time_ns for e in watch.events), 10)
    watch.stop()
    assert watch.error.code() == CODE.CANCELLED
    assert len(watch.changes()) == 51


def test_a_watch_resumes_from_a_cursor_without_a_hole():
    each = client()
    watch = Watching(each, key="watch/resume")
    for n in range(10):
        each.put("watch/resume", str(n).encode())
    cursor = watch.wait(10)[3].cursor
    watch.stop()
    assert 0 < len(cursor) <= 512
    each.put("watch/resume", b"10")
    again = Watching(each, key="watch/resume", **{"from": cursor}, data=True)
    assert [change.object.data for change in again.wait(7)[:7]] == [str(n).encode() for n in range(4, 11)]
    again.stop()


def test_patterns_of_every_kind_match():
    each = client()
    kinds = [dict(key="kinds/x/1"), dict(prefix="kinds/x"), dict(glob="kinds/*/1"), dict(regex="kinds/(x|z)/[0-9]+")]
    watches = [Watching(each, **kind) for kind in kinds]
    for key in ("kinds/x/1", "kinds/x/2", "kinds/y/1", "kinds/z/9"):
        each.put(key, b"v")
    expected = [["kinds/x/1"], ["kinds/x/1", "kinds/x/2"], ["kinds/x/1", "kinds/y/1"], ["kinds/x/1", "kinds/x/2", "kinds/z/9"]]
    for watch, keys in zip(watches, expected):
        assert sorted(change.object.key for change in watch.wait(len(keys))) == keys
        watch.stop()
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument")):
        next(each.store.Watch(pb.WatchRequest(regex="kinds/(x"), timeout=10))
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument")):
        next(each.store.Watch(pb.WatchRequest(), timeout=10))
    with fails(CODE.INVALID_ARGUMENT):
        next(each.store.Watch(pb.WatchRequest(**{"key": "k", "from": "no cursor"}), timeout=10))


def test_a_large_value_is_named_and_not_sent_to_watchers():
    each = client()
    watch = Watching(each, key="watch/large", data=True)
    each.put("watch/large", b"v" * ((1 << 20) + 1))
    change = watch.wait(1)[0].object
    assert change.truncated and change.data == b"" and change.size == (1 << 20) + 1
    watch.stop()


def test_a_watcher_that_does_not_read_holds_up_nobody_and_misses_nothing():
    each = client()
    slow = Client(client_address(), [("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)])
    call = slow.store.Watch(pb.WatchRequest(prefix="reader/", data=True))
    call.initial_metadata()
    count, began = 300, time.monotonic()
    for n in range(count):
        each.put(f"reader/{n % 7}", f"{n:06}".encode() * 3000)
    assert time.monotonic() - began < 60
    seen = []
    for event in call:
        if event.type == pb.WatchEvent.PUT:
            seen.append((event.object.revision, event.object.shard, event.object.data[:6]))
            if len(seen) == count:
                break
    call.cancel()
    assert sorted(data for _, _, data in seen) == [f"{n:06}".encode() for n in range(count)]
    for shard in {shard for _, shard, _ in seen}:
        revisions = [revision for revision, number, _ in seen if number == shard]
        assert revisions == sorted(revisions)


# --- Rules


def test_bad_requests_are_refused_with_words():
    each = client()
    for key, words in [("", "at least one byte"), ("a//b", "empty segment"), ("a/../b", "segment"), ("k" * 1025, "1,024"), ("a\nb", "control"), ("a/", "slash")]:
        with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), words):
            each.put(key, b"x")
    for request, words in [(pb.PutRequest(key="k", if_version=1, if_absent=True), "at most one"), (pb.PutRequest(key="k", object_time_ns=-1), "1970"),
                           (pb.PutRequest(key="k", if_epoch=3), "if_version"), (pb.PutRequest(key="k", ack=9), "ACK")]:
        with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), words):
            each.store.Put(request, timeout=10)
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), "exclude"):
        each.get("k", version=1, at_ns=5)
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), "object clock"):
        each.get("k", at_ns=5, clock=pb.OBJECT)
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), "delimiter"):
        each.store.List(pb.ListRequest(delimiter="ab"), timeout=10)
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), "at least one key"):
        each.store.Snapshot(pb.SnapshotRequest(), timeout=10)


def raw(each, method, data, **more):
    return each.channel.unary_unary(method)(data, timeout=10, **more)


def test_bytes_that_are_no_message_cost_their_sender_an_error():
    each = client()
    for data in (b"\xff", b"\x0a\x05ab", b"\x0a\x02a\xff", b"\x0a\x03a\0b", b"\x08\x01", b"\x0b\x0c", os.urandom(64) + b"\x0b"):
        with fails((CODE.INVALID_ARGUMENT, "invalid_argument")):
            raw(each, "/sluice.v1.Store/Put", data)
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), "too many"):
        raw(each, "/sluice.v1.Store/Snapshot", b"\x0a\x00" * 30_000)
    with fails((CODE.RESOURCE_EXHAUSTED, "too_large")):
        raw(each, "/sluice.v1.Store/Get", b"\x0a\xff\xff\x07" + b"k" * 131_071)
    assert each.put("after/garbage", b"x").version >= 1


def test_unknown_methods_are_unimplemented():
    each = client()
    for method in ("/sluice.v1.Store/Nothing", "/nothing.v1.Nothing/Put", "/"):
        with fails((CODE.UNIMPLEMENTED, "method_not_allowed")):
            raw(each, method, b"")


def test_values_up_to_64_mib_and_not_beyond():
    each = client()
    data = os.urandom(1 << 20) * 64
    assert each.put("large/a", data).size == 64 << 20
    assert each.get("large/a").data == data
    with fails((CODE.RESOURCE_EXHAUSTED, "too_large"), "67108864"):
        each.put("large/b", data + b"x")
    with fails(CODE.RESOURCE_EXHAUSTED):
        each.put("large/b", data + b"x" * (4 << 20))
    with fails(CODE.NOT_FOUND):
        each.get("large/b")


def test_compressed_messages_are_refused():
    each = client()
    with fails(CODE.UNIMPLEMENTED):
        each.store.Put(pb.PutRequest(key="zip/a", data=b"0" * 100_000), timeout=10, compression=grpc.Compression.Gzip)
    assert each.put("zip/b", b"x").version == 1


def test_metadata_is_checked():
    each = client()
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), "sluice-after"):
        each.store.Get(pb.GetRequest(key="k"), metadata=[("sluice-after", "yesterday")], timeout=10)
    with fails((CODE.INVALID_ARGUMENT, "invalid_argument"), "future"):
        each.store.Get(pb.GetRequest(key="k"), metadata=[("sluice-after", str(now_ns() + 10**12))], timeout=10)
    written = each.put("after/a", b"x")
    assert each.store.Get(pb.GetRequest(key="after/a", consistency=pb.STABLE), metadata=[("sluice-after", str(written.time_ns))], timeout=10).data == b"x"


def test_a_deadline_is_the_calls_own():
    each = client()
    future = now_ns() + 300 * 10**9
    each.put("deadline/a", b"x")
    began = time.monotonic()
    with fails(CODE.DEADLINE_EXCEEDED):
        each.store.Get(pb.GetRequest(key="deadline/a", at_ns=future), timeout=0.5)
    assert 0.4 < time.monotonic() - began < 2
    with fails(CODE.DEADLINE_EXCEEDED):
        list(each.store.Watch(pb.WatchRequest(key="deadline/a"), timeout=0.5))


def test_many_calls_at_once_and_cancelled_ones_leave_nothing_behind():
    each = client()
    futures = [each.store.Put.future(pb.PutRequest(key=f"many/{n % 50}", data=b"x" * 2000), timeout=30) for n in range(2000)]
    for future in futures[::3]:
        future.cancel()
    results = [future.code() for future in futures]
    assert set(results) <= {CODE.OK, CODE.CANCELLED} and results.count(CODE.OK) >= 1300, {code: results.count(code) for code in set(results)}
    watches = [each.store.Watch(pb.WatchRequest(prefix="many/")) for _ in range(100)]
    for watch in watches:
        watch.cancel()
    assert each.get("many/1").size == 2000


# --- Lambdas, cluster


def lambda_file():
    files = sorted(pathlib.Path(BUILD, "lambdas").glob("*.so"))
    assert files, "no example lambda is built"
    return files[0]


def test_lambdas_are_uploaded_in_parts_listed_and_deleted():
    each = client()
    data = lambda_file().read_bytes()
    parts = [pb.UploadRequest(file=data[at:at + 10_000]) for at in range(0, len(data), 10_000)]
    parts[0].name, parts[0].manifest_json = "grpc-test", "{}"
    uploaded = each.lambdas.Upload(iter(parts), timeout=60)
    assert uploaded.name == "grpc-test" and uploaded.version >= 1 and len(uploaded.sha256) == 64, uploaded
    assert json.loads(uploaded.json)["sha256"] == uploaded.sha256
    assert "grpc-test" in [one.name for one in each.lambdas.List(pb.ListLambdasRequest(), timeout=20).lambdas]
    assert each.lambdas.Get(pb.GetLambdaRequest(name="grpc-test"), timeout=20).sha256 == uploaded.sha256
    each.lambdas.Delete(pb.DeleteLambdaRequest(name="grpc-test"), timeout=20)
    with fails((CODE.NOT_FOUND, "not_found")):
        each.lambdas.Get(pb.GetLambdaRequest(name="grpc-test"), timeout=20)


def test_bad_uploads_are_refused():
    each = client()
    with fails((CODE.INVALID_ARGUMENT, "unprocessable")):
        each.lambdas.Upload(iter([pb.UploadRequest(name="bad", file=b"no shared object")]), timeout=30)
    for messages in ([], [pb.UploadRequest(file=b"x")], [pb.UploadRequest(name="bad")], [pb.UploadRequest(name="bad", file=b"x"), pb.UploadRequest(name="bad", file=b"y")]):
        with fails((CODE.INVALID_ARGUMENT, "invalid_argument")):
            each.lambdas.Upload(iter(messages), timeout=20)
    with fails((CODE.RESOURCE_EXHAUSTED, "too_large")):
        each.lambdas.Upload(iter([pb.UploadRequest(name="bad", file=b"x" * (30 << 20)) if n == 0 else pb.UploadRequest(file=b"x" * (30 << 20)) for n in range(3)]), timeout=30)


def test_an_upload_that_is_given_up_is_not_taken_for_a_whole_one():
    each = client()
    never = threading.Event()

    def messages():
        yield pb.UploadRequest(name="half", file=lambda_file().read_bytes())
        never.wait(30)

    call = each.lambdas.Upload.future(messages())
    time.sleep(0.5)
    call.cancel()
    never.set()
    with fails((CODE.NOT_FOUND, "not_found")):
        each.lambdas.Get(pb.GetLambdaRequest(name="half"), timeout=20)


def test_the_cluster_tells_its_status():
    status = json.loads(client().cluster.Status(pb.StatusRequest(), timeout=20).json)
    assert len(status["nodes"]) >= 1


# --- Health and reflection


def test_health_is_told_at_once_and_as_it_changes():
    each = client()
    serving = health_pb.HealthCheckResponse.SERVING
    for service in ("", "sluice.v1.Store", "sluice.v1.Cluster", "grpc.health.v1.Health"):
        assert each.health.Check(health_pb.HealthCheckRequest(service=service), timeout=10).status == serving, service
    with fails((CODE.NOT_FOUND, "not_found")):
        each.health.Check(health_pb.HealthCheckRequest(service="nothing"), timeout=10)
    watch = each.health.Watch(health_pb.HealthCheckRequest(), timeout=20)
    assert next(watch).status == serving
    watch.cancel()
    unknown = each.health.Watch(health_pb.HealthCheckRequest(service="nothing"), timeout=20)
    assert next(unknown).status == health_pb.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


class Generic:
    """A client that learns everything from reflection: services, messages, methods."""

    def __init__(self, channel, messages, stub):
        self.channel, self.messages, self.stub, self.pool = channel, messages, stub, descriptor_pool.DescriptorPool()
        self.files = set()

    def ask(self, *requests):
        return list(self.stub.ServerReflectionInfo(iter(self.messages.ServerReflectionRequest(**request) for request in requests), timeout=20))

    def services(self):
        return sorted(service.name for service in self.ask(dict(list_services="*"))[0].list_services_response.service)

    def learn(self, **what):
        answer = self.ask(what)[0]
        assert answer.HasField("file_descriptor_response"), answer
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name not in self.files:
                self.files.add(file.name)
                for needed in file.dependency:
                    self.learn(file_by_filename=needed)
                self.pool.Add(file)

    def call(self, service, method, request):
        """JSON in, JSON out; a list where the method streams."""
        self.learn(file_containing_symbol=service)
        about = self.pool.FindServiceByName(service).FindMethodByName(method)
        message = json_format.ParseDict(request, GetMessageClass(about.input_type)())
        kind = self.channel.unary_stream if about.server_streaming else self.channel.unary_unary
        answer = kind(f"/{service}/{method}", request_serializer=lambda m: m.SerializeToString(),
                      response_deserializer=GetMessageClass(about.output_type).FromString)(message, timeout=20)
        if about.server_streaming:
            return [json_format.MessageToDict(one) for one in answer]
        return json_format.MessageToDict(answer)


def check_generic(messages, make_stub):
    each = client()
    generic = Generic(each.channel, messages, make_stub(each.channel))
    assert generic.services() == ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
                                  "sluice.v1.Cluster", "sluice.v1.Lambdas", "sluice.v1.Store"]
    before = generic.call("sluice.v1.Store", "List", {"prefix": "generic/"}).get("objects", [])
    written = generic.call("sluice.v1.Store", "Put", {"key": f"generic/{len(before)}", "data": "bW9v", "contentType": "text/plain"})
    assert written["version"] == "1" and written["created"]
    assert generic.call("sluice.v1.Store", "Get", {"key": f"generic/{len(before)}"})["data"] == "bW9v"
    assert [one["version"] for one in generic.call("sluice.v1.Store", "History", {"key": f"generic/{len(before)}"})] == ["1"]
    assert generic.call("grpc.health.v1.Health", "Check", {}) == {"status": "SERVING"}
    for unknown in (dict(file_by_filename="none.proto"), dict(file_containing_symbol="sluice.v1.None"), dict(all_extension_numbers_of_type="x.y"),
                    dict(file_containing_extension=messages.ExtensionRequest(containing_type="sluice.v1.Object", extension_number=7))):
        answer = generic.ask(unknown)[0]
        assert answer.error_response.error_code == 5 and answer.error_response.error_message, answer
        assert answer.original_request == messages.ServerReflectionRequest(**unknown)
    many = generic.ask(*[dict(file_containing_symbol="sluice.v1.Store.Watch") for _ in range(200)])
    assert len(many) == 200 and all(one.HasField("file_descriptor_response") for one in many)


def test_a_client_that_knows_nothing_but_reflection_can_use_the_store():
    check_generic(reflect_pb, reflect_rpc.ServerReflectionStub)


def test_reflection_answers_under_its_later_name_too():
    check_generic(reflect1_pb, reflect1_rpc.ServerReflectionStub)


# --- Other gateways of the same cluster


@contextlib.contextmanager
def another_gateway(*options):
    """A second gateway process; yields it and its gRPC port."""
    client()
    http_port, grpc_port = free_ports(2)
    log = CLUSTER.directory / f"gateway-{grpc_port}.log"
    process = Process("another", [BUILD / "sluice-gateway", "--listen", f"127.0.0.1:{http_port}", "--grpc", f"127.0.0.1:{grpc_port}",
                                  "--nodes", ",".join(CLUSTER.addresses.values()), *options], log).start()
    try:
        yield process, grpc_port
    finally:
        process.kill(signal.SIGTERM)
        assert process.child.returncode == 0, log.read_text()[-2000:]


def certificate():
    """A certificate of this host's own, and its key."""
    paths = [CLUSTER.directory / name for name in ("certificate.pem", "key.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


def test_tls_and_tokens_shield_what_others_can_reach():
    client()
    tokens = CLUSTER.directory / "tokens.json"
    tokens.write_text(json.dumps({"tokens": [{"token": "farm-token-0123456789", "role": "write", "prefix": "farm", "subject": "farmer"}]}))
    public, key = certificate()
    with another_gateway("--tokens", tokens, "--tls-certificate", public, "--tls-key", key) as (_, port):
        credentials = grpc.ssl_channel_credentials(public.read_bytes())
        store = rpc.StoreStub(grpc.secure_channel(f"localhost:{port}", credentials))
        mine = [("authorization", "Bearer farm-token-0123456789")]
        written = store.Put(pb.PutRequest(key="farm/tls", data=b"moo"), metadata=mine, timeout=20, wait_for_ready=True)
        assert store.Get(pb.GetRequest(key="farm/tls"), metadata=mine, timeout=20).version == written.version
        with fails((CODE.UNAUTHENTICATED, "unauthenticated")):
            store.Get(pb.GetRequest(key="farm/tls"), timeout=20)
        with fails((CODE.PERMISSION_DENIED, "forbidden")):
            store.Put(pb.PutRequest(key="elsewhere", data=b"x"), metadata=mine, timeout=20)
        with fails((CODE.PERMISSION_DENIED, "forbidden")):
            next(store.Watch(pb.WatchRequest(glob="*/tls"), metadata=mine, timeout=20))
        with fails(CODE.UNAVAILABLE):
            rpc.StoreStub(grpc.insecure_channel(f"localhost:{port}")).Get(pb.GetRequest(key="farm/tls"), metadata=mine, timeout=5)


class Stalled:
    """Puts over bare HTTP/2 that announce 64 MiB, send as much as the server takes up to 40 MiB, and then nothing more."""

    def __init__(self, port, streams):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.buffer, self.window, self.initial = b"", 65535, 65535
        self.windows, self.sent = {1 + 2 * n: 65535 for n in range(streams)}, {1 + 2 * n: 0 for n in range(streams)}
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(4, 0, 0, b""))
        headers = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in [
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/sluice.v1.Store/Put"), (b":authority", b"x"), (b"te", b"trailers"),
            (b"content-type", b"application/grpc")])
        for stream in self.windows:
            self.socket.sendall(self.frame(1, 4, stream, headers))

    @staticmethod
    def frame(kind, flags, stream, payload):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def read(self):
        with contextlib.suppress(BlockingIOError):
            self.buffer += self.socket.recv(1 << 16, socket.MSG_DONTWAIT)
        while len(self.buffer) >= 9 and len(self.buffer) >= 9 + int.from_bytes(self.buffer[:3], "big"):
            end = 9 + int.from_bytes(self.buffer[:3], "big")
            kind, flags, stream, payload = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big"), self.buffer[9:end]
            self.buffer = self.buffer[end:]
            if kind == 4 and not flags & 1:
                for at in range(0, len(payload), 6):
                    if int.from_bytes(payload[at:at + 2], "big") == 4:
                        more = int.from_bytes(payload[at + 2:at + 6], "big") - self.initial
                        self.initial += more
                        self.windows = {each: window + more for each, window in self.windows.items()}
                self.socket.sendall(self.frame(4, 1, 0, b""))
            elif kind == 6 and not flags & 1:
                self.socket.sendall(self.frame(6, 1, 0, payload))
            elif kind == 8 and stream == 0:
                self.window += int.from_bytes(payload, "big")
            elif kind == 8 and stream in self.windows:
                self.windows[stream] += int.from_bytes(payload, "big")
            elif kind == 3:
                self.windows.pop(stream, None)

    def write(self):
        for stream in list(self.windows):
            size = min(16384, self.window, self.windows[stream], (40 << 20) - self.sent[stream])
            if size < 16:
                continue
            start = b"\0" + (64 << 20).to_bytes(4, "big") + b"\x12\x80\x80\x80\x1f" if self.sent[stream] == 0 else b""
            self.socket.sendall(self.frame(0, 0, stream, start + b"x" * (size - len(start))))
            self.window, self.windows[stream], self.sent[stream] = self.window - size, self.windows[stream] - size, self.sent[stream] + size

    def turn(self):
        self.read()
        self.write()
        return sum(self.sent.values())


def test_messages_that_stop_half_way_hold_no_more_memory_than_is_allowed():
    with another_gateway("--memory", "128M") as (process, port):
        other = Client(f"127.0.0.1:{port}")
        other.health.Check(health_pb.HealthCheckRequest(), timeout=20, wait_for_ready=True)

        def rss():
            return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{process.child.pid}/status").read_text()).group(1)) >> 10
        before, most, sent, still = rss(), 0, 0, 0
        attackers = [Stalled(port, 10) for _ in range(2)]
        while still < 20:
            now = sum(each.turn() for each in attackers)
            still = still + 1 if now == sent else 0
            sent, most = now, max(most, rss())
            if still:
                time.sleep(0.02)
        assert sent > 200 << 20, f"only {sent >> 20} MiB were sent"
        # A sanitizer keeps what was freed for a while, so it tells nothing here.
        assert most - before < 128 + 48 or BUILD.name == "asan", f"{most - before} MiB are held of {sent >> 20} MiB that were sent"

        def put():
            # A connection that was idle may have been closed to make room; the next one works.
            with contextlib.suppress(grpc.RpcError):
                return other.put("stalled/a", b"x" * (20 << 20)).size == 20 << 20
        Cluster.wait_for(put, 10, "nobody else got anything done")


def test_an_address_that_others_can_reach_wants_tokens_and_tls():
    client()
    for options, words in [([], "--tokens"), (["--grpc", "somewhere:1"], "HOST:PORT")]:
        http_port, grpc_port = free_ports(2)
        result = subprocess.run([BUILD / "sluice-gateway", "--listen", f"127.0.0.1:{http_port}", "--grpc", f"0.0.0.0:{grpc_port}",
                                 "--nodes", ",".join(CLUSTER.addresses.values()), *options], capture_output=True, text=True, timeout=20)
        assert result.returncode == 1 and words in result.stderr, result.stderr


def test_a_watch_moves_on_to_another_gateway_when_its_own_stops():
    each = client()
    with another_gateway() as (process, port):
        leaving = Client(f"127.0.0.1:{port}")
        leaving.health.Check(health_pb.HealthCheckRequest(), timeout=20, wait_for_ready=True)
        watch = Watching(leaving, prefix="move/", data=True)
        for n in range(5):
            each.put("move/a", str(n).encode())
        cursor = watch.wait(5)[-1].cursor
        began = time.monotonic()
        process.kill(signal.SIGTERM)
        assert time.monotonic() - began < 4
        watch.thread.join(10)
        assert watch.error.code() == CODE.UNAVAILABLE and "resume" in watch.error.details(), watch.error
    each.put("move/a", b"5")
    again = Watching(each, prefix="move/", data=True, **{"from": cursor})
    assert [change.object.data for change in again.wait(1)] == [b"5"]
    again.stop()


def test_a_gateway_that_stops_ends_every_call_that_is_under_way_and_leaves_cleanly():
    never = threading.Event()

    def half(message):
        yield message
        never.wait(30)

    with another_gateway() as (process, port):
        leaving = Client(f"127.0.0.1:{port}")
        leaving.health.Check(health_pb.HealthCheckRequest(), timeout=20, wait_for_ready=True)
        reflection = reflect_rpc.ServerReflectionStub(leaving.channel).ServerReflectionInfo(half(reflect_pb.ServerReflectionRequest(list_services="")))
        next(reflection)
        health = leaving.health.Watch(health_pb.HealthCheckRequest())
        next(health)
        waits = leaving.store.Get.future(pb.GetRequest(key="ends/a", at_ns=now_ns() + 3600 * 10**9), timeout=50)
        upload = leaving.lambdas.Upload.future(half(pb.UploadRequest(name="half", file=b"x" * 100_000)))
        time.sleep(0.5)
        began = time.monotonic()
        process.kill(signal.SIGTERM)
        assert time.monotonic() - began < 10 and process.child.returncode == 0
        for stream in (reflection, health):
            with fails(CODE.UNAVAILABLE):
                list(stream)
        assert upload.code() == CODE.UNAVAILABLE
        assert waits.code() in (CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED) and dict(waits.trailing_metadata()).get("sluice-code"), waits
        never.set()


def test_an_idle_gateway_with_open_connections_uses_no_cpu():
    with another_gateway() as (process, port):
        idle = [Client(f"127.0.0.1:{port}") for _ in range(10)]
        for each in idle:
            each.health.Check(health_pb.HealthCheckRequest(), timeout=20, wait_for_ready=True)

        def ticks():
            return sum(map(int, pathlib.Path(f"/proc/{process.child.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
        time.sleep(1)
        before = ticks()
        time.sleep(4)
        assert ticks() - before <= 4, f"{ticks() - before} hundredths of a second in four"


def test_the_gateway_counts_calls_by_method_and_code():
    each = client()

    def count(method, code):
        text = CLUSTER.http().call("GET", "/metrics").body.decode()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(f'sluice_grpc_calls_total{{method="{method}",code="{code}"}}'))
    before = count("sluice.v1.Store/Get", 5), count("other", 12)
    with fails(CODE.NOT_FOUND):
        each.get("counted/none")
    with fails(CODE.UNIMPLEMENTED):
        raw(each, "/sluice.v1.Store/Nothing", b"")
    assert (count("sluice.v1.Store/Get", 5), count("other", 12)) == (before[0] + 1, before[1] + 1)


def test_the_gateway_of_all_these_tests_ends_cleanly():
    client()
    CLUSTER.gateway.kill(signal.SIGTERM)
    assert CLUSTER.gateway.child.returncode == 0, pathlib.Path(CLUSTER.gateway.log).read_text()[-2000:]


def client_address():
    client()
    return os.environ.get("SLUICE_GRPC") or f"127.0.0.1:{CLUSTER.grpc_port}"


if __name__ == "__main__":
    try:
        run_tests(dict(globals()))
    finally:
        if CLUSTER is not None:
            CLUSTER.__exit__(None, None, None)
        STUBS.cleanup()
