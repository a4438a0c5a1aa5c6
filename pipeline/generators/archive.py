"""Checks a `.keras` file, which is a zip, and reads its `config.json`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.common.errors import GeneratorError

CONFIG, METADATA = "config.json", "metadata.json"
_WEIGHTS = ("model.weights.h5", "model.weights.npz")

#: Advice about a model that needs code.
EXPORT = "where it was made, save it by model.export('FOLDER'), which needs neither classes nor code here"
WAYS_OUT = f"give their code with --trust FILE.py, or {EXPORT}"

#: Errors of `zipfile` for a file that is damaged or not a zip.
DAMAGE = (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError)
#: Largest description, bytes.
MOST_CONFIG_BYTES = 64 * 2**20
#: Largest ratio of compression. Weights hardly compress, so more is an attempt to fill the disk.
_MOST_RATIO = 50


def read_config(path: Path, *, trusted: bool = False) -> dict[str, Any]:
    """`config.json` of a `.keras` file. Raises GeneratorError if the file is damaged or dangerous.

    A `trusted` file may contain Python code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive)
            config = json.loads(archive.read(CONFIG))
    except DAMAGE as error:
        raise GeneratorError(f"generator {path} is no whole .keras file: {error}") from None
    except (ValueError, RecursionError) as error:
        raise GeneratorError(f"generator {path}: its {CONFIG} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise GeneratorError(f"generator {path}: its {CONFIG} describes no model")
    if not trusted and "Lambda" in _class_names(config):
        raise GeneratorError(
            f"generator {path} holds a Lambda layer: Python code that could do anything when it is loaded; "
            f"say --trust if you trust who made it, or {EXPORT}"
        )
    return config


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise GeneratorError(f"generator {path} holds {entry.filename[:80]!r}, which would leave its folder")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MOST_RATIO * max(path.stat().st_size, 2**20):
        raise GeneratorError(f"generator {path} would unpack to {unpacked:,} bytes: that is no model")
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise GeneratorError(f"generator {path} holds a file twice")
    if CONFIG not in names or not any(name in names for name in _WEIGHTS):
        missing = CONFIG if CONFIG not in names else _WEIGHTS[0]
        raise GeneratorError(f"generator {path} is no .keras file: there is no {missing} in it")
    if archive.getinfo(CONFIG).file_size > MOST_CONFIG_BYTES:
        raise GeneratorError(f"generator {path}: its {CONFIG} has more than {MOST_CONFIG_BYTES:,} bytes")


def _class_names(value: Any) -> Iterator[str]:
    """Class names anywhere in a description."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if isinstance(each.get("class_name"), str):
                yield each["class_name"]
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
