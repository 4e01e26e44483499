#!/usr/bin/python3
"""Drives every operation and response of openapi.yaml against a running gateway with libcurl.

Fails where an operation or response of the document was not seen, where the gateway answers something that the document does not have, and where a body does not fit its schema."""

import contextlib
import io
import json
import os
import pathlib
import re
import socket
import sys
import time

import jsonschema
import pycurl
import yaml

from harness import BUILD, ROOT, Cluster, Process, free_ports

DOCUMENT = yaml.safe_load((ROOT / "openapi.yaml").read_text())
# What a healthy node cannot be made to answer; the unit tests of the gateway provoke each of them with a store in memory.
ELSEWHERE = {410, 429, 503, 504, 507}
PROVOKED_IN = ROOT / "tests/unit/gateway/test_http_errors.c"
# These can't be reached in this release, where no pool dispatches only.
UNREACHABLE = {("putObject", 405), ("deleteObject", 405), ("batch", 405)}
seen, problems, count = set(), [], 0


def resolve(node):
    while isinstance(node, dict) and "$ref" in node:
        target = DOCUMENT
        for part in node["$ref"].lstrip("#/").split("/"):
            target = target[part.replace("~1", "/")]
        node = target
    return node


def operation_of(method, path):
    best = None
    for template, item in DOCUMENT["paths"].items():
        pattern = re.sub(r"\{key\}|\{prefix\}", ".+", re.sub(r"\{name\}|\{id\}", "[^/]+", template))
        if method.lower() in item and re.fullmatch(pattern, path) and (best is None or len(template) > len(best[0])):
            best = (template, item[method.lower()])
    return best


def check(operation, status, headers, body, what):
    document = resolve(operation["responses"].get(str(status)))
    if document is None:
        problems.append(f"{what}: answered {status}, which openapi.yaml does not have")
        return
    for name, header in (document.get("headers") or {}).items():
        if resolve(header).get("required") and name.lower() not in headers:
            problems.append(f"{what}: {status} without the header {name}")
    content = document.get("content") or {}
    kind = headers.get("content-type", "").split(";")[0]
    if body and content and kind not in content and "*/*" not in content:
        problems.append(f"{what}: {status} came as {kind}, documented are {list(content)}")
    schema = (content.get(kind) or {}).get("schema")
    if body and schema and kind.endswith("json"):
        try:
            jsonschema.validate(json.loads(body), {**schema, "components": DOCUMENT["components"]})
        except jsonschema.ValidationError as error:
            problems.append(f"{what}: the body does not fit its schema: {error.message[:200]} at {list(error.absolute_path)}")


def call(port, method, path, expected, body=None, headers=(), form=None, seconds=10, stream=False):
    """One request through libcurl; a stream is cut off after its first bytes."""
    global count
    handle, out, lines = pycurl.Curl(), io.BytesIO(), []
    handle.setopt(pycurl.URL, f"http://127.0.0.1:{port}{path}")
    handle.setopt(pycurl.CUSTOMREQUEST, method)
    handle.setopt(pycurl.TIMEOUT_MS, int((1.5 if stream else seconds) * 1000))
    handle.setopt(pycurl.PATH_AS_IS, 1)
    handle.setopt(pycurl.NOBODY, method == "HEAD")
    handle.setopt(pycurl.HEADERFUNCTION, lambda line: lines.append(line.decode("latin-1")))
    handle.setopt(pycurl.WRITEFUNCTION, out.write)
    if form is not None:
        handle.setopt(pycurl.HTTPPOST, form)
    elif body is not None:
        handle.setopt(pycurl.POSTFIELDS, body)
    if form is None:
        handle.setopt(pycurl.HTTPHEADER, ["Expect:", *([] if any(h.lower().startswith("content-type") for h in headers) else ["Content-Type:"]), *headers])
    else:
        handle.setopt(pycurl.HTTPHEADER, ["Expect:", *headers])
    try:
        handle.perform()
    except pycurl.error as error:
        if not (stream and error.args[0] == pycurl.E_OPERATION_TIMEDOUT):
            problems.append(f"{method} {path}: {error.args[1]}")
            return 0, {}, b""
    status = handle.getinfo(pycurl.RESPONSE_CODE)
    received = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines if ":" in line)}
    handle.close()
    count += 1
    what = f"{method} {path.split('?')[0][:60]}"
    found = operation_of(method, path.split("?")[0])
    if found is None:
        problems.append(f"{what}: openapi.yaml has no such operation")
        return status, received, out.getvalue()
    seen.add((found[1]["operationId"], status))
    if status != expected:
        problems.append(f"{what}: {expected} was expected, came {status}: {out.getvalue()[:200]}")
    check(found[1], status, received, b"" if method == "HEAD" or stream else out.getvalue(), what)
    return status, received, out.getvalue()


