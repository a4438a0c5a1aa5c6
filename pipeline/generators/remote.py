"""Generators in S3: downloaded once, and cached by their content.

A downloaded generator is recognized by the objects' names, sizes and entity tags, so an unchanged one is not downloaded
again. The files are cached under the hash of their bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.common.cache import keep
from pipeline.common.errors import GeneratorError, UnknownGeneratorError
from pipeline.common.settings import load_settings
from pipeline.generators.sidecar import JUDGE_SIDECAR, SIDECAR

if TYPE_CHECKING:
    from pipeline.stores.s3_bucket import Bucket

#: Suffixes of models that are a file, perhaps with others beside it.
_FILES = (".keras", ".json", ".h5", ".hdf5", ".onnx", ".tflite", ".jaxexport", ".index")
_PIECE_BYTES = 8 * 2**20
#: Most files below a prefix; a model has only a few.
_MOST_FILES = 1000


def is_remote(reference: str) -> bool:
    """Whether a reference is a URL to download from."""
    return reference.startswith("s3://")


def fetch(url: str) -> Path:
    """A local copy of the model at an `s3://bucket/path`: a file, or a folder for a prefix.

    Raises UnknownGeneratorError if there is nothing, GeneratorError if there is too much,
    StoreError if S3 cannot be read.
    """
    # boto3 takes about 0.3 s to import: only for users of S3.
    from pipeline.stores import normalise
    from pipeline.stores.s3_bucket import Bucket

    name, _, key = normalise(url).removeprefix("s3://").partition("/")
    if not key:
        raise UnknownGeneratorError(f"generator {url!r} names a bucket: add the path of a model in it")
    settings = load_settings()
    bucket = Bucket(name)
    objects = _objects(bucket, key)
    if not objects:
        raise UnknownGeneratorError(f"generator {url!r}: there is no such object or prefix")
    size = sum(each[1] for each in objects.values())
    limit = int(settings.generator_limit_mb * 10**6)
    if size > limit or len(objects) > _MOST_FILES:
        raise GeneratorError(
            f"generator {url!r} has {len(objects):,} files of {size:,} bytes: more than {limit:,} bytes are "
            f"only fetched with a higher NOISEMILL_GENERATOR_LIMIT_MB"
        )
    seen = hashlib.sha256(json.dumps([bucket.client.meta.endpoint_url, name, key, objects]).encode()).hexdigest()
    folder = settings.cache_dir / "generators"
    known = folder / "seen" / seen
    try:
        copy = folder / known.read_text()
    except OSError:
        copy = folder / _download(bucket, key, objects, folder)
        keep(known, copy.name)
    if not copy.is_dir():  # The cache was cleared in part.
        copy = folder / _download(bucket, key, objects, folder)
    return copy / PurePosixPath(key).name if key in objects else copy


def _objects(bucket: Bucket, key: str) -> dict[str, tuple[str, int]]:
    """Keys with entity tag and size: of a file and what belongs to it, or of all objects below the prefix."""
    path = PurePosixPath(key)
    is_file = path.suffix in _FILES
    prefix = f"{key}/" if not is_file else "" if path.parent.name == "" else f"{path.parent}/"
    found = {}
    with bucket.translate_errors(key):
        listing = bucket.client.get_paginator("list_objects_v2")
        if is_file and path.suffix != ".json":  # The weights of a model.json may lie in folders below its own.
            pages = listing.paginate(Bucket=bucket.name, Prefix=prefix, Delimiter="/")
        else:
            pages = listing.paginate(Bucket=bucket.name, Prefix=prefix)
        for page in pages:
            for each in page.get("Contents", []):
                if not each["Key"].endswith("/") and (not is_file or _belongs(PurePosixPath(each["Key"]).name, path)):
                    found[each["Key"]] = (each["ETag"], each["Size"])
    return {} if is_file and key not in found else found


def _belongs(name: str, model: PurePosixPath) -> bool:
    """Whether a file beside a model is part of it: a sidecar, its weights or other values, its architecture."""
    if model.suffix == ".json" or name in (model.name, SIDECAR, JUDGE_SIDECAR, f"{model.stem}.toml"):
        return True
    if model.suffix in (".h5", ".hdf5", ".index") and name.endswith(".json"):
        return True
    return name.startswith((f"{model.stem}.data-", f"{model.name}.data", f"{model.name}_data"))


def _download(bucket: Bucket, key: str, objects: dict[str, tuple[str, int]], folder: Path) -> str:
    """Downloads into a temporary folder, then renames it to the hash of its bytes; returns the hash."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
    root = PurePosixPath(key) if key not in objects else PurePosixPath(key).parent
    try:
        digest = hashlib.sha256()
        for name in sorted(objects):
            relative = PurePosixPath(name).relative_to(root)
            if ".." in relative.parts:
                raise GeneratorError(f"generator s3://{bucket.name}/{key} holds {name!r}, which would leave its folder")
            digest.update(f"{relative}\n".encode() + _fetch_file(bucket, name, objects[name][1], draft / relative))
        place = folder / digest.hexdigest()
        if not place.exists():
            draft.rename(place)
        return place.name
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fetch_file(bucket: Bucket, name: str, size: int, target: Path) -> bytes:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for first in range(0, size, _PIECE_BYTES):
            piece = bucket.get(name, first, min(size, first + _PIECE_BYTES))
            digest.update(piece)
            file.write(piece)
    if target.stat().st_size != size:
        raise GeneratorError(f"generator s3://{bucket.name}/{name} changed while it was fetched")
    return digest.digest()
