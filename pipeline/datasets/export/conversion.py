"""The formats that a dataset can be converted to, and the conversion of samples.

Precision only decreases: float32, float16, uint8. Increasing it (pixels to floats) is refused: the result would look
like the generator's own output but be off by up to half a level. The same generator makes the floats themselves.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UsageError, shown
from pipeline.datasets.shard_statistics import check_finite
from pipeline.formats import FORMATS
from pipeline.formats.values import to_stored
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.plan import folder_style

#: Choices of `export --to`; npz is one file for other programs, the others are datasets.
FORMS = ("npy", "png", "tar", "tfrecord", "parquet", "npz")

#: The finest first.
_PRECISIONS = ("float32", "float16", "uint8")


def check_form(name: str) -> None:
    """Raises UsageError with the known forms."""
    if name in FORMS:
        return
    close = difflib.get_close_matches(name.lower(), FORMS, n=1)
    raise UsageError(f"--to {shown(name)} is unknown: {f'did you mean {close[0]}?' if close else f'use {_listed()}'}")


def exported_spec(
    spec: JobSpec, form: str, *, dtype: str | None = None, layout: str | None = None, shard_size: int | None = None
) -> JobSpec:
    """The spec of the same samples in another format of datasets. Raises UsageError."""
    format_ = FORMATS[form]
    if dtype is None:
        dtype = max(spec.dtype, format_.default_dtype(spec.sample_shape), key=_PRECISIONS.index)
    layout = format_.layouts[0] if layout is None else layout
    exported = replace(
        spec,
        format=form,
        dtype=dtype,
        layout=layout,
        folder_names=folder_style(spec.classes, layout),
        shard_size=shard_size or spec.shard_size,
    )
    exported.check()
    format_.check(exported.sample_type)
    check_precision(spec, dtype)
    return exported


def check_precision(spec: JobSpec, dtype: str) -> None:
    """Raises UsageError unless samples of this spec can be stored with this dtype."""
    if _PRECISIONS.index(dtype) < _PRECISIONS.index(spec.dtype):
        raise UsageError(
            f"dtype {dtype}: the samples are {spec.dtype}, and precision cannot be restored; "
            f"use {spec.dtype}, or 'noisemill generate' to make them as {dtype}"
        )
    if dtype == "uint8" and spec.dtype != "uint8" and spec.value_range is None:
        raise UsageError(
            "uint8 needs the range of the generator's values, which this dataset does not have: use --to npy"
        )


def converted(samples: NDArray[Any], spec: JobSpec, dtype: str, first: int) -> NDArray[Any]:
    """Samples of this spec in another dtype, as its job would have stored them. `first` is the index of row 0.

    Raises SampleError for values that float16 cannot hold.
    """
    if samples.dtype == dtype:
        return np.ascontiguousarray(samples)
    stored = to_stored(samples.astype(np.float32, copy=False), dtype, spec.value_range)
    if stored.dtype == np.float16:
        check_finite(stored, first)
    return stored


def _listed() -> str:
    return f"{', '.join(FORMS[:-1])} or {FORMS[-1]}"