JSON = ("Content-Type: application/json",)


def objects(port):
    key = "/v1/objects/farm/cow"
    call(port, "PUT", key, 201, b"one", ("Content-Type: text/plain", "Idempotency-Key: k1"))
    call(port, "PUT", key, 422, b"other", ("Idempotency-Key: k1",))
    call(port, "PUT", key, 200, b"two and more")
    call(port, "PUT", key, 412, b"x", ('If-Match: "7"',))
    call(port, "PUT", key + "?ack=sometime", 400, b"x")
    call(port, "PUT", key, 413, headers=("Content-Length: 99999999999",), seconds=3)
    call(port, "GET", key, 200)
    call(port, "GET", key, 206, headers=("Range: bytes=0-2",))
    call(port, "GET", key, 416, headers=("Range: bytes=900-",))
    call(port, "GET", key, 304, headers=('If-None-Match: "2"',))
    call(port, "GET", key, 412, headers=('If-Match: "1"',))
    call(port, "GET", key + "?version=x", 400)
    call(port, "GET", "/v1/objects/farm/none", 404)
    call(port, "HEAD", key, 200)
    call(port, "HEAD", key, 304, headers=('If-None-Match: "2"',))
    call(port, "HEAD", key, 412, headers=('If-Match: "1"',))
    call(port, "HEAD", key + "?version=x", 400)
    call(port, "HEAD", "/v1/objects/farm/none", 404)
    call(port, "GET", "/v1/objects?prefix=farm/&delimiter=/", 200)
    call(port, "GET", "/v1/objects?limit=x", 400)
    call(port, "GET", "/v1/history/farm/cow", 200)
    call(port, "GET", "/v1/history/farm/cow?order=sideways", 400)
    call(port, "GET", "/v1/history/farm/none", 404)
    call(port, "DELETE", key, 412, headers=('If-Match: "1"',))
    call(port, "DELETE", key + "?nonsense=1", 400)
    call(port, "DELETE", key, 200, headers=("Idempotency-Key: k2",))
    call(port, "PUT", "/v1/objects/farm/twice", 201, b"1")
    call(port, "DELETE", "/v1/objects/farm/twice", 200, headers=("Idempotency-Key: k3",))
    call(port, "PUT", "/v1/objects/farm/twice", 201, b"2")
    call(port, "DELETE", "/v1/objects/farm/twice", 422, headers=("Idempotency-Key: k3", 'If-Match: "3"'))
    call(port, "DELETE", "/v1/objects/farm/none", 404)


def many(port):
    call(port, "POST", "/v1/snapshot", 200, b'{"keys":["farm/cow","farm/none"],"prefixes":["farm/"]}', JSON)
    call(port, "POST", "/v1/snapshot", 400, b'{"keys":7}', JSON)
    call(port, "POST", "/v1/snapshot", 415, b"keys", ("Content-Type: text/plain",))
    call(port, "POST", "/v1/snapshot", 413, headers=(*JSON, "Content-Length: 99999999999"), seconds=3)
    put = '{"operations":[{"op":"put","key":"b/1","data":"YQ=="}]}'.encode()
    call(port, "POST", "/v1/batch", 200, put, (*JSON, "Idempotency-Key: b1"))
    call(port, "POST", "/v1/batch", 422, put.replace(b"YQ==", b"Yg=="), (*JSON, "Idempotency-Key: b1"))
    call(port, "POST", "/v1/batch", 400, b'{"operations":[]}', JSON)
    call(port, "POST", "/v1/batch", 404, b'{"operations":[{"op":"delete","key":"b/none"}]}', JSON)
    call(port, "POST", "/v1/batch", 412, b'{"operations":[{"op":"put","key":"b/1","data":"YQ==","if_match":9}]}', JSON)
    call(port, "POST", "/v1/batch", 409, json.dumps({"operations": [{"op": "put", "key": f"s/{n}", "data": "YQ=="} for n in range(20)]}).encode(), JSON)
    call(port, "POST", "/v1/batch", 415, put, ("Content-Type: text/plain",))
    call(port, "POST", "/v1/batch", 413, headers=(*JSON, "Content-Length: 99999999999"), seconds=3)
    call(port, "GET", "/v1/watch?prefix=farm/", 200, stream=True)
    call(port, "GET", "/v1/watch?regex=(", 400)


