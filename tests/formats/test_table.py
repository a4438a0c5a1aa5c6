"""The table of formats."""

from __future__ import annotations

import pytest

from pipeline.common.errors import UsageError
from pipeline.formats import FORMATS, format_named
from pipeline.spec.job_spec import FORMAT_NAMES


def test_formats_are_known_by_their_names() -> None:
    assert list(FORMATS) == ["npy", "png", "tar", "tfrecord", "parquet", "null"]
    assert tuple(FORMATS) == FORMAT_NAMES
    assert all(format_named(name).name == name for name in FORMATS)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pgn", "did you mean png"),
        ("NPY", "did you mean npy"),
        ("hdf5", "use npy, png, tar, tfrecord, parquet, null"),
        ("tfrecords", "did you mean tfrecord"),
        ("", "use npy"),
    ],
)
def test_unknown_names_come_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        format_named(name)
