"""One bucket: its client, and single requests with clear errors."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError

from pipeline.common.adaptive_map import adaptive_map
from pipeline.common.errors import StoreError, StoreUnavailableError, UsageError, shown
from pipeline.common.settings import Settings, load_settings
from pipeline.common.version import VERSION
from pipeline.stores.s3_errors import error_code, store_error
from pipeline.stores.s3_listing import read_listings_quickly

if TYPE_CHECKING:
    from datetime import datetime

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

#: Attempts by botocore, with pauses of at most 2 s in all: its "standard" mode, which also limits retries by a quota,
#: is meant for callers that wait.
_ATTEMPTS = 4
#: How long a request with a temporary failure is repeated after that, seconds.
_PATIENCE_S = 30.0
_LONGEST_PAUSE_S = 8.0
_CONNECT_TIMEOUT_S = 5
#: A server that sends nothing for this long counts as stuck, seconds; with all attempts this takes two minutes.
_READ_TIMEOUT_S = 30
_CONNECTIONS = 32

#: Threads that list one prefix.
_LISTERS = 16

#: Most keys that one request may delete.
_DELETE_BATCH = 1000

#: Most bytes per request when reading in pieces.
_PIECE_BYTES = 8 * 2**20

#: botocore's checksum settings, which the user can set in the configuration or as AWS_... variables.
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")

#: Kinds of encryption at rest that a request can specify.
_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")

_ABSENT = ("404", "NoSuchKey")
# rclone returns NoSuchUpload if there are none.
_CANNOT_LIST = ("NoSuchUpload", "403", "501", "AccessDenied", "MethodNotAllowed", "NotImplemented")

#: Error codes if a condition does not hold, or conditions are not supported.
_CONDITION_FAILED = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
_KNOWS_NO_CONDITION = ("501", "NotImplemented")
#: Endpoint -> whether the server supports conditions.
_SUPPORTS_CONDITIONS: dict[str, bool] = {}
#: If it does not: pause after writing an object before it is checked again, seconds.
_SECOND_CHECK_S = 0.5

Result = TypeVar("Result")
#: Key, length in bytes, ETag.
Object = tuple[str, int, str]


class Bucket:
    """Requests to one bucket. May be used by several threads, not across a fork.

    Endpoint, credentials and region come from boto3's own environment and files.
    Raises StoreError if these cannot be used.
    """

    def __init__(self, name: str, *, attempts: int | None = None) -> None:
        self.name = name
        self._endpoint = ""
        with self.translate_errors(""):
            self.client = _client(attempts or _ATTEMPTS)
        self._endpoint = self.client.meta.endpoint_url
        #: Arguments of each request that creates an object.
        self.encryption = _encryption(load_settings())

    @contextmanager
    def translate_errors(self, key: str) -> Iterator[None]:
        """Turns boto3's errors into a StoreError about `key`."""
        try:
            yield
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            raise store_error(error, f"s3://{self.name}/{key}", self._endpoint) from error

    def put(self, key: str, data: bytes | bytearray) -> None:
        """Writes a whole object."""
        self._request(
            key, lambda: self.client.put_object(Bucket=self.name, Key=key, Body=_body(data), **self.encryption)
        )

    def replace(self, key: str, data: bytes, *, before: bytes | None) -> bool:
        """Writes a small object if it is `before` (None: if there is none); returns whether it did.

        If the server ignores conditions, a second check some time later shows whether another writer was faster.
        """

        def fetch() -> tuple[dict[str, Any], bytes | None]:
            answer = self.client.get_object(Bucket=self.name, Key=key)
            return {"IfMatch": answer["ETag"]}, answer["Body"].read()

        try:
            condition, present = self._request(key, fetch)
        except FileNotFoundError:
            condition, present = {"IfNoneMatch": "*"}, None
        if present != before:
            return False
        # If refused, it may be written all the same: a repeated request fails because its first attempt succeeded.
        self._put_if(key, data, condition)
        if before != data and not self.supports_conditions(key, data):
            time.sleep(_SECOND_CHECK_S)
        try:
            return self.get(key) == data
        except FileNotFoundError:
            return False

    def supports_conditions(self, key: str, data: bytes) -> bool:
        """Whether the server supports `If-None-Match`: tested once, by writing an object that exists."""
        if self._endpoint not in _SUPPORTS_CONDITIONS:
            _SUPPORTS_CONDITIONS[self._endpoint] = not self._put_if(key, data, {"IfNoneMatch": "*"})
        return _SUPPORTS_CONDITIONS[self._endpoint]

    def _put_if(self, key: str, data: bytes, condition: dict[str, Any]) -> bool:
        """Puts an object on a condition; False if the condition does not hold."""

        def put(**extra: Any) -> bool:
            try:
                self.client.put_object(Bucket=self.name, Key=key, Body=data, **extra, **self.encryption)
            except ClientError as error:
                if error_code(error) in _CONDITION_FAILED:
                    return False
                if extra and error_code(error) in _KNOWS_NO_CONDITION:
                    return put()
                raise
            return True

        return self._request(key, lambda: put(**condition))

    def age_s(self, key: str) -> float | None:
        """Seconds since an object was last written, by the server's clock; None if there is none."""
        try:
            answer = self._request(key, lambda: self.client.head_object(Bucket=self.name, Key=key))
        except FileNotFoundError:
            return None
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(date).timestamp() if date else time.time()
        return max(0.0, now - answer["LastModified"].timestamp())

    def get(self, key: str, first: int = 0, stop: int | None = None, *, most_bytes: int | None = None) -> bytes:
        """The object, or its bytes `first` to `stop - 1`, which must exist, or its first `most_bytes`.

        Raises FileNotFoundError if it is absent.
        """
        extra: dict[str, Any] = {} if stop is None else {"Range": f"bytes={first}-{stop - 1}"}

        def fetch() -> bytes:
            answer = self.client.get_object(Bucket=self.name, Key=key, **extra)
            if most_bytes is None or answer["ContentLength"] <= most_bytes:
                return answer["Body"].read()
            with closing(answer["Body"]) as body:  # Unread data must not stay in the connection.
                return body.read(most_bytes)

        data = self._request(key, fetch)
        if stop is not None and len(data) != stop - first:
            raise self._unreliable(key, f"it sent {len(data)} bytes instead of {stop - first}")
        return data

    def size_bytes(self, key: str) -> int:
        """Length of the object. Raises FileNotFoundError if it is absent."""
        return self._request(key, lambda: self.client.head_object(Bucket=self.name, Key=key))["ContentLength"]

    def confirm(self, key: str, size_bytes: int) -> None:
        """Raises StoreUnavailableError unless the server has the object with this length."""
        try:
            found = self.size_bytes(key)
        except FileNotFoundError:
            raise self._unreliable(key, "it reported the object as stored, but does not have it") from None
        if found != size_bytes:
            raise self._unreliable(key, f"it was sent {size_bytes} bytes, but reports {found}")

    def holds(self, key: str, size_bytes: int, sha256: str) -> bool:
        """Whether the object exists with this content: reads it."""
        try:
            if self.size_bytes(key) != size_bytes:
                return False
            hashed = hashlib.sha256()
            for first in range(0, size_bytes, _PIECE_BYTES):
                hashed.update(self.get(key, first, min(size_bytes, first + _PIECE_BYTES)))
        except FileNotFoundError:
            return False
        return hashed.hexdigest() == sha256

    def objects(self, prefix: str, divided_at: Sequence[str] = ()) -> Iterator[Object]:
        """Keys that begin with `prefix`, lengths and ETags of their objects, sorted by key.

        A page has 1,000 and says where the next one begins; so parts, divided at keys in order, are listed side by side
        if the server is slow or far away.
        """
        if not divided_at:
            return self._objects_between(prefix, "", "")
        return self._objects_in_parts(prefix, list(pairwise(["", *divided_at, ""])))

    def _objects_in_parts(self, prefix: str, parts: Sequence[tuple[str, str]]) -> Iterator[Object]:
        for found in adaptive_map(lambda part: list(self._objects_between(prefix, *part)), parts, _LISTERS):
            yield from found

    def _objects_between(self, prefix: str, after: str, last: str) -> Iterator[Object]:
        """The objects after one key, up to and with another, where these are not empty."""
        following: dict[str, Any] = {"StartAfter": after} if after else {}
        while True:
            page = self._request(
                prefix,
                lambda: self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, **following),  # noqa: B023
            )
            for each in page.get("Contents", []):
                if last and each["Key"] > last:
                    return
                if each["Key"] > after:  # A server may ignore where to start.
                    yield each["Key"], each["Size"], each.get("ETag", "")
            if not page.get("IsTruncated"):
                return
            following = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects, 1,000 per request; absent ones are not an error."""
        remaining = iter(keys)
        while batch := list(islice(remaining, _DELETE_BATCH)):
            with self.translate_errors(batch[0]):
                answer = self.client.delete_objects(
                    Bucket=self.name, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            for failed in answer.get("Errors", []):
                error = ClientError({"Error": {"Code": failed.get("Code", "")}}, "DeleteObjects")
                raise store_error(error, f"s3://{self.name}/{failed.get('Key')}", self._endpoint)

    def begin_upload(self, key: str) -> str:
        """Begins a multipart upload; returns its id."""
        return self._request(
            key, lambda: self.client.create_multipart_upload(Bucket=self.name, Key=key, **self.encryption)
        )["UploadId"]

    def put_part(self, key: str, upload_id: str, number: int, data: bytes | bytearray) -> str:
        """Uploads part `number`, from 1; returns its tag."""
        answer = self._request(
            key,
            lambda: self.client.upload_part(
                Bucket=self.name, Key=key, UploadId=upload_id, PartNumber=number, Body=_body(data)
            ),
        )
        return answer["ETag"]

    def complete_upload(self, key: str, upload_id: str, tags: dict[int, str]) -> None:
        """Completes an upload from its parts, given as number -> tag.

        After a StoreUnavailableError the object may exist all the same: the response was lost, or the request was
        repeated after the server had completed and forgotten the upload.
        """
        parts: list[CompletedPartTypeDef] = [{"PartNumber": number, "ETag": tags[number]} for number in sorted(tags)]
        self._request(
            key,
            lambda: self.client.complete_multipart_upload(
                Bucket=self.name, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            ),
        )

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drops a multipart upload and its parts; not an error if it is gone already."""
        with self.translate_errors(key), _ignoring(("NoSuchUpload",)):
            self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id)

    def abandoned_uploads(self, prefix: str, before: datetime) -> Iterator[tuple[str, str]]:
        """Key and id of multipart uploads to which nothing has been added since `before`.

        Yields nothing if the server cannot list uploads or denies it.
        """
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=prefix)
        with self.translate_errors(prefix), _ignoring(_CANNOT_LIST):
            uploads = [each for page in pages for each in page.get("Uploads", [])]
            for upload in uploads:
                key, upload_id = upload["Key"], upload["UploadId"]
                if max([upload["Initiated"], *self._part_times(key, upload_id)]) < before:
                    yield key, upload_id

    def _request(self, key: str, request: Callable[[], Result]) -> Result:
        """Carries out a request with clear errors; repeats it after a temporary failure."""
        deadline = time.monotonic() + _PATIENCE_S
        pause_s = 0.5
        while True:
            try:
                with self.translate_errors(key), _missing_as_not_found(key):
                    return request()
            except StoreUnavailableError as error:
                if time.monotonic() + pause_s > deadline or _is_final(error):
                    raise
            # Many threads fail at once; random pauses spread their retries.
            time.sleep(random.uniform(0.5, 1) * pause_s)  # noqa: S311
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _unreliable(self, key: str, what: str) -> StoreUnavailableError:
        return StoreUnavailableError(f"s3://{self.name}/{key}: the server cannot be relied on: {what}")

    def _part_times(self, key: str, upload_id: str) -> Iterator[datetime]:
        pages = self.client.get_paginator("list_parts").paginate(Bucket=self.name, Key=key, UploadId=upload_id)
        with _ignoring(("NoSuchUpload",)):
            yield from (part["LastModified"] for page in pages for part in page.get("Parts", []))


