"""The S3 store: the suite, and what only a server far away can do wrong."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from benchmarks.stores import peak_of_a_large_file
from pipeline.common.errors import StoreError, UsageError
from pipeline.stores import Draft, Sink, Store, open_store, s3_bucket
from pipeline.stores.s3_bucket import Bucket
from pipeline.stores.s3_errors import store_error
from pipeline.stores.s3_listing import take_objects
from tests.servers import RcloneS3, S3Server, free_port
from tests.stores.doors import S3Door
from tests.stores.suite import MIB, StoreSuite, random_bytes


@pytest.fixture
def destination(s3_environment: S3Server) -> Iterator[str]:
    """A prefix of its own in the server's bucket, empty again afterwards."""
    destination = s3_environment.destination()
    yield destination
    S3Door(s3_environment, destination).clear()


@pytest.fixture
def door(s3_environment: S3Server, destination: str) -> S3Door:
    return S3Door(s3_environment, destination)


@pytest.fixture
def store(destination: str) -> Store:
    return open_store(destination)


class TestS3Store(StoreSuite):
    @pytest.fixture
    def destination(self, s3_environment: S3Server) -> Iterator[str]:
        destination = s3_environment.destination()
        yield destination
        S3Door(s3_environment, destination).clear()

    @pytest.fixture
    def door(self, s3_environment: S3Server, destination: str) -> S3Door:
        return S3Door(s3_environment, destination)


