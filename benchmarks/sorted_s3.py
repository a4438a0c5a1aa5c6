"""A small S3 server whose listings cost what a page costs, as those of AWS do: in memory, for one bucket, without keys.

rclone reads the whole folder for each page of a listing, and moto looks at every object, so that a scan of 100,000
objects would measure them. `python -m benchmarks.sorted_s3 FOLDER [SECONDS]` has the folder's files as objects, and
prints its port; when its standard input ends, so does it. A request takes so many seconds at least, as in a network.
"""

from __future__ import annotations

import bisect
import hashlib
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

_PAGE = 1000


class Objects:
    """The objects by key, and the keys in order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.contents: dict[str, bytes] = {}
        self._tags: dict[str, str] = {}
        self._keys: list[str] = []
        self._is_sorted = True

    def put(self, key: str, content: bytes) -> str:
        """Keeps an object; returns its ETag."""
        with self.lock:
            if key not in self.contents:
                self._is_sorted = False
                self._keys.append(key)
            self.contents[key] = content
            self._tags[key] = hashlib.md5(content, usedforsecurity=False).hexdigest()
            return self._tags[key]

    def delete(self, key: str) -> None:
        """Drops an object."""
        with self.lock:
            if self.contents.pop(key, None) is not None:
                self._keys.remove(key)

    def page(self, prefix: str, after: str) -> tuple[str, str]:
        """The XML of the keys that begin with `prefix`, after `after`, and the last of them if there are more."""
        with self.lock:
            if not self._is_sorted:
                self._keys.sort()
                self._is_sorted = True
            first = bisect.bisect_right(self._keys, after) if after else bisect.bisect_left(self._keys, prefix)
            keys = self._keys[first : first + _PAGE + 1]
            found = [key for key in keys if key.startswith(prefix)]
            more = found[_PAGE - 1] if len(found) > _PAGE else ""
            nodes = (
                f"<Contents><Key>{quote(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{self._tags[key]}&quot;</ETag><Size>{len(self.contents[key])}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
                for key in found[:_PAGE]
            )
            return "".join(nodes), more


class Handler(BaseHTTPRequestHandler):
    """The requests that a scan makes, and those that fill the bucket."""

    protocol_version = "HTTP/1.1"
    #: Otherwise the body waits for the client to acknowledge the headers: 40 ms.
    disable_nagle_algorithm = True
    objects: Objects
    #: Of the upload in parts that has begun.
    parts: ClassVar[dict[int, bytes]] = {}
    delay_s = 0.0

    def do_GET(self) -> None:
        """An object, or a page of a listing."""
        time.sleep(self.delay_s)
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        if "list-type" in query:
            [after] = query.get("continuation-token") or query.get("start-after") or [""]
            nodes, more = self.objects.page(query.get("prefix", [""])[0], after)
            token = f"<NextContinuationToken>{quote(more)}</NextContinuationToken>" if more else ""
            self._answer(
                200,
                f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<EncodingType>url</EncodingType><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{token}{nodes}"
                "</ListBucketResult>".encode(),
            )
        elif "uploads" in query:
            self._answer(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
        else:
            self._object(parts.path)

    def do_HEAD(self) -> None:
        """An object's length."""
        self._object(self.path)

    def do_PUT(self) -> None:
        """Keeps an object; conditions are ignored."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = parse_qs(urlsplit(self.path).query)
        if "partNumber" in query:
            self.parts[int(query["partNumber"][0])] = content
            self._answer(200, b"", hashlib.md5(content, usedforsecurity=False).hexdigest())
        else:
            self._answer(200, b"", self.objects.put(_key(self.path), content))

    def do_POST(self) -> None:
        """Deletes several objects, by what looks like their keys; begins and ends an upload, of which there is one."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "uploads" in query:
            self.parts.clear()
            return self._answer(200, b"<Result><UploadId>1</UploadId></Result>")
        if "uploadId" in query:
            self.objects.put(_key(self.path), b"".join(self.parts[number] for number in sorted(self.parts)))
            return self._answer(200, b"<Result><ETag>1</ETag></Result>")
        for part in body.split("<Key>")[1:]:
            self.objects.delete(part.partition("</Key>")[0])
        return self._answer(200, b"<DeleteResult></DeleteResult>")

    def do_DELETE(self) -> None:
        """Deletes an object."""
        self.objects.delete(_key(self.path))
        self._answer(204, b"")

    def _object(self, path: str) -> None:
        content = self.objects.contents.get(_key(path))
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, content, hashlib.md5(content, usedforsecurity=False).hexdigest())

    def _answer(self, status: int, body: bytes, etag: str = "") -> None:
        self.send_response(status)
        if etag:
            self.send_header("ETag", f'"{etag}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _key(path: str) -> str:
    """The key in /bucket/key."""
    return unquote(urlsplit(path).path).lstrip("/").partition("/")[2]


def main() -> None:
    """Serves a folder's files until standard input ends."""
    Handler.objects, folder = Objects(), Path(sys.argv[1])
    Handler.delay_s = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    for path in folder.rglob("*"):
        if path.is_file():
            Handler.objects.put(path.relative_to(folder).as_posix(), path.read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