class ObjectReader(io.RawIOBase):
    """An object as a seekable file, read by ranged requests."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self._size_bytes = bucket.size_bytes(key)
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves; costs no request."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def readall(self) -> bytes:
        """The rest, in requests of 8 MiB; the inherited method would read 8 KiB at a time."""
        data = bytearray(max(0, self._size_bytes - self._position))
        view = memoryview(data)
        filled = 0
        while read := self.readinto(view[filled:]):
            filled += read
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        """Reads up to 8 MiB with one request; 0 at the end."""
        stop = min(self._size_bytes, self._position + min(len(buffer), _PIECE_BYTES))
        if stop <= self._position:
            return 0
        data = self._bucket.get(self._key, self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _client(attempts: int) -> S3Client:
    # A session of its own: boto3's default session is not thread-safe.
    core, models = botocore.session.Session(), _models()
    core.register_component("data_loader", models)
    session = boto3.Session(botocore_session=core)
    models.search_paths[:] = dict.fromkeys(models.search_paths)  # Each session adds boto3's folder once more.
    by_path, theirs = _has_own_endpoint(core), _users_settings(core)
    client = _client_of(session, attempts, theirs, by_path=by_path, sign_bodies=True)
    # TLS protects bodies, so they need not be hashed a second time for a signature.
    if client.meta.endpoint_url.startswith("https:"):
        client = _client_of(session, attempts, theirs, by_path=by_path, sign_bodies=False)
    return client


@cache
def _models() -> Loader:
    """botocore's loader of service descriptions, shared by all clients, since reading that of S3 takes 0.1 s."""
    loader: Loader = botocore.session.Session().get_component("data_loader")
    return loader


