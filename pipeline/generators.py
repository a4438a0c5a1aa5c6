"""What generators there are and what each one is, without TensorFlow.

A generator is asked for by reference: the name of a built-in one (`fashion`), a `.keras` file, or a
folder that holds `model.keras`. Beside the model may lie `generator.toml` (or `NAME.toml` beside
`NAME.keras`), which says what the model file cannot: value range, classes, which input is which.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import GeneratorError, UnknownGeneratorError
from pipeline.settings import load_settings

BUILTIN_FOLDER = Path(__file__).parent / "builtin"

#: How labels reach the model.
ENCODINGS = ("integer", "one_hot", "concatenated")


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What goes into a generator and what comes out."""

    #: Name of the input that takes the latent.
    latent_input: str
    #: Shape of one latent, (latent_dim,) mostly.
    latent_shape: tuple[int, ...]
    #: Name of the input that takes the label; None without classes or where it is concatenated.
    label_input: str | None
    #: "integer", "one_hot" or "concatenated" (one-hot, after the latent); None without classes.
    label_encoding: str | None
    #: Names of the classes; None for an unconditional generator.
    classes: tuple[str, ...] | None
    #: Shape of one sample.
    sample_shape: tuple[int, ...]
    #: Least and greatest value of the output; None where nothing declares them.
    value_range: tuple[float, float] | None

    @property
    def latent_dim(self) -> int:
        """Numbers per latent."""
        return math.prod(self.latent_shape)


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A generator that was found, with its identity."""

    #: How to ask for it: the name of a built-in one, or an absolute path.
    reference: str
    #: The model file.
    model: Path
    #: One line for people.
    summary: str
    #: "sha256:..." over the model's bytes and its interface.
    digest: str
    interface: Interface

    @property
    def name(self) -> str:
        """Short name."""
        return self.model.stem if self.model.stem != "model" else self.model.parent.name

    def as_json(self) -> dict[str, Any]:
        """For `--json` and for a worker's announcement."""
        return {
            "name": self.name,
            "reference": self.reference,
            "digest": self.digest,
            "summary": self.summary,
            "model": str(self.model),
            "size_bytes": self.model.stat().st_size,
            **asdict(self.interface),
            "latent_dim": self.interface.latent_dim,
        }


def builtin_names() -> list[str]:
    """Names of the generators that come with noisemill."""
    return sorted(path.parent.name for path in BUILTIN_FOLDER.glob("*/model.keras"))


def find_generator(reference: str) -> Generator:
    """The generator that answers to a reference.

    Raises UnknownGeneratorError if there is none, GeneratorError if it cannot be understood.
    """
    model = _model_path(reference)
    sidecar, summary = _read_sidecar(model)
    model_sha256 = _file_sha256(model)
    interface = _interface(model, model_sha256, sidecar)
    identity = json.dumps([model_sha256, asdict(interface)], sort_keys=True)
    return Generator(
        reference=reference if reference in builtin_names() else str(model.resolve()),
        model=model,
        summary=summary,
        digest="sha256:" + hashlib.sha256(identity.encode()).hexdigest(),
        interface=interface,
    )


