"""Croissant metadata, by which dataset searches index a dataset and loaders find its samples.

Follows Croissant 1.0, http://mlcommons.org/croissant/1.0 (specification: docs.mlcommons.org/croissant).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from pipeline.datasets.receipts import Manifest
from pipeline.formats.format import is_png
from pipeline.spec import plan as shards
from pipeline.spec.about import About
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.plan import sample_stem
from pipeline.stores.store import StoredFile

#: The context of the specification.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

#: A media type for .npy, which has no registered one.
_NPY = "application/x-npy"
#: Most classes that are listed one by one.
_MOST_CLASSES = 1000
#: Most archives that are.
_MOST_ARCHIVES = 1000
#: The index of a sample or a shard, at the start of a file's name.
_INDEX = r"^(\d+)\."

_Json = dict[str, Any]


def croissant_metadata(
    spec: JobSpec, manifest: Manifest, *, archives: Sequence[StoredFile] = (), url: str | None = None
) -> _Json:
    """The content of `croissant.json`. `url` is the web page of the dataset, if it has one.

    Files are described relative to it: single files with their SHA-256, shards by a pattern; the index, shards.jsonl,
    covers their hashes. `archives` are the shards of a dataset in tar, each described by itself, since readers unpack
    only those.
    """
    files, fields = _tar(spec, archives) if spec.format == "tar" else _FORMATS[spec.format](spec)
    shape = "x".join(map(str, spec.sample_shape)) or "scalar"
    metadata: _Json = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{spec.generator_name}-{spec.count}",
        "description": (
            f"{spec.count:,} samples of the generator {spec.generator_name}, {shape}, {spec.dtype}, made by noisemill "
            f"{manifest.noisemill}. Synthetic data: every sample is the output of a generator; none is a photograph or "
            "a real record."
        ),
        "keywords": ["synthetic", "noisemill", spec.generator_name],
        "version": "1.0.0",
        "datePublished": time.strftime("%Y-%m-%d", time.gmtime(manifest.finished_at)),
        "isBasedOn": _provenance(spec, manifest.about),
        "distribution": [*_single_files(spec, manifest), *files],
    }
    if url:
        metadata["url"] = url
    if manifest.about.license:
        metadata["license"] = manifest.about.license
    if manifest.about.authors:
        metadata["creator"] = [{"@type": "sc:Person", "name": name} for name in manifest.about.authors]
    record_sets = [_record_set("samples", fields)] if fields else []
    if _lists_classes(spec):
        record_sets.insert(0, _classes(spec))
    metadata["recordSet"] = record_sets
    return metadata


def _provenance(spec: JobSpec, about: About) -> list[_Json]:
    generator = {"@type": "sc:CreativeWork", "name": f"generator {spec.generator_name}", "identifier": spec.digest}
    if about.license:
        generator["license"] = about.license
    data = {"@type": "sc:CreativeWork", "name": f"training data of the generator: {about.data}"}
    return [generator, *([data] if about.data else [])]


def lists_archives(spec: JobSpec) -> bool:
    """Whether the metadata describes each of the dataset's shards by itself."""
    return spec.format == "tar" and len(spec.plan) <= _MOST_ARCHIVES


def _single_files(spec: JobSpec, manifest: Manifest) -> list[_Json]:
    job = spec.to_json().encode()
    files = [
        (shards.JOB, "application/json", hashlib.sha256(job).hexdigest(), "The definition of every sample."),
        (shards.SHARD_INDEX, "application/jsonlines", manifest.index_sha256, "Range and hash of each shard."),
        *((name, _NPY, sha256, "Given by the user.") for name, sha256 in spec.user_files().items()),
    ]
    return [_file(name, encoding, sha256, description=text) for name, encoding, sha256, text in files]


def _file(name: str, encoding: str, sha256: str, **more: str) -> _Json:
    file = {"@type": "cr:FileObject", "@id": name, "name": name, **more}
    return {**file, "contentUrl": name, "encodingFormat": encoding, "sha256": sha256}


def _file_set(name: str, includes: str, encoding: str, *, within: Sequence[str] = ()) -> _Json:
    files = {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": encoding, "includes": includes}
    return {**files, "containedIn": [{"@id": each} for each in within]} if within else files


def _record_set(name: str, fields: list[_Json], **more: Any) -> _Json:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, **more, "field": fields}


def _field(name: str, data_type: str, source: _Json | None, **more: Any) -> _Json:
    field = {"@type": "cr:Field", "@id": name, "name": name.rpartition("/")[2], "dataType": data_type, **more}
    return {**field, "source": source} if source else field


def _of_file(file_set: str, what: str, regex: str = "") -> _Json:
    """A property of each file: its content, filename or fullpath, or the part of it that matches."""
    source: _Json = {"fileSet": {"@id": file_set}, "extract": {"fileProperty": what}}
    return {**source, "transform": {"regex": regex}} if regex else source


def _lists_classes(spec: JobSpec) -> bool:
    return spec.classes is not None and len(spec.classes) <= _MOST_CLASSES