def _client_of(
    session: boto3.Session, attempts: int, theirs: set[str], *, by_path: bool, sign_bodies: bool
) -> S3Client:
    s3 = {"addressing_style": "path" if by_path else "auto", "payload_signing_enabled": sign_bodies}
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=_CONNECTIONS,
        # Many servers other than AWS support neither buckets in host names nor the newer checksums.
        # The user's settings take precedence; with botocore, these would.
        s3=cast("Any", {name: value for name, value in s3.items() if name not in theirs}),
        request_checksum_calculation=None if "request_checksum_calculation" in theirs else "when_required",
        response_checksum_validation=None if "response_checksum_validation" in theirs else "when_required",
        tcp_keepalive=True,
        # A PUT is bound by Python. botocore validates each argument against its model and builds a long User-Agent
        # twice: neither is needed here.
        parameter_validation=False,
        user_agent=f"noisemill/{VERSION}",
    )
    try:
        client = session.client("s3", config=config, region_name=session.region_name or "us-east-1")
    except ValueError as error:
        # Its text would repeat the URL, which may contain a password.
        raise StoreError("AWS_ENDPOINT_URL is not a URL: write for example http://127.0.0.1:9000") from error
    read_listings_quickly(client)
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    return client


def _users_settings(core: botocore.session.Session) -> set[str]:
    """Names of the S3 settings that the user's AWS configuration or environment sets."""
    configured = core.get_scoped_config()
    nested = configured.get("s3")
    names = {*configured, *(nested if isinstance(nested, dict) else ())}
    return names | {name for name in _CHECKSUMS if os.environ.get(f"AWS_{name.upper()}")}


