"""What the card and the report tell people to paste: the commands make the same dataset, the code reads it."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli.making import generate_command
from pipeline.datasets.report.code_examples import checking, making, reading, recipe
from pipeline.generators import find_generator
from pipeline.jobs.request import JobRequest
from tests.datasets.test_dataset import FORMS, npy
from tests.end_to_end.fleet import TINY
from tests.making import make_dataset, make_spec

REQUESTS: list[dict[str, Any]] = [
    {"count": 1000},
    {"count": 1000, "seed": 9, "shard_size": 77, "dtype": "float16", "noise": "truncated:1.5", "batch": 64},
    {"count": 40, "format": "png", "layout": "class", "labels": "class:2"},
    {"count": 40, "format": "tar", "labels": "random"},
    {"labels": "counts:0=10,3=50"},
    {"latents": "x/latents.npy"},
    {"latents": "x/latents.npy", "labels": "x/labels.npy"},
]  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_command_makes_the_same_samples(
    request_: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    np.save("x/latents.npy", np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32))
    np.save("x/labels.npy", np.zeros(30, np.int32))
    generator = find_generator(TINY)
    spec, _ = JobRequest(**request_).resolve(generator)
    words = shlex.split(making(spec, "x").code.replace("\\\n", " "))
    assert words[:4] == ["noisemill", "generate", spec.generator, "again"]
    options = generate_command.make_context("generate", words[2:]).params
    again = JobRequest(**{name: options[name] for name in JobRequest.__dataclass_fields__})
    assert again.resolve(generator)[0].sha256 == spec.sha256


@pytest.mark.parametrize("form", FORMS)
def test_the_code_reads_it(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no library beyond noisemill's own; the others' are in tests/compat."""
    uploads = {"latents.npy": npy(np.zeros((100, 8), np.float32)), "labels.npy": npy(np.zeros(100, np.int32))}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in uploads.items()}
    changes = {"latents": hashes["latents.npy"], "labels": f"file:{hashes['labels.npy']}"} if form == "npy" else {}
    folder = make_dataset(tmp_path / "d", make_spec(**{**FORMS[form], **changes}), uploads=uploads if changes else {})
    monkeypatch.chdir(folder)
    run = 0
    for snippet in reading(make_spec(**FORMS[form])):
        if snippet.title in ("numpy", "Pillow", "noisemill"):
            names: dict[str, Any] = {}
            exec(snippet.code, names)
            assert len(names["dataset" if snippet.title == "noisemill" else "samples"]) > 0
            run += 1
        compile(snippet.code, snippet.title, "exec")
    assert run >= 1


def test_places_with_spaces_are_quoted() -> None:
    for snippet in (checking("/my data/x"), recipe("/my data/x y")):
        assert all(
            "/my data/x" in " ".join(shlex.split(line)) or "recipe.json" in line for line in snippet.code.split("\n")
        )
        assert "'/my data/x" in snippet.code
