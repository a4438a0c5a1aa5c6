"""`generators init`: a draft that is valid as it stands, and whose questions are answered by taking the # away."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pipeline.generators.interface import interface_of
from pipeline.generators.sidecar import SIDECAR, read_sidecar
from pipeline.generators.sidecar_draft import draft_sidecar
from pipeline.generators.structure import Port, Structure

Z = Port(name="z", shape=(8,))
IMAGE = Port(name="image", shape=(4, 4, 1), value_range=(-1.0, 1.0))


def structure(*inputs: Port, outputs: tuple[Port, ...] = (IMAGE,)) -> Structure:
    return Structure(inputs=inputs, outputs=outputs)


CLEAR = {
    "plain": structure(Z),
    "whole numbers that an embedding takes": structure(Z, Port(name="y", shape=(1,), classes=7)),
    "one-hot": structure(Port(name="label", shape=(5,)), Z),
    "odd names": structure(Port(name='a "quoted" [z]', shape=(3,))),
    "bytes": structure(Z, outputs=(Port(name="x", shape=(2, 2, 3), dtype="uint8"),)),
}
OPEN = {
    "two inputs of numbers": structure(Z, Port(name="w", shape=(10,))),
    "open latent": structure(Port(name="z", shape=(None,))),
    "open output": structure(Z, outputs=(Port(name="x", shape=(None, None, 3)),)),
    "label of unknown classes": structure(Z, Port(name="label", shape=(1,), dtype="int32")),
    "a number without a batch": structure(Z, Port(name="truncation", shape=(), batched=False)),
}


def read(folder: Path, text: str):
    (folder / SIDECAR).write_text(text)
    return read_sidecar([folder / SIDECAR])


@pytest.mark.parametrize("kind", CLEAR)
def test_what_is_clear_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    shown = CLEAR[kind]
    without = interface_of(shown, read(tmp_path, ""), "it")
    assert interface_of(shown, read(tmp_path, draft_sidecar(shown, "it")), "it") == without


@pytest.mark.parametrize("kind", OPEN)
def test_the_questions_answered_as_they_are_asked_make_it_clear(tmp_path: Path, kind: str) -> None:
    text = draft_sidecar(OPEN[kind], "it")
    tomllib.loads(text)
    head, _, rest = text.partition("\n\n")
    answered = re.sub(r"^# ", "", rest, flags=re.M)
    if kind not in ("two inputs of numbers", "label of unknown classes"):
        # Nobody who has no concatenated label answers that question.
        answered = re.sub(r"\[label\].*?\n\n", "\n", answered, flags=re.S)
    assert interface_of(OPEN[kind], read(tmp_path, f"{head}\n{answered}"), "it").latent_input == "z"


def test_several_outputs_are_named(tmp_path: Path) -> None:
    shown = structure(Z, outputs=(IMAGE, Port(name="other", shape=(3,))))
    assert interface_of(shown, read(tmp_path, draft_sidecar(shown, "it")), "it").output == "image"