def _add_content_md5(params: dict[str, Any], **_: Any) -> None:
    """Adds a header that botocore no longer sends, and without which some stores refuse to delete several objects."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def _encryption(settings: Settings) -> dict[str, Any]:
    """Request arguments for encryption at rest. Raises UsageError for an unknown kind."""
    if not settings.sse:
        return {}
    if settings.sse not in _ENCRYPTIONS:
        raise UsageError(f"NOISEMILL_SSE={shown(settings.sse)} is not one of {', '.join(_ENCRYPTIONS)}")
    key = {"SSEKMSKeyId": settings.sse_kms_key} if settings.sse_kms_key else {}
    return {"ServerSideEncryption": settings.sse, **key}


def _has_own_endpoint(core: botocore.session.Session) -> bool:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return any(os.environ.get(name) for name in names) or "endpoint_url" in core.get_scoped_config()


def _body(data: bytes | bytearray) -> bytes:
    # boto3 sends a bytearray as it is; only its type stubs do not say so.
    return cast("bytes", data)


def _is_final(error: StoreError) -> bool:
    """Whether repeating cannot help, because the upload is gone."""
    return isinstance(error.__cause__, ClientError) and error_code(error.__cause__) == "NoSuchUpload"


@contextmanager
def _ignoring(codes: tuple[str, ...]) -> Iterator[None]:
    """Ends the block silently if S3 returns one of these error codes."""
    try:
        yield
    except ClientError as error:
        if error_code(error) not in codes:
            raise


@contextmanager
def _missing_as_not_found(key: str) -> Iterator[None]:
    """Turns S3's error for a missing key into FileNotFoundError."""
    try:
        yield
    except ClientError as error:
        if error_code(error) in _ABSENT:
            raise FileNotFoundError(f"{key} does not exist") from error
        raise
