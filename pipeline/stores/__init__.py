"""Storage for datasets: local disk, S3, and servers with S3's protocol.

Light to import: boto3 is loaded when an S3 store is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from pipeline.common.errors import UsageError
from pipeline.common.text import is_one_line
from pipeline.stores.local import LocalStore
from pipeline.stores.store import Draft, Entry, Sink, Store, StoredFile

__all__ = [
    "Draft",
    "Entry",
    "Sink",
    "Store",
    "StoredFile",
    "is_canonical",
    "names_destination",
    "normalise",
    "open_store",
]

#: S3 keys have at most 1,024 bytes; the rest is for names below the prefix.
_MAX_PREFIX_BYTES = 800


def open_store(destination: str | os.PathLike[str]) -> Store:
    """The store at a path, `file:///path` or `s3://bucket/prefix`. Does not access it yet.

    Raises UsageError if the destination is none of these, StoreError if S3 cannot be set up.
    """
    url = normalise(destination)
    scheme = "s3" if url.startswith("s3://") else "file"
    return _OPENERS[scheme](url)


def normalise(destination: str | os.PathLike[str]) -> str:
    """The canonical form of a destination: an absolute real path, or `s3://bucket/prefix` without a trailing slash.

    Raises UsageError for other schemes, an empty path or bucket, and '..' in an S3 prefix.
    """
    text = os.fspath(destination)
    if not text or "\0" in text:
        raise UsageError("the destination is empty: give a folder or s3://bucket/prefix")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://|(s3|file):", text)
    if scheme is None:
        return os.path.realpath(os.path.expanduser(text))
    # The message omits the rest of the URL, which may contain a password.
    name = (scheme[1] or scheme[2]).lower()
    if name not in _NORMALISERS:
        raise UsageError(
            f"destination {name}://... cannot be written: use a folder, file:///folder or s3://bucket/prefix"
        )
    return _NORMALISERS[name](text)


def names_destination(job_or_destination: str) -> bool:
    """Whether the text is a destination, a path or an existing folder; otherwise it is a job's id."""
    return "/" in job_or_destination or os.path.isdir(job_or_destination)


def is_canonical(destination: str) -> bool:
    """Whether a text is a result of `normalise`, as far as that can be checked without disk access."""
    if not is_one_line(destination):
        return False
    if destination.startswith("s3://"):
        try:
            return _normalise_s3(destination) == destination
        except UsageError:
            return False
    return (
        destination.startswith("/")
        and not destination.startswith("//")
        and os.path.normpath(destination) == destination
    )


def _normalise_file(url: str) -> str:
    parts = urlsplit(url, allow_fragments=False)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query:
        raise UsageError("a file URL needs three slashes and an absolute path: file:///data/name")
    return os.path.realpath(unquote(parts.path))


def _normalise_s3(url: str) -> str:
    bucket, _, prefix = url.partition("//")[2].rstrip("/").partition("/")
    if "@" in bucket:
        raise UsageError("an S3 destination has no user in it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
        raise UsageError(f"destination {url!r} has no valid bucket: write s3://bucket/prefix")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise UsageError(f"destination {url!r}: its prefix has an empty part, '.' or '..'")
    if len(prefix.encode()) > _MAX_PREFIX_BYTES:
        raise UsageError(f"the prefix in s3://{bucket}/... is longer than {_MAX_PREFIX_BYTES} bytes")
    return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"


def _open_s3(url: str) -> Store:
    # boto3 takes about 0.3 s to import: only for users of S3.
    from pipeline.stores.s3 import S3Store

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(bucket, prefix)


_NORMALISERS: dict[str, Callable[[str], str]] = {"file": _normalise_file, "s3": _normalise_s3}
_OPENERS: dict[str, Callable[[str], Store]] = {"file": LocalStore, "s3": _open_s3}
