"""`noisemill.toml`: the configuration of one machine for `noisemill up`."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import UsageError, shown
from pipeline.common.files import first_line, read_regular
from pipeline.common.quantities import MAX_WORKERS
from pipeline.fleet.launch import DEVICE

#: The file that `up` reads in the current folder.
FILE_NAME = "noisemill.toml"

#: Key in the table [s3] -> environment variable.
_S3_VARIABLES = {"endpoint_url": "AWS_ENDPOINT_URL", "region": "AWS_DEFAULT_REGION"}


@dataclass(frozen=True, kw_only=True)
class WorkersTable:
    """One table [[workers]]: a generator and its device."""

    generator: str
    #: "auto", "cpu", "gpu" or "gpu:N".
    device: str = "auto"
    #: Number of workers; 0: one per GPU, or one on the CPU.
    count: int = 0
    #: Threads of each on the CPU; 0: the cores are divided.
    threads: int = 0
    #: Replaces the file's own; None: those of the file.
    output_roots: tuple[str, ...] | None = None
    #: Judges that it may load, besides the built-in ones.
    judges: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """The content of the file; None for missing keys."""

    workers: tuple[WorkersTable, ...]
    redis: str | None = None
    output_roots: tuple[str, ...] = ()
    per_gpu: int = 1
    metrics_port: int = 0
    log_level: str | None = None
    log_format: str | None = None
    scheduler: bool = False
    #: Environment variables from [s3].
    environment: Mapping[str, str]


def load_fleet_config(path: Path) -> FleetConfig:
    """Reads a file; relative paths are relative to it. Raises UsageError with the place of the error."""
    try:
        data = tomllib.loads(read_regular(path).decode())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # Also for malformed TOML and UTF-8.
        raise UsageError(f"{path} is not TOML: {first_line(error)}") from None
    tables = data.pop("workers", None)
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f'{path} has no workers: write [[workers]] and generator = "fashion"')
    s3 = data.pop("s3", {})
    top = _checked(data, _TOP, str(path))
    groups = [_checked(table, _WORKERS, f"{path}, [[workers]] {number}") for number, table in enumerate(tables, 1)]
    for number, group in enumerate(groups, 1):
        if "generator" not in group:
            raise UsageError(f'{path}, [[workers]] {number}: generator is missing, such as generator = "fashion"')
        group["generator"] = _from(path, group["generator"])
        group["judges"] = tuple(_from(path, judge) for judge in group.get("judges", ()))
    variables = _checked(s3 if isinstance(s3, dict) else {"s3": s3}, _S3, f"{path}, [s3]")
    return FleetConfig(
        workers=tuple(WorkersTable(**group) for group in groups),
        environment={_S3_VARIABLES[name]: value for name, value in variables.items()},
        **top,
    )


def _from(path: Path, reference: str) -> str:
    """A model's path relative to the configuration file; names and URLs are unchanged."""
    if "://" in reference or os.path.isabs(reference) or not os.path.exists(path.parent / reference):
        return reference
    return str((path.parent / reference).resolve())


# -- values --------------------------------------------------------------------------------------------------

_Check = tuple[Callable[[Any], bool], str]


def _whole(least: int, most: int) -> _Check:
    return lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}"


def _one_of(*words: str) -> _Check:
    return lambda value: value in words, " or ".join(f'"{word}"' for word in words)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text for text in value)


_TEXT: _Check = (lambda value: isinstance(value, str) and value != "", "text in quotes")
_TEXTS: _Check = (_is_texts, 'a list of text, such as ["/data"]')

_TOP: dict[str, _Check] = {
    "redis": _TEXT,
    "output_roots": _TEXTS,
    "per_gpu": _whole(1, 64),
    "metrics_port": _whole(0, 65535),
    "log_level": _one_of("debug", "info", "warning", "error"),
    "log_format": _one_of("text", "json"),
    "scheduler": (lambda value: isinstance(value, bool), "true or false"),
}
_WORKERS: dict[str, _Check] = {
    "generator": _TEXT,
    "device": (
        lambda value: isinstance(value, str) and DEVICE.fullmatch(value) is not None,
        '"auto", "cpu", "gpu" or "gpu:N"',
    ),
    "count": _whole(1, MAX_WORKERS),
    "threads": _whole(1, 4096),
    "output_roots": _TEXTS,
    "judges": _TEXTS,
}
_S3: dict[str, _Check] = {"endpoint_url": _TEXT, "region": _TEXT}


def _checked(table: dict[str, Any], checks: dict[str, _Check], where: str) -> dict[str, Any]:
    """The table, with lists as tuples. Raises UsageError for an unknown key or an invalid value."""
    for name, value in table.items():
        if name not in checks:
            near = difflib.get_close_matches(name, checks, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(checks)}"
            raise UsageError(f"{where}: {name} is unknown, {hint}")
        fits, expected = checks[name]
        if not fits(value):
            raise UsageError(f"{where}: {name} = {shown(value)} is not {expected}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
