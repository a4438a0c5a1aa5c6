"""The table of formats for stored samples."""

from __future__ import annotations

import difflib
from importlib.metadata import version

from pipeline.common.errors import UsageError
from pipeline.formats.format import Format, Labels, ShardWriter
from pipeline.formats.npy import NpyFormat
from pipeline.formats.null import NullFormat
from pipeline.formats.parquet import ParquetFormat
from pipeline.formats.png import PngFormat
from pipeline.formats.tar import TarFormat
from pipeline.formats.tfrecord import TfrecordFormat
from pipeline.spec.job_spec import SampleType

__all__ = ["FORMATS", "Format", "Labels", "SampleType", "ShardWriter", "format_named", "library_versions"]

_FORMATS: tuple[Format, ...] = (
    NpyFormat(),
    PngFormat(),
    TarFormat(),
    TfrecordFormat(),
    ParquetFormat(),
    NullFormat(),
)
FORMATS: dict[str, Format] = {each.name: each for each in _FORMATS}


def format_named(name: str) -> Format:
    """The format with this name. Raises UsageError with the known names."""
    if name in FORMATS:
        return FORMATS[name]
    close = difflib.get_close_matches(name.lower(), FORMATS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use {', '.join(FORMATS)}"
    raise UsageError(f"format {name!r} is unknown: {hint}")


def library_versions(format_name: str) -> dict[str, str]:
    """Versions of the libraries that write files of this format; zlib's is in `pipeline.formats.image`."""
    return {library: version(library) for library in FORMATS[format_name].libraries}