def pools(port):
    call(port, "GET", "/v1/pools", 200)
    call(port, "GET", "/v1/pools?x=1", 400)
    call(port, "GET", "/v1/pools/%2F", 200)
    call(port, "GET", "/v1/pools/none", 404)
    call(port, "GET", "/v1/pools/%2F?x=1", 400)
    call(port, "PUT", "/v1/pools/fast", 200, b'{"kind":"volatile","shards":2}', JSON)
    call(port, "PUT", "/v1/pools/fast", 409, b'{"kind":"persistent"}', JSON)
    call(port, "PUT", "/v1/pools/bad", 400, b'{"kind":"gas"}', JSON)
    call(port, "PUT", "/v1/pools/bad", 415, b"{}", ("Content-Type: text/plain",))
    call(port, "PUT", "/v1/pools/bad", 413, headers=(*JSON, "Content-Length: 99999999999"), seconds=3)
    call(port, "PUT", "/v1/objects/fast/x", 201, b"x")
    call(port, "DELETE", "/v1/pools/fast", 409)
    call(port, "DELETE", "/v1/pools/fast?force=perhaps", 400)
    call(port, "DELETE", "/v1/pools/fast?force=true", 200)
    call(port, "DELETE", "/v1/pools/none", 404)


def lambdas(port):
    hello = str(BUILD / "lambdas/hello.so")
    call(port, "POST", "/v1/lambdas", 201, form=[("file", (pycurl.FORM_FILE, hello)), ("manifest", '{"name":"hello"}')], seconds=30)
    call(port, "POST", "/v1/lambdas?name=text", 422, b"#!/bin/sh\necho\n", ("Content-Type: application/octet-stream",), seconds=30)
    call(port, "POST", "/v1/lambdas", 400, form=[("manifest", '{"name":7}')])
    call(port, "POST", "/v1/lambdas", 415, b"<x/>", ("Content-Type: application/xml",))
    call(port, "POST", "/v1/lambdas?name=big", 413, headers=("Content-Type: application/octet-stream", "Content-Length: 99999999999"), seconds=3)
    call(port, "GET", "/v1/lambdas", 200)
    call(port, "GET", "/v1/lambdas?x=1", 400)
    call(port, "GET", "/v1/lambdas/hello", 200)
    call(port, "GET", "/v1/lambdas/hello?x=1", 400)
    call(port, "GET", "/v1/lambdas/none", 404)
    for action in ("disable", "enable"):
        call(port, "POST", f"/v1/lambdas/hello/{action}", 200)
        call(port, "POST", f"/v1/lambdas/hello/{action}?x=1", 400)
        call(port, "POST", f"/v1/lambdas/none/{action}", 404)
    call(port, "GET", "/v1/lambdas/hello/log", 200, stream=True)
    call(port, "GET", "/v1/lambdas/hello/log?x=1", 400)
    call(port, "GET", "/v1/lambdas/none/log", 404)
    call(port, "DELETE", "/v1/lambdas/hello?x=1", 400)
    call(port, "DELETE", "/v1/lambdas/hello", 200)
    call(port, "DELETE", "/v1/lambdas/none", 404)


