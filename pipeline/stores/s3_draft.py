"""A draft on S3: parts and small files are uploaded in the background while the next ones are made."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from pipeline.common.errors import StoreError, StoreUnavailableError
from pipeline.stores.s3_bucket import Bucket
from pipeline.stores.store import Digest, StoredFile, as_bytes, check_name
from pipeline.stores.uploads import Uploads

#: S3 allows parts of at least 5 MiB, and at most 10,000 of them.
_PART_BYTES = 8 * 2**20
_PARTS_OF_ONE_SIZE = 1000

#: Together with the part being filled, 32 MiB are in memory.
CONCURRENT_PARTS = 3
_PENDING_BYTES = CONCURRENT_PARTS * (_PART_BYTES + 2**16)
_THREADS = 16


class S3Draft:
    """Files on their way into a bucket.

    A streamed file appears when the draft is committed. A file that is added whole is put at its final key at once; it
    does not count until a receipt names it.
    """

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._digests: dict[str, Digest] = {}
        self._sinks: list[S3Sink] = []
        self._open: S3Sink | None = None
        self._uploads: Uploads | None = None
        #: Keys that may have an object of this attempt.
        self._placed: list[str] = []

    def sink(self, name: str) -> S3Sink:
        """A stream: one PUT at commit if it stays below 8 MiB, else a multipart upload."""
        digest = self._begin(name)
        self._open = S3Sink(self._bucket, self._prefix + name, digest, self._running_uploads())
        self._sinks.append(self._open)
        return self._open

    def add(self, name: str, data: bytes) -> None:
        """Puts a whole file at its key in the background."""
        digest = self._begin(name)
        digest.update(data)
        key = self._prefix + name
        self._running_uploads().submit(len(data), partial(self._bucket.put, key, data))
        self._placed.append(key)

    def commit(self) -> list[StoredFile]:
        """Waits for all uploads, then completes the streamed files."""
        self._finish_open()
        if self._uploads is not None:
            self._uploads.finish()
        for sink in self._sinks:
            self._placed.append(sink.key)
            sink.place()
        self._stop_uploads()
        stored = [digest.stored(name) for name, digest in self._digests.items()]
        self._forget()
        return stored

    def discard(self, *, keep_placed: bool = False) -> None:
        """Aborts uploads and deletes objects; what the server does not allow is left to `S3Store.sweep`."""
        self._stop_uploads()
        for sink in self._sinks:
            with suppress(StoreError):
                sink.abort()
        if not keep_placed:
            with suppress(StoreError):
                self._bucket.delete(self._placed)
        self._forget()

    def _begin(self, name: str) -> Digest:
        if check_name(name) in self._digests:
            raise ValueError(f"the draft has {name!r} already")
        self._finish_open()
        self._digests[name] = Digest()
        return self._digests[name]

    def _finish_open(self) -> None:
        sink, self._open = self._open, None
        if sink is not None:
            sink.finish()

    def _running_uploads(self) -> Uploads:
        if self._uploads is None:
            self._uploads = Uploads(threads=_THREADS, limit_bytes=_PENDING_BYTES)
        return self._uploads

    def _stop_uploads(self) -> None:
        uploads, self._uploads = self._uploads, None
        if uploads is not None:
            uploads.stop()

    def _forget(self) -> None:
        self._digests, self._sinks, self._open, self._placed = {}, [], None, []


class S3Sink:
    """A stream into one object."""

    def __init__(self, bucket: Bucket, key: str, digest: Digest, uploads: Uploads) -> None:
        self.key = key
        self._bucket = bucket
        self._digest = digest
        self._uploads = uploads
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._started = 0
        self._tags: dict[int, str] = {}

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Appends `data`; uploads each full part."""
        view = as_bytes(data)
        self._digest.update(view)
        rest = view
        while len(rest):
            room = self._part_bytes() - len(self._buffer)
            self._buffer += rest[:room]
            rest = rest[room:]
            if len(self._buffer) == self._part_bytes():
                self._send_part()
        return len(view)

    def finish(self) -> None:
        """Uploads the last part of a multipart upload."""
        if self._upload_id is not None and self._buffer:
            self._send_part()

    def place(self) -> None:
        """Makes the object appear, once all its parts are uploaded, and checks that it has."""
        if self._upload_id is None:
            self._bucket.put(self.key, self._buffer)
        else:
            self._complete(self._upload_id)
            self._upload_id = None
        self._bucket.confirm(self.key, self._digest.size_bytes)

    def _complete(self, upload_id: str) -> None:
        try:
            self._bucket.complete_upload(self.key, upload_id, self._tags)
        except StoreUnavailableError:
            # It may have succeeded. An earlier attempt may have left an object with this key, so compare its bytes.
            stored = self._digest.stored(self.key)
            if not self._bucket.holds(self.key, stored.size_bytes, stored.sha256):
                raise

    def abort(self) -> None:
        """Drops a multipart upload that has not been completed."""
        if self._upload_id is None:
            return
        self._bucket.abort_upload(self.key, self._upload_id)
        self._upload_id = None

    def _part_bytes(self) -> int:
        """Size of the next part: doubles every 1,000 parts, so that 10,000 hold 8 TB."""
        return _PART_BYTES << (self._started // _PARTS_OF_ONE_SIZE)

    def _send_part(self) -> None:
        if self._upload_id is None:
            self._upload_id = self._bucket.begin_upload(self.key)
        self._started += 1
        part, self._buffer = self._buffer, bytearray()
        self._uploads.submit(len(part), partial(self._put_part, self._upload_id, self._started, part))

    def _put_part(self, upload_id: str, number: int, part: bytearray) -> None:
        self._tags[number] = self._bucket.put_part(self.key, upload_id, number, part)