def _classes(spec: JobSpec) -> _Json:
    names = spec.classes or ()
    fields = [_field("classes/label", "sc:Integer", None), _field("classes/name", "sc:Text", None)]
    rows: list[_Json] = [{"classes/label": label, "classes/name": name} for label, name in enumerate(names)]
    if spec.layout == "class":
        fields.append(_field("classes/folder", "sc:Text", None))
        for row, folder in zip(rows, spec.sample_type.class_folders, strict=True):
            row["classes/folder"] = folder.rpartition("/")[2]
    key = {"@id": "classes/folder" if spec.layout == "class" else "classes/label"}
    return _record_set("classes", fields, dataType="sc:Enumeration", key=key, data=rows)


def _to_class(spec: JobSpec, field: str) -> _Json:
    return {"references": {"field": {"@id": f"classes/{field}"}}} if _lists_classes(spec) else {}


def _npy(spec: JobSpec) -> tuple[list[_Json], list[_Json]]:
    files = [_file_set("arrays", f"{shards.SHARDS}/????????.npy", _NPY)]
    shape = ", ".join(["n", *map(str, spec.sample_shape)])
    fields = [
        _field("samples/shard", "sc:Integer", _of_file("arrays", "filename", _INDEX)),
        _field(
            "samples/array",
            "sc:Integer" if spec.dtype == "uint8" else "sc:Float",
            _of_file("arrays", "content"),
            description=f"The samples of a shard in the format of numpy: {spec.dtype}, shape ({shape}).",
            repeated=True,
        ),
    ]
    if spec.classes is not None:
        files.append(_file_set("labels", f"{shards.SHARDS}/????????.labels.npy", _NPY))
        fields[0]["references"] = _of_file("labels", "filename", _INDEX)
        described = {"description": "Their labels in the format of numpy: int32, shape (n,).", "repeated": True}
        fields.append(_field("samples/labels", "sc:Integer", _of_file("labels", "content"), **described))
    return files, fields


def _png(spec: JobSpec) -> tuple[list[_Json], list[_Json]]:
    by_class = spec.layout == "class"
    digits = "?" * len(sample_stem(0))
    files = [_file_set("images", f"{shards.IMAGES if by_class else shards.SHARDS}/*/{digits}.png", "image/png")]
    fields = [_field("samples/image", "sc:ImageObject", _of_file("images", "content"))]
    if by_class:
        folder = _of_file("images", "fullpath", r"^.*?([^/]+)/[^/]+$")
        fields += [
            _field("samples/index", "sc:Integer", _of_file("images", "filename", _INDEX)),
            _field("samples/class", "sc:Text", folder, **_to_class(spec, "folder")),
        ]
        return files, fields
    name = _field("samples/file_name", "sc:Text", _of_file("images", "filename"))
    fields.append(name)
    if spec.classes is not None:
        files.append(_file_set("metadata", f"{shards.SHARDS}/*/metadata.jsonl", "application/jsonlines"))
        name["references"] = {"fileSet": {"@id": "metadata"}, "extract": {"column": "file_name"}}
        label = {"fileSet": {"@id": "metadata"}, "extract": {"column": "label"}}
        fields.append(_field("samples/label", "sc:Integer", label, **_to_class(spec, "label")))
    return files, fields


def _tar(spec: JobSpec, archives: Sequence[StoredFile]) -> tuple[list[_Json], list[_Json]]:
    tars = [_file(file.name, "application/x-tar", file.sha256) for file in archives]
    tars = tars or [_file_set("archives", f"{shards.SHARDS}/????????.tar", "application/x-tar")]
    within = [each["@id"] for each in tars]
    files = [*tars, _file_set("images", "*.png", "image/png", within=within)]
    fields = [
        _field("samples/image", "sc:ImageObject", _of_file("images", "content")),
        _field("samples/index", "sc:Integer", _of_file("images", "filename", _INDEX)),
    ]
    if spec.classes is not None:
        files.append(_file_set("labels", "*.cls", "text/plain", within=within))
        fields[1]["references"] = _of_file("labels", "filename", _INDEX)
        fields.append(_field("samples/label", "sc:Integer", _of_file("labels", "content"), **_to_class(spec, "label")))
    return files, fields


def _parquet(spec: JobSpec) -> tuple[list[_Json], list[_Json]]:
    files = [_file_set("tables", f"{shards.SHARDS}/????????.parquet", "application/x-parquet")]

    def column(name: str, data_type: str, transform: _Json | None = None, **more: Any) -> _Json:
        source: _Json = {"fileSet": {"@id": "tables"}, "extract": {"column": name}}
        return _field(f"samples/{name}", data_type, {**source, "transform": transform} if transform else source, **more)

    if is_png(spec.sample_type):
        fields = [column("image", "sc:ImageObject", {"jsonPath": "bytes"})]
    else:
        fields = [column("sample", "sc:Integer" if spec.dtype == "uint8" else "sc:Float", repeated=True)]
    if spec.classes is not None:
        fields.append(column("label", "sc:Integer", **_to_class(spec, "label")))
    return files, [*fields, column("index", "sc:Integer")]


def _tfrecord(spec: JobSpec) -> tuple[list[_Json], list[_Json]]:
    """The files alone: Croissant cannot describe what is in their records."""
    return [_file_set("records", f"{shards.SHARDS}/????????.tfrecord", "application/x-tfrecord")], []


def _null(spec: JobSpec) -> tuple[list[_Json], list[_Json]]:
    return [], []


#: Format -> its files and the fields of a sample.
_FORMATS = {"npy": _npy, "png": _png, "parquet": _parquet, "tfrecord": _tfrecord, "null": _null}