def members(port):
    """A cluster of one node, to which others are declared that never come."""
    call(port, "POST", "/v1/cluster/nodes", 201, b'{"id":2,"addresses":["tcp:127.0.0.1:1"]}', JSON)
    call(port, "POST", "/v1/cluster/nodes", 201, b"{}", JSON)
    call(port, "POST", "/v1/cluster/nodes", 409, b'{"id":1}', JSON)
    for bad in (b'{"id":64}', b'{"id":"2"}', b'{"addresses":["here"]}', b'{"addresses":{}}', b'{"node":2}', b"[]", b"{"):
        call(port, "POST", "/v1/cluster/nodes", 400, bad, JSON)
    call(port, "POST", "/v1/cluster/nodes/3/replace", 200, b"{}", JSON)
    call(port, "POST", "/v1/cluster/nodes/9/replace", 404, b"{}", JSON)
    call(port, "POST", "/v1/cluster/nodes/2/replace", 409, b'{"with":2}', JSON)
    call(port, "POST", "/v1/cluster/nodes/2/replace", 400, b'{"by":2}', JSON)
    call(port, "POST", "/v1/cluster/nodes/x/replace", 400, b"{}", JSON)
    for node in (2, 4):
        call(port, "DELETE", f"/v1/cluster/nodes/{node}", 200)
    call(port, "DELETE", "/v1/cluster/nodes/4", 200)  # it has gone: asking again is no mistake
    call(port, "DELETE", "/v1/cluster/nodes/9", 404)
    call(port, "DELETE", "/v1/cluster/nodes/1", 409)
    call(port, "DELETE", "/v1/cluster/nodes/64", 400)
    call(port, "DELETE", "/v1/cluster/nodes/2?force=perhaps", 400)
    call(port, "POST", "/v1/cluster/transfer", 200, b'{"shard":1,"to":1}', JSON)
    call(port, "POST", "/v1/cluster/transfer", 404, b'{"shard":99999}', JSON)
    call(port, "POST", "/v1/cluster/transfer", 404, b'{"to":9}', JSON)
    for bad in (b"{}", b'{"shard":-1}', b'{"to":0}', b"7"):
        call(port, "POST", "/v1/cluster/transfer", 400, bad, JSON)
    for path in ("nodes", "nodes/1/replace", "transfer"):
        call(port, "POST", f"/v1/cluster/{path}", 413, headers=(*JSON, "Content-Length: 99999999999"), seconds=3)
        call(port, "POST", f"/v1/cluster/{path}", 415, b"<x/>", ("Content-Type: application/xml",))


def service(port):
    call(port, "GET", "/v1/cluster", 200)
    call(port, "GET", "/v1/cluster?x=1", 400)
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.yaml"):
        status, _, body = call(port, "GET", path, 200)
        call(port, "GET", path + "?x=1", 400)
        if path == "/openapi.yaml" and body != (ROOT / "openapi.yaml").read_bytes():
            problems.append("the gateway serves another openapi.yaml than the tree holds")


def refusals(port, foreign):
    """Every operation without a token, with a foreign origin, and with a token that may not."""
    for template, item in DOCUMENT["paths"].items():
        path = template.replace("{key}", "farm/cow").replace("{prefix}", "fast").replace("{name}", "hello").replace("{id}", "2")
        path += "?prefix=farm/" if template == "/v1/watch" else ""
        for method, operation in item.items():
            if method not in ("get", "head", "put", "delete", "post"):
                continue
            if "401" in operation["responses"]:
                call(port, method.upper(), path, 401, b"{}" if method in ("put", "post") else None, JSON if method in ("put", "post") else ())
            call(foreign, method.upper(), path, 403, b"{}" if method in ("put", "post") else None, ("Origin: http://evil.example", *(JSON if method in ("put", "post") else ())))


@contextlib.contextmanager
def guarded(cluster):
    """A second gateway of the same cluster that asks for tokens."""
    port, grpc = free_ports(2)
    tokens = cluster.directory / "tokens.json"
    tokens.write_text(json.dumps({"tokens": [{"token": "reader-token-0123456789", "role": "read", "prefix": "farm/", "subject": "reader"}]}))
    os.chmod(tokens, 0o600)
    process = Process("guarded", [BUILD / "sluice-gateway", "--listen", f"127.0.0.1:{port}", "--grpc", f"127.0.0.1:{grpc}", "--nodes", ",".join(cluster.addresses.values()),
                                  "--tokens", tokens], cluster.directory / "guarded.log").start()
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.kill()


def missing():
    provoked = PROVOKED_IN.read_text()
    for template, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method not in ("get", "head", "put", "delete", "post"):
                continue
            for status in map(int, operation["responses"]):
                known = (operation["operationId"], status)
                if known in seen or known in UNREACHABLE:
                    continue
                if status not in ELSEWHERE:
                    problems.append(f"{method.upper()} {template}: the documented {status} was not seen")
                elif str(status) not in provoked:
                    problems.append(f"{PROVOKED_IN.name} does not provoke {status}")


def main():
    with Cluster(nodes=1) as cluster:
        for part in (objects, many, pools, lambdas, members, service):
            part(cluster.http_port)
        with guarded(cluster) as port:
            refusals(port, cluster.http_port)
    missing()
    for problem in problems:
        print("FAIL ", problem)
    print(f"{count - len(problems) if count > len(problems) else 0} passed, {len(problems)} failed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
