"""Other doors to what a store holds: plain files, and a raw boto3 client."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from botocore.exceptions import ClientError

from tests.servers import S3Server

_TEMPORARY = ".noisemill-"


class Door(Protocol):
    """A look at a destination that goes around the store."""

    def files(self) -> dict[str, bytes]:
        """All files by name, temporary ones excluded."""
        ...

    def leftovers(self) -> list[str]:
        """Temporary files and folders, and unfinished uploads."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Places a file."""
        ...


class LocalDoor:
    """Through plain file operations."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self) -> dict[str, bytes]:
        paths = [path for path in self._root.rglob("*") if path.is_file()]
        names = {path.relative_to(self._root).as_posix(): path for path in paths}
        return {name: path.read_bytes() for name, path in names.items() if not name.startswith(_TEMPORARY)}

    def leftovers(self) -> list[str]:
        return [path.name for path in self._root.glob(f"{_TEMPORARY}*")]

    def put(self, name: str, data: bytes) -> None:
        (self._root / name).parent.mkdir(parents=True, exist_ok=True)
        (self._root / name).write_bytes(data)


class S3Door:
    """Through a client of its own."""

    def __init__(self, server: S3Server, destination: str) -> None:
        self._client = server.client
        self._bucket = server.bucket
        self._prefix = destination.removeprefix(f"s3://{server.bucket}/") + "/"

    def files(self) -> dict[str, bytes]:
        keys = [key for key in self._keys() if not key.startswith(self._prefix + _TEMPORARY)]
        bodies = {key: self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read() for key in keys}
        return {key.removeprefix(self._prefix): body for key, body in bodies.items()}

    def leftovers(self) -> list[str]:
        temporary = [key for key in self._keys() if key.startswith(self._prefix + _TEMPORARY)]
        return temporary + [key for key in self._uploads() if key.startswith(self._prefix)]

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)

    def clear(self) -> None:
        """Deletes what a test left on a server that outlives it."""
        for key in self._keys():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _uploads(self) -> list[str]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket)
        try:
            return [upload["Key"] for page in pages for upload in page.get("Uploads", [])]
        except ClientError as error:
            # rclone's way to say that there has never been one.
            if error.response["Error"]["Code"] != "NoSuchUpload":
                raise
            return []

    def _keys(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]
