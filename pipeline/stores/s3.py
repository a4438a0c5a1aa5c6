"""A store in S3, or in a server with its protocol."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import BinaryIO

from pipeline.common.errors import StoreError
from pipeline.stores.s3_bucket import Bucket, ObjectReader
from pipeline.stores.s3_draft import S3Draft
from pipeline.stores.store import LEASE, MAX_LEASE_BYTES, SWEEP_AGE_S, TEMPORARY, Access, Entry, check_name

_READ_BUFFER_BYTES = 2**20

#: Larger objects are uploaded in parts: S3 allows 5 GiB per request, and a broken request starts over.
_LARGEST_PUT_BYTES = 16 * 2**20

#: Attempts of a check, which should end within seconds; work itself is more patient.
_CHECK_ATTEMPTS = 2


class S3Store:
    """Objects below one prefix of one bucket. Rights for that prefix are enough."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = Bucket(bucket)

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """The whole object, or its first bytes."""
        return self._bucket.get(self._key(name), most_bytes=most_bytes)

    def open(self, name: str) -> BinaryIO:
        """The object, downloaded in pieces of 1 to 8 MiB as they are read."""
        return io.BufferedReader(ObjectReader(self._bucket, self._key(name)), _READ_BUFFER_BYTES)

    def write(self, name: str, data: bytes) -> None:
        """One PUT, or a multipart upload for a large object; then a check that it exists."""
        if len(data) > _LARGEST_PUT_BYTES:
            draft = self.draft()
            try:
                draft.sink(name).write(data)
                draft.commit()
            except BaseException:
                draft.discard(keep_placed=True)
                raise
            return
        self._bucket.put(self._key(name), data)
        self._bucket.confirm(self._key(name), len(data))

    def exists(self, name: str) -> bool:
        """Whether there is an object."""
        try:
            self._bucket.size_bytes(self._key(name))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "", *, divided_at: Sequence[str] = ()) -> Iterator[Entry]:
        """The objects, without probes and without the empty objects that some tools make for folders."""
        bounds = [self._prefix + name for name in divided_at]
        for key, size_bytes, etag in self._bucket.objects(self._prefix + prefix, bounds):
            name = key.removeprefix(self._prefix)
            if not name.startswith(TEMPORARY) and not name.endswith("/"):
                yield Entry(name, size_bytes, etag)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects, 1,000 per request."""
        self._bucket.delete(self._key(name) for name in names)

    def prune(self) -> None:
        """Nothing: there are no folders."""

    def draft(self) -> S3Draft:
        """A new draft."""
        return S3Draft(self._bucket, self._prefix)

    def check_writable(self) -> None:
        """Puts a probe below the prefix and deletes it, since rights may be limited to the prefix."""
        bucket = Bucket(self._bucket.name, attempts=_CHECK_ATTEMPTS)
        probe = f"{self._prefix}{TEMPORARY}{uuid.uuid4().hex}"
        # Errors name the prefix, which the user knows, not the probe.
        with bucket.translate_errors(self._prefix.rstrip("/")):
            bucket.client.put_object(Bucket=bucket.name, Key=probe, Body=b"", **bucket.encryption)
            bucket.client.delete_object(Bucket=bucket.name, Key=probe)

    def check_access(self) -> Access:
        """Puts a probe below the prefix, reads, lists and deletes it: everything that noisemill does there."""
        bucket = Bucket(self._bucket.name, attempts=_CHECK_ATTEMPTS)
        probe = f"{self._prefix}{TEMPORARY}{uuid.uuid4().hex}"
        with bucket.translate_errors(self._prefix.rstrip("/")):
            answer = bucket.client.put_object(Bucket=bucket.name, Key=probe, Body=b"probe", **bucket.encryption)
            try:
                found = bucket.client.get_object(Bucket=bucket.name, Key=probe)["Body"].read()
                exclusive = bucket.supports_conditions(probe, b"probe")
                listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=probe).get("Contents", [])
            finally:
                bucket.client.delete_object(Bucket=bucket.name, Key=probe)
        if found != b"probe" or [entry["Key"] for entry in listed] != [probe]:
            raise StoreError(
                f"{self.url}: what was written is not what is read or listed after: use a store that is consistent"
            )
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return Access(None if date is None else parsedate_to_datetime(date).timestamp(), exclusive)

    def read_lease(self) -> bytes | None:
        """The lease object."""
        try:
            return self._bucket.get(self._prefix + LEASE, most_bytes=MAX_LEASE_BYTES)
        except FileNotFoundError:
            return None

    def lease_age_s(self) -> float | None:
        """By the server's clock, in whole seconds."""
        return self._bucket.age_s(self._prefix + LEASE)

    def write_lease(self, data: bytes, *, before: bytes | None) -> bool:
        """A conditional PUT, if the server supports it."""
        return self._bucket.replace(self._prefix + LEASE, data, before=before)

    def delete_lease(self, before: bytes) -> None:
        """Deletes it if it is still the same. Another maker may take it between the check and the request."""
        if self.read_lease() == before:
            self._bucket.delete([self._prefix + LEASE])

    def sweep(self, older_than_s: float = SWEEP_AGE_S) -> None:
        """Aborts multipart uploads to which no part has been added for `older_than_s` seconds.

        Does nothing if the server cannot list uploads or denies it, nor at the root of a bucket, where unfinished
        uploads may belong to others.
        """
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        if self._prefix:
            for key, upload_id in self._bucket.abandoned_uploads(self._prefix, before):
                self._bucket.abort_upload(key, upload_id)

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)