@pytest.mark.parametrize("mib", [200, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_large_file_is_streamed_in_bounded_memory(destination: str, mib: int) -> None:
    # 32 MiB of parts, and what sending them takes; measured with `python -m benchmarks stores`.
    assert peak_of_a_large_file(destination, mib)["peak_mb"] < 70


def test_a_bucket_without_prefix(s3_environment: S3Server) -> None:
    store = open_store(f"s3://{s3_environment.bucket}")
    name = s3_environment.destination().rpartition("/")[2]
    store.write(f"{name}/a", b"1")
    assert [entry.name for entry in store.list(name)] == [f"{name}/a"]
    store.delete([f"{name}/a"])


def test_sweep_spares_what_may_be_anybodys(s3_environment: S3Server, destination: str, door: S3Door) -> None:
    draft = open_store(destination).draft()
    draft.sink("a").write(bytes(9 * MIB))
    open_store(f"s3://{s3_environment.bucket}").sweep(-60)
    assert door.leftovers() != []
    draft.discard()
    assert door.leftovers() == []


def test_sweep_spares_a_running_upload(store: Store, door: S3Door) -> None:
    draft = store.draft()
    data = random_bytes(9 * MIB)
    draft.sink("a").write(data)
    open_store(store.url).sweep()
    draft.commit()
    assert door.files() == {"a": data}


def test_folder_markers_are_not_files(store: Store, s3_environment: S3Server, door: S3Door) -> None:
    store.write("a/file", b"1")
    try:
        door.put("a/", b"")
    except ClientError:
        pytest.skip("this server has real folders, and no objects in their place")
    assert [entry.name for entry in store.list()] == ["a/file"]


def test_part_sizes_reach_terabytes() -> None:
    # The rule alone: 10,000 parts, 8 MiB first, twice as much after every 1,000.
    assert sum(8 * MIB << (number // 1000) for number in range(10_000)) > 5 * 2**40


def test_permissions_for_the_prefix_are_enough(
    store: Store, s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    call = getattr(BaseClient, "_make_api_call")  # noqa: B009 - the type stubs hide it

    def record(client: BaseClient, operation: str, arguments: dict[str, Any]) -> Any:
        calls.append((operation, arguments))
        return call(client, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", record)
    store.check_writable()
    draft = store.draft()
    draft.sink("big").write(bytes(9 * MIB))
    draft.add("small", b"1")
    draft.commit()
    store.write("a", store.read("small"))
    assert store.exists("a")
    store.sweep()
    store.delete(entry.name for entry in store.list())
    prefix = store.url.removeprefix(f"s3://{s3_environment.bucket}/") + "/"
    for operation, arguments in calls:
        keys = [each["Key"] for each in arguments.get("Delete", {}).get("Objects", [])]
        keys += [arguments[name] for name in ("Key", "Prefix") if name in arguments]
        assert keys, operation
        assert all(key.startswith(prefix) for key in keys), operation


# What goes wrong, in words.


def test_bucket_does_not_exist(s3_environment: S3Server) -> None:
    store = open_store("s3://noisemill-absent/data")
    with pytest.raises(StoreError, match=r"^s3://noisemill-absent/data at \S+: the bucket does not exist: create it"):
        store.check_writable()
    with pytest.raises(StoreError, match="the bucket does not exist"):
        store.read("job.json")
    with pytest.raises(StoreError, match="the bucket does not exist"):
        list(store.list())
    draft = store.draft()
    draft.add("a", b"1")
    with pytest.raises(StoreError, match="the bucket does not exist"):
        draft.commit()
    draft.discard()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "AAAAAAAAAAAAAAAAAAAA", "AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "wrong/secret", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_ENDPOINT_URL", "localhost:9000", "AWS_ENDPOINT_URL is not a URL"),
        ("AWS_PROFILE", "absent", "the AWS profile does not exist"),
    ],
)
def test_wrong_settings(
    destination: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    with monkeypatch.context() as settings:
        settings.setenv(variable, value)
        with pytest.raises(StoreError, match=words) as raised:
            open_store(destination).check_writable()
    assert value not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDenied", "access denied: the credentials need s3:PutObject"),
        ("403", "access denied"),
        ("PermanentRedirect", "AWS_DEFAULT_REGION"),
        ("ExpiredToken", "renew the AWS credentials"),
        ("RequestTimeTooSkewed", "clock"),
        ("SlowDown", "try again later"),
        ("XMinioStorageFull", "no space left"),
        ("Unheard", "the server responded with Unheard"),
    ],
)
def test_answers_in_words(code: str, words: str) -> None:
    answer = ClientError({"Error": {"Code": code, "Message": "for AKIAIOSFODNN7EXAMPLE"}}, "PutObject")
    message = str(store_error(answer, "s3://bucket/key", "https://user:password@host:9000/path"))
    assert message.startswith("s3://bucket/key at host:9000: ")
    assert words in message
    assert "AKIA" not in message


def test_no_credentials(destination: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(destination).check_writable()


def test_a_closed_port_is_reported_within_seconds(destination: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:password@127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(StoreError, match=f"at 127.0.0.1:{port}: cannot be reached") as raised:
        open_store(destination).check_writable()
    assert time.monotonic() - started < 60  # With botocore's own patience it would be minutes.
    assert "password" not in str(raised.value)


def test_no_message_holds_a_credential(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError) as raised:
        open_store("s3://noisemill-absent/data").check_writable()
    assert s3_environment.key not in str(raised.value)
    assert s3_environment.secret not in str(raised.value)


@pytest.fixture
def dying(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[RcloneS3]:
    """A server of its own for one test, which may stop it; requests are tried once."""
    monkeypatch.setattr(s3_bucket, "_ATTEMPTS", 1)
    monkeypatch.setattr(s3_bucket, "_PATIENCE_S", 0)
    with RcloneS3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def _finish(draft: Draft, sink: Sink, data: bytes) -> None:
    sink.write(data)
    draft.commit()


def _add_without_end(draft: Draft) -> None:
    for index in range(10_000):
        draft.add(f"{index}", b"1")
        time.sleep(0.001)


@pytest.mark.parametrize("size", [1, 20 * MIB])
def test_a_server_that_dies_fails_the_commit(dying: RcloneS3, size: int) -> None:
    draft = open_store(dying.destination()).draft()
    sink = draft.sink("a")
    sink.write(b"1")
    dying.stop()
    with pytest.raises(StoreError, match=r"cannot be reached|interrupted repeatedly"):
        _finish(draft, sink, bytes(size))
    draft.discard()
    draft.discard()


def test_a_failed_upload_surfaces_while_files_are_added(dying: RcloneS3) -> None:
    draft = open_store(dying.destination()).draft()
    draft.add("first", b"1")
    dying.stop()
    with pytest.raises(StoreError, match=r"cannot be reached|interrupted repeatedly"):
        _add_without_end(draft)
    draft.discard()


@pytest.mark.parametrize(
    ("endpoint", "signed"), [("http://127.0.0.1:9", True), ("https://127.0.0.1:9", False), ("", False)]
)
def test_bodies_are_signed_where_no_tls_protects_them(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, endpoint: str, signed: bool
) -> None:
    """Stopped before it is sent: what is looked at is the signature, for servers that are not there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    client = s3_bucket.Bucket("bucket").client
    sent: list[AWSPreparedRequest] = []

    def stop(request: AWSPreparedRequest, **_: object) -> None:
        sent.append(request)
        raise InterruptedError

    client.meta.events.register("before-send.s3.PutObject", stop)
    with pytest.raises(InterruptedError):
        client.put_object(Bucket="bucket", Key="key", Body=b"body")
    hashed = sent[0].headers["X-Amz-Content-SHA256"]
    assert hashed == (hashlib.sha256(b"body").hexdigest().encode() if signed else b"UNSIGNED-PAYLOAD")


# Bodies that break off.


class _BreakingOff(http.server.BaseHTTPRequestHandler):
    """Answers every GET with "whole body", the first few times only half of it."""

    body = b"whole body"
    halves = 0

    def do_GET(self) -> None:
        broken = type(self).halves > 0
        type(self).halves -= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[:5] if broken else self.body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def breaking(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_BreakingOff]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _BreakingOff) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield _BreakingOff
        server.shutdown()
        thread.join()


def test_a_body_that_breaks_off_is_fetched_again(breaking: type[_BreakingOff]) -> None:
    breaking.halves = 2
    assert open_store("s3://bucket/prefix").read("a") == b"whole body"


def test_bodies_that_always_break_off_fail(breaking: type[_BreakingOff], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stores.s3_bucket._PATIENCE_S", 1)
    breaking.halves = 1000
    with pytest.raises(StoreError, match=re.escape("s3://bucket/prefix/a at 127.0.0.1")):
        open_store("s3://bucket/prefix").read("a")


PAGE = """<?xml version="1.0" encoding="UTF-8"?><ListBucketResult{namespace}><Name>b</Name>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><Contents><Key>a+%26</Key><ETag>&quot;1f&quot;</ETag><Size>7</Size><Owner><ID>x</ID></Owner></Contents>
<Contents>{second}</Contents><NextContinuationToken>t</NextContinuationToken></ListBucketResult>"""


@pytest.mark.parametrize("namespace", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
def test_a_page_of_a_listing(namespace: str) -> None:
    response = {
        "status_code": 200,
        "body": PAGE.format(namespace=namespace, second="<Size>0</Size><Key>b&amp;c</Key><ETag>2</ETag>").encode(),
    }
    answer: dict[str, Any] = {}
    take_objects(response, answer)
    assert answer == {"Contents": [{"Key": "a &", "Size": 7, "ETag": '"1f"'}, {"Key": "b&c", "Size": 0, "ETag": "2"}]}
    rest = cast("bytes", response["body"])
    assert b"Contents" not in rest
    assert b"EncodingType" not in rest  # The keys are decoded; botocore must not do it again.
    assert b"NextContinuationToken" in rest


@pytest.mark.parametrize(
    ("status", "second"),
    [
        (500, "<Size>0</Size><Key>b</Key><ETag>2</ETag>"),
        (200, "<Size>0</Size><Key>b</Key>"),
        (200, "<Size>0</Size><ETag>2</ETag>"),
        (200, "<Key>b</Key><ETag>2</ETag>"),
        (200, "<Key>b</Key><Size>many</Size><ETag>2</ETag>"),
        (200, "<Size>0</Size><Key>b</Key><ETag>2</ETag></Contents><Other/><Contents>"),
        (200, "<Size>0</Size><Key>b</Key><ETag>2</ETag><!-- </Contents><Contents> -->"),
        (200, "<Size>0</Size><Key><![CDATA[b]]></Key><ETag>2</ETag>"),
        (200, "<Size>0</Size><Key>b</Key><Key>c</Key><ETag>2</ETag>"),
        (200, "<Key>b"),
    ],
)
def test_a_strange_page_of_a_listing_is_left_to_botocore(status: int, second: str) -> None:
    body = PAGE.format(namespace="", second=second).encode()
    response, answer = {"status_code": status, "body": body}, dict[str, Any]()
    take_objects(response, answer)
    assert (response["body"], answer) == (body, {})


def test_a_page_in_another_encoding_is_left_to_botocore() -> None:
    text = PAGE.format(namespace="", second="<Size>0</Size><Key>é</Key><ETag>2</ETag>")
    body = text.replace("UTF-8", "ISO-8859-1").encode("latin-1")
    response, answer = {"status_code": 200, "body": body}, dict[str, Any]()
    take_objects(response, answer)
    assert (response["body"], answer) == (body, {})


# -- what stores and users ask for ------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that clients made from now on send."""
    requests: list[Any] = []
    make = s3_bucket._client_of

    def recording(*arguments: Any, **options: Any) -> Any:
        client = make(*arguments, **options)
        client.meta.events.register("before-send.s3", lambda request, **_: requests.append(request))
        return client

    monkeypatch.setattr(s3_bucket, "_client_of", recording)
    return requests


def test_several_objects_are_deleted_with_content_md5(destination: str, sent: list[Any]) -> None:
    store = open_store(destination)
    for name in ("a", "b"):
        store.write(name, b"x")
    store.delete(["a", "b"])
    assert list(store.list("")) == []
    [request] = [request for request in sent if request.method == "POST"]
    assert request.headers["Content-MD5"] == b64encode(hashlib.md5(request.body, usedforsecurity=False).digest())


def test_the_users_own_configuration_comes_first(
    s3_environment: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours: Any = Bucket("bucket").client.meta.config
    assert ours.s3["addressing_style"] == "path"
    assert ours.request_checksum_calculation == "when_required"
    config = tmp_path / "config"
    config.write_text("[default]\nresponse_checksum_validation = when_supported\ns3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    theirs: Any = Bucket("bucket").client.meta.config
    assert theirs.s3["addressing_style"] == "virtual"
    assert theirs.request_checksum_calculation == "when_supported"
    assert theirs.response_checksum_validation == "when_supported"


def test_each_object_asks_for_encryption(destination: str, sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEMILL_SSE", "aws:kms")
    monkeypatch.setenv("NOISEMILL_SSE_KMS_KEY", "alias/ours")
    store = open_store(destination)
    store.check_writable()
    store.write("small", b"x")
    store.write("large", bytes(20 * 2**20))
    begun = [request for request in sent if request.method == "PUT" and "partNumber" not in request.url]
    begun += [request for request in sent if request.method == "POST" and request.url.endswith("?uploads")]
    assert len(begun) == 3
    for request in begun:
        assert request.headers["x-amz-server-side-encryption"] in (b"aws:kms", "aws:kms")
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] in (b"alias/ours", "alias/ours")


def test_an_encryption_that_s3_does_not_have(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEMILL_SSE", "rot13")
    with pytest.raises(UsageError, match="NOISEMILL_SSE='rot13' is not one of AES256, aws:kms, aws:kms:dsse"):
        Bucket("bucket")


def test_a_large_file_goes_up_in_parts(destination: str, sent: list[Any]) -> None:
    store, data = open_store(destination), os.urandom(40 * 2**20)
    store.write("latents.npy", data)
    assert store.read("latents.npy") == data
    assert max(int(request.headers.get("Content-Length", 0)) for request in sent) <= 16 * 2**20
    store.write("latents.npy", b"short")
    assert store.read("latents.npy") == b"short"