def _model_path(reference: str) -> Path:
    builtin = builtin_names()
    if not reference or "\0" in reference:
        raise UnknownGeneratorError(
            f"the generator's name is empty: built in: {', '.join(builtin)}; or give a .keras file"
        )
    if reference in builtin:
        return BUILTIN_FOLDER / reference / "model.keras"
    path = Path(reference).expanduser()
    if path.is_dir() and (path / "model.keras").is_file():
        return path / "model.keras"
    if path.is_file() and path.suffix == ".keras":
        return path
    if path.is_dir():
        raise UnknownGeneratorError(f"generator {reference!r} is a folder without a model.keras in it")
    if path.is_file():
        raise UnknownGeneratorError(f"generator {reference!r} is not a .keras file")
    if os.sep in reference or path.suffix:
        raise UnknownGeneratorError(f"generator {reference!r}: there is no such file")
    near = difflib.get_close_matches(reference, builtin, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"built in: {', '.join(builtin)}; or give a .keras file"
    raise UnknownGeneratorError(f"generator {reference!r} is unknown: {hint}")


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GeneratorError(f"{path} cannot be read: {error.strerror}") from error


def _read_sidecar(model: Path) -> tuple[dict[str, Any], str]:
    """What `generator.toml` says, and its one-line summary."""
    for path in (model.with_suffix(".toml"), model.parent / "generator.toml"):
        if path.is_file():
            try:
                data = tomllib.loads(path.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
                raise GeneratorError(f"{path} cannot be read: {error}") from None
            return data, str(data.pop("summary", ""))
    return {}, ""


def _interface(model: Path, model_sha256: str, sidecar: dict[str, Any]) -> Interface:
    """The interface from the sidecar alone where it says all, else from the model as TensorFlow sees it."""
    tables = {name: sidecar.get(name, {}) for name in ("latent", "label", "output")}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise GeneratorError(
                f"generator.toml beside {model}: {name} is {table!r}, write [{name}] and lines below it"
            )
    complete = {"input", "shape"} <= set(tables["latent"]) and "shape" in tables["output"]
    if not complete or (tables["label"] and "input" not in tables["label"]):
        tables = _merge(inspect_model(model, model_sha256), tables)
    try:
        return _validated(tables)
    except (KeyError, TypeError, ValueError) as error:
        raise GeneratorError(f"generator.toml beside {model}: {error}") from None


def _merge(seen: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    return {name: {**seen.get(name, {}), **told[name]} for name in told}


def _validated(tables: dict[str, Any]) -> Interface:
    latent, label, output = tables["latent"], tables["label"], tables["output"]
    for name in ("latent", "output"):
        shape = tables[name]["shape"]
        sizes = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
        if not sizes or math.prod(shape) >= 2**31:
            raise ValueError(f"[{name}] shape {shape!r} is not a list of sizes")
    classes = label.get("classes")
    if classes is not None and not (isinstance(classes, list) or (type(classes) is int and classes > 0)):
        raise ValueError(f"[label] classes {classes!r} is neither a number nor a list of names")
    if isinstance(classes, int):
        classes = [str(number) for number in range(classes)]
    encoding = label.get("encoding", "integer") if classes else None
    if label and not classes:
        raise ValueError("the model takes a label: [label] needs classes, a number or a list of names")
    if encoding is not None and encoding not in ENCODINGS:
        raise ValueError(f"label encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")
    value_range = output.get("range")
    ends = value_range if isinstance(value_range, list) and len(value_range) == 2 else (0.0, 0.0)
    if value_range is not None and not ends[0] < ends[1]:
        raise ValueError(f"[output] range {value_range!r} is not a pair of numbers, the lower one first")
    return Interface(
        latent_input=str(latent["input"]),
        latent_shape=tuple(int(size) for size in latent["shape"]),
        label_input=str(label["input"]) if label and encoding != "concatenated" else None,
        label_encoding=encoding,
        classes=tuple(str(name) for name in classes) if classes else None,
        sample_shape=tuple(int(size) for size in output["shape"]),
        value_range=(float(value_range[0]), float(value_range[1])) if value_range else None,
    )


def inspect_model(model: Path, model_sha256: str) -> dict[str, Any]:
    """Inputs and output of a model as TensorFlow sees them, kept in the cache by the model's hash.

    TensorFlow runs in a process of its own, so that this one never imports it.
    """
    cached = load_settings().cache_dir / "interfaces" / f"{model_sha256}.json"
    if cached.is_file():
        return dict(json.loads(cached.read_text()))
    command = [sys.executable, "-m", "workers.inspection", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the reason is unknown"])[-1]
        raise GeneratorError(reason.removeprefix("noisemill: "))
    cached.parent.mkdir(parents=True, exist_ok=True)
    draft = cached.with_suffix(f".{os.getpid()}")
    draft.write_text(done.stdout)
    draft.replace(cached)
    return dict(json.loads(done.stdout))
