"""`generator.toml`: declares what a model file does not contain.

    summary = "Hand-written digits"          # one line for people
    signature = "generate"                   # of a SavedModel with several

    [latent]
    input = "z"                              # if the model has several inputs
    shape = [100]                            # if the model leaves it open

    [label]
    input = "digit"
    encoding = "integer"                     # or "one_hot", or "concatenated": one-hot, after the latent
    classes = ["zero", "one", "two"]         # or their number

    [output]
    name = "image"                           # if the model has several outputs
    shape = [28, 28, 1]                      # as many values, another shape: flat outputs of 784, say
    channels = "first"                       # or "last"
    range = [-1.0, 1.0]

    [inputs.truncation]                      # any other input: its value for all samples, which a job
    constant = 0.5                           # may replace: --set truncation=0.7

    [inputs.z2]
    kind = "latent"                          # a further latent; or "noise", from a stream per sample; or
                                             # "attributes", the user's vector per sample: --attributes FILE.npy

    [sampler]                                # of a denoiser: see `pipeline.generators.denoiser`

    [about]                                  # recorded with each dataset, part of no digest
    license = "MIT"                          # of the weights: an SPDX identifier, or a URL
    data = "Fashion-MNIST (Zalando, MIT)"    # what it was trained on
    authors = ["Ann Author"]

    [code]                                   # Python files beside this one that define the model's own layers;
    files = ["layers.py"]                    # run only with --trust

Everything that the model itself contains may be left out; what is there must agree with it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.errors import GeneratorError, shown
from pipeline.common.files import read_regular
from pipeline.generators.denoiser import Denoiser, read_denoiser
from pipeline.spec.about import About, read_about
from pipeline.spec.sampler import Sampler

SIDECAR = "generator.toml"
#: The same of a judge (`pipeline.generators.judge`).
JUDGE_SIDECAR = "judge.toml"

#: How labels reach the model.
ENCODINGS = ("integer", "one_hot", "concatenated")
#: Kinds of `[inputs]`, besides constants.
INPUT_KINDS = ("latent", "noise", "attributes")
#: The keys of each table.
_KEYS = {
    "latent": {"input", "shape"},
    "label": {"input", "encoding", "classes"},
    "output": {"name", "shape", "dtype", "channels", "range"},
    "code": {"files"},
}


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The content of `generator.toml`."""

    summary: str = ""
    #: Name of a SavedModel's signature; None for the default.
    signature: str | None = None
    latent: dict[str, Any] = field(default_factory=dict)
    label: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    #: By the name of an input.
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Files with the code of the model's own layers.
    code: tuple[Path, ...] = ()
    #: From `[sampler]`: how a denoiser works, and the default sampler of its jobs.
    denoiser: Denoiser | None = None
    sampler: Sampler | None = None
    #: License and provenance.
    about: About = field(default_factory=About)


def read_sidecar(paths: Sequence[Path]) -> Sidecar:
    """The first of these files that exists; an empty one if none does. Raises GeneratorError."""
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return Sidecar()
    tables, others = read_tables(path, _KEYS, ("inputs", "sampler", "about", "summary", "signature"))
    inputs, sampler, signature = others.get("inputs", {}), others.get("sampler"), others.get("signature")
    try:
        if not isinstance(signature, str | None):
            raise ValueError(f"signature {shown(signature)} is not a name")
        _check_types(tables)
        _check_inputs(inputs)
        code = _code(path.parent, tables.pop("code"))
        about = read_about(others.get("about", {}))
        denoiser, usual = (None, None) if sampler is None else read_denoiser(sampler)
    except ValueError as error:
        raise GeneratorError(f"{path}: {error}") from None
    return Sidecar(
        summary=str(others.get("summary", "")),
        signature=signature,
        inputs=inputs,
        code=code,
        denoiser=denoiser,
        sampler=usual,
        about=about,
        **tables,
    )


def read_tables(
    path: Path, keys: Mapping[str, set[str]], others: Collection[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The tables of a sidecar, empty ones if it lacks them, and which of `others` it has beside them.

    `keys` has the keys of each table. Raises GeneratorError for anything else, and if the file cannot be read.
    """
    try:
        data = tomllib.loads(read_regular(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise GeneratorError(f"{path} cannot be read: {error}") from None
    tables = {name: data.pop(name, {}) for name in keys}
    unknown = [name for name in data if name not in others]
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise GeneratorError(f"{path}: {name} is {shown(table)}, write [{name}] and lines below it")
        unknown += [f"{name}.{key}" for key in table if key not in keys[name]]
    if unknown:
        raise GeneratorError(f"{path}: unknown {', '.join(unknown)}")
    return tables, data


def is_range(ends: Any) -> bool:
    """Whether this is a list of two finite numbers, the lower one first."""
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    return bool(numbers and all(map(math.isfinite, ends)) and ends[0] < ends[1])


def _check_types(tables: dict[str, dict[str, Any]]) -> None:
    for name, table in tables.items():
        shape = table.get("shape", [])
        sizes = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
        if not sizes or math.prod(shape) >= 2**31:
            raise ValueError(f"[{name}] shape {shape!r} is not a list of sizes")
        for key in ("input", "name", "encoding"):
            if not isinstance(table.get(key, ""), str):
                raise ValueError(f"[{name}] {key} {table[key]!r} is not a name")
    classes = tables["label"].get("classes", 1)
    if not (isinstance(classes, list) or (type(classes) is int and classes > 0)):
        raise ValueError(f"[label] classes {classes!r} is neither a number nor a list of names")
    encoding = tables["label"].get("encoding", ENCODINGS[0])
    if encoding not in ENCODINGS:
        raise ValueError(f"label encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")
    ends = tables["output"].get("range", [0, 1])
    if not is_range(ends):
        raise ValueError(f"[output] range {ends!r} is not a pair of numbers, the lower one first")


def _code(folder: Path, table: dict[str, Any]) -> tuple[Path, ...]:
    files = table.get("files", [])
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list) or not all(isinstance(file, str) and file.endswith(".py") for file in files):
        raise ValueError(f'[code] files {shown(files)} are not Python files, as in files = ["layers.py"]')
    for file in files:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"[code] {shown(file)} is outside the folder of the model")
    return tuple(folder.resolve() / file for file in files)


def _check_inputs(inputs: Any) -> None:
    if not isinstance(inputs, dict):
        raise ValueError("inputs: write [inputs.NAME] and constant = ... below it")
    for name, table in inputs.items():
        if not isinstance(table, dict) or set(table) not in ({"constant"}, {"kind"}):
            raise ValueError(f"[inputs.{name}] takes constant or kind, one of them and nothing else")
        if "kind" in table:
            if table["kind"] not in INPUT_KINDS:
                raise ValueError(f"[inputs.{name}] kind {shown(table['kind'])} is not one of {', '.join(INPUT_KINDS)}")
            continue
        values = table["constant"] if isinstance(table["constant"], list) else [table["constant"]]
        if not values or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise ValueError(
                f"[inputs.{name}] constant {shown(table['constant'])} is neither a number nor a list of numbers"
            )
