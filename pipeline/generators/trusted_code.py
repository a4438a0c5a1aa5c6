"""Code of a model's author that the user trusts: `--trust FILE.py`, or `--trust` for what generator.toml names.

Code is never run because it is next to a model. Nothing is run here either: workers run it, after they have checked
that it still has the hash that is part of the generator's digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import GeneratorError, UsageError, shown
from pipeline.common.files import open_regular
from pipeline.common.settings import TRUST_OWN, load_settings

#: Passes the trusted files to the processes that load generators: paths separated by ":".
TRUST_VARIABLE = "NOISEMILL_TRUST"


@dataclass(frozen=True)
class CodeFile:
    """A file whose code may run when a model is loaded: FILE.py, or a model that holds code itself."""

    path: Path
    sha256: str


#: Files in the order in which they are run.
Code = tuple[CodeFile, ...]


def trust(files: Sequence[str]) -> None:
    """Has this process and its children trust the code in these files; `TRUST_OWN` stands for the model's own.

    Raises UsageError for anything but Python files.
    """
    for file in files:
        if file != TRUST_OWN and (not file.endswith(".py") or not os.path.isfile(file) or os.pathsep in file):
            raise UsageError(
                f"--trust {shown(file)} is not a Python file: give FILE.py, "
                f"or --trust alone, after all else, for the code that {TRUST_OWN} names"
            )
    if files:
        os.environ[TRUST_VARIABLE] = os.pathsep.join(
            file if file == TRUST_OWN else os.path.abspath(file) for file in files
        )


def code_offers(model: Path, named: Sequence[Path]) -> list[Code]:
    """The code that may be run to load a model, the least first; `named`: by its own file. Raises GeneratorError."""
    trusted = [each for each in load_settings().trust.split(os.pathsep) if each]
    files = [Path(each) for each in trusted if each != TRUST_OWN]
    if TRUST_OWN in trusted:
        files += [path for path in named if path not in files]
    code = tuple(map(_code_file, files))
    inside = [(*code, _code_file(model))] if TRUST_OWN in trusted and model.is_file() else []
    return [*([code] if code else []), *inside]


def _code_file(path: Path) -> CodeFile:
    try:
        with open_regular(path) as file:
            return CodeFile(path=path, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise GeneratorError(f"the code {path} cannot be read: {error.strerror or error}") from None
