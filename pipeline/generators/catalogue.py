"""Finds the generator of a reference."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.common.cache import keep
from pipeline.common.errors import GeneratorError, UnknownGeneratorError
from pipeline.common.processes import error_from_stderr, python_command
from pipeline.common.settings import load_settings
from pipeline.generators.generator import Generator
from pipeline.generators.interface import hints, interface_of
from pipeline.generators.kinds import Kind, content_sha256, find_model, names_of_kinds, size_bytes
from pipeline.generators.remote import fetch, is_remote
from pipeline.generators.sidecar import SIDECAR, read_sidecar
from pipeline.generators.structure import Structure, structure_from_json
from pipeline.generators.trusted_code import Code, code_offers

BUILTIN_FOLDER = Path(__file__).parent / "builtin"


def builtin_names(folder: Path = BUILTIN_FOLDER) -> list[str]:
    """Names of the built-in models of a folder: the generators."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and find_model(path) is not None)


def find_generator(reference: str) -> Generator:
    """The generator of a reference: the name of a built-in one, a path, or an s3:// URL.

    Raises UnknownGeneratorError if there is none, GeneratorError if it cannot be used.
    """
    kind, model = locate(reference)
    builtin = reference in builtin_names()
    sidecar = read_sidecar(sidecar_paths(model))
    content = content_sha256(kind, model)
    offers = [] if builtin else code_offers(model, sidecar.code)
    structure = structure_of(kind, model, content, sidecar.signature, offers)
    code = next((offer for offer in offers if tuple(file.sha256 for file in offer) == structure.code), ())
    interface = interface_of(structure, sidecar, reference)
    fields = asdict(interface)
    for name in ("constants", "latent_parts", "noise_inputs", "attributes_input", "signature", "denoiser"):
        if not fields[name]:  # Younger than many a dataset, whose digest must stay.
            del fields[name]
    if code:
        fields["code"] = structure.code
    identity = json.dumps([content, fields], sort_keys=True)
    return Generator(
        reference=reference if builtin or is_remote(reference) else str(model.resolve()),
        kind=kind.name,
        model=model,
        name=reference if builtin else short_name(reference if is_remote(reference) else str(model)),
        summary=sidecar.summary,
        content=content,
        digest="sha256:" + hashlib.sha256(identity.encode()).hexdigest(),
        size_bytes=size_bytes(kind, model),
        structure=replace(structure, notes=(*structure.notes, *hints(interface, sidecar))),
        interface=interface,
        code=code,
        sampler=sidecar.sampler,
        about=sidecar.about,
    )


def structure_of(
    kind: Kind, model: Path, content: str, signature: str | None = None, offers: Sequence[Code] = ()
) -> Structure:
    """The structure of a model, by one of its signatures; with the first of `offers` that suffices to load it.

    Raises GeneratorError if it cannot be used.
    """
    if signature is not None and kind.name != "saved_model":
        raise GeneratorError(f"generator {model}: {SIDECAR} names a signature, which SavedModels alone have")
    try:
        known = kind.structure(model)
    except GeneratorError:
        if not offers:
            raise
        known = None
    return known or _structure_by_tensorflow(kind, model, content, signature, offers)


def locate(reference: str, what: str = "generator", folder: Path = BUILTIN_FOLDER) -> tuple[Kind, Path]:
    """Kind and path of the model of a reference, downloaded if it is remote; it is not loaded.

    `folder` has the built-in ones, and `what` is what messages call it. Raises UnknownGeneratorError if there is none.
    """
    builtin = builtin_names(folder)
    if not reference or "\0" in reference:
        raise UnknownGeneratorError(
            f"the {what}'s name is empty: built in: {', '.join(builtin)}; or give {names_of_kinds()}"
        )
    if reference in builtin:
        path = folder / reference
    else:
        path = fetch(reference) if is_remote(reference) else _path(reference, what, builtin)
    found = find_model(path)
    if found is None:
        raise UnknownGeneratorError(f"{what} {reference!r} is not {names_of_kinds()}")
    return found


def _path(reference: str, what: str, builtin: list[str]) -> Path:
    # os.path returns False also for paths that are too long or in a folder without access.
    path = Path(os.path.expanduser(reference.removeprefix("file://")))
    is_model = find_model(path) is not None
    if os.path.isdir(path) and not is_model:
        raise UnknownGeneratorError(f"{what} {reference!r} is a folder without a model.keras in it, or another model")
    if is_model or os.path.exists(path):  # A checkpoint's name is that of no file.
        return path
    if os.sep in reference or path.suffix:
        raise UnknownGeneratorError(f"{what} {reference!r}: there is no such file")
    near = difflib.get_close_matches(reference, builtin, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"built in: {', '.join(builtin)}; or give {names_of_kinds()}"
    raise UnknownGeneratorError(f"{what} {reference!r} is unknown: {hint}")


def short_name(place: str) -> str:
    """The name of a model's file, or of its folder if the file's name is generic."""
    path = Path(place)
    if path.suffix not in (".keras", ".json"):
        return path.name
    return path.parent.name if path.stem in ("model", "untrained") else path.stem


def sidecar_paths(model: Path) -> list[Path]:
    """Possible paths of a sidecar: `NAME.toml` beside NAME.keras, or `generator.toml` beside or inside the model."""
    if model.is_dir():
        return [model / SIDECAR, model.parent / f"{model.name}.toml"]
    return [model.with_suffix(".toml"), model.parent / SIDECAR]


def _structure_by_tensorflow(
    kind: Kind, model: Path, content: str, signature: str | None, offers: Sequence[Code]
) -> Structure:
    """The structure of a model by TensorFlow, cached by the hashes of the model and its code, and the signature.

    TensorFlow runs in a process of its own, so that this one never imports it.
    """
    hashes = [[file.sha256 for file in offer] for offer in offers]
    key = content
    if signature is not None or hashes:
        key = hashlib.sha256(" ".join(filter(None, [content, signature, *map(str, hashes)])).encode()).hexdigest()
    cached = load_settings().cache_dir / "structures" / f"{key}.json"
    try:
        return structure_from_json(json.loads(cached.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # Not cached yet, or written by another version.
    asked = {
        "kind": kind.name,
        "model": str(model),
        "signature": signature,
        "offers": [[[str(file.path), file.sha256] for file in offer] for offer in offers],
    }
    command = python_command("workers.once.inspection", json.dumps(asked))
    with tempfile.TemporaryDirectory(prefix="noisemill-inspection-") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    if done.returncode:
        raise GeneratorError(error_from_stderr(done.stderr))
    structure = structure_from_json(json.loads(done.stdout))
    keep(cached, done.stdout)
    return structure
