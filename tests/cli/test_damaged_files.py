"""Every file that is read, damaged in every way: one or two lines, no traceback, and no success over damage.

More examples: NOISEMILL_FUZZ_EXAMPLES=2000, and NOISEMILL_FUZZ_SEED for others.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.cases import TRIED
from tests.cli.conftest import TINY
from tests.cli.running import Outcome, Run

SEED = int(os.environ.get("NOISEMILL_FUZZ_SEED", "1"))
ROUNDS = int(os.environ.get("NOISEMILL_FUZZ_EXAMPLES", "2"))

Mutation = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data or b"x")
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _number(data: bytes, chance: random.Random) -> bytes:
    """Puts an odd number where one is."""
    positions = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    place = chance.choice(positions) if positions else 0
    odd = chance.choice([b"-1", b"9" * 400, b"1e999", b"NaN", b"Infinity", b"-0.0", b"1.5", b"null", b'"1"', b"[]"])
    return data[:place] + odd + data[place + 1 :]


#: Ways to damage the bytes of a file.
BYTES: dict[str, Mutation] = {
    "cut": lambda data, chance: data[: chance.randrange(max(1, len(data)))],
    "longer": lambda data, chance: data + chance.randbytes(1 + chance.randrange(20)),
    "bit": _flip,
    "bits": lambda data, chance: _flip(_flip(_flip(data, chance), chance), chance),
    "number": _number,
    "empty": lambda data, chance: b"",
    "mark": lambda data, chance: b"\xef\xbb\xbf" + data,
    "zeros": lambda data, chance: data.replace(b" ", b"\0") + b"\0",
    "latin": lambda data, chance: data[:9] + b"\xff\xfe\xe9" + data[9:],
    "lines": lambda data, chance: data.replace(b"\n", b"\r\n"),
    "twice": lambda data, chance: data + data,
    "deep": lambda data, chance: b"[" * 100_000,
    "deeper": lambda data, chance: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "noise": lambda data, chance: chance.randbytes(300),
}

#: What may lie in a file's place.
PLACES: dict[str, Callable[[Path], None]] = {
    "folder": lambda path: path.mkdir(),
    "nothing": lambda path: path.symlink_to(path.parent / "nowhere"),
    "itself": lambda path: path.symlink_to(path),
    "pipe": lambda path: os.mkfifo(path),
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "secret": lambda path: path.symlink_to("/etc/passwd"),
}

#: Commands that read a dataset.
READERS = (
    "verify {}",
    "preview {} -o sheet.png",
    "latents {} --index 9",
    "recipe {} -o out.json",
    "export {} out --to npz",
)

#: Files of a dataset; those below carry a hash somewhere, so that `verify` must see any change.
FILES = (
    "job.json", "manifest.json", "shards.jsonl", "receipts/00000001.json", "shards/00000000.npy",
    "shards/00000000.labels.npy", "latents.npy", "labels.npy",
)  # fmt: skip
HASHED = ("shards.jsonl", "shards/00000000.npy", "shards/00000000.labels.npy", "latents.npy", "labels.npy")


def check(outcome: Outcome, what: str, lines: int = 2) -> None:
    """No traceback, a sensible exit code, few lines."""
    assert outcome.code in (0, 1, 2), (what, outcome.err)
    assert "Traceback" not in outcome.err, what
    told = outcome.err.splitlines()
    assert len(told) <= lines, (what, outcome.err)
    assert all(len(line) < 700 for line in told), (what, outcome.err)
    if outcome.code:
        assert outcome.err.startswith("noisemill: "), (what, outcome.err)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole dataset with latents and labels of the user's own."""
    from pipeline.datasets.destination import prepare
    from pipeline.generators import find_generator
    from pipeline.jobs.request import JobRequest
    from tests.making import make_dataset

    folder = tmp_path_factory.mktemp("own")
    np.save(folder / "latents.npy", np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32))
    np.save(folder / "labels.npy", np.arange(20) % 4)
    request = JobRequest(latents=str(folder / "latents.npy"), labels=str(folder / "labels.npy"), shard_size=10)
    spec, uploads = request.resolve(find_generator(str(TINY)))
    prepare(spec, folder / "dataset", uploads)
    return make_dataset(folder / "dataset", spec)


def _with(own: Path, name: str, damage: Callable[[Path], None]) -> Path:
    """A copy in which one file is damaged."""
    copy = Path("copy").absolute()
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(own, copy)
    damage(copy / name)
    return copy


def _fill(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _in_place(path: Path, put: Callable[[Path], None]) -> None:
    path.unlink()
    put(path)


def _read_all(run: Run, copy: Path, what: str, *, seen: bool) -> None:
    for reader in READERS:
        shutil.rmtree("out", ignore_errors=True)
        outcome = run(*reader.format(copy).split())
        TRIED["damaged dataset"] += 1
        check(outcome, f"{reader}: {what}", lines=5 if reader.startswith("verify") else 2)
        if seen and reader.startswith("verify"):
            assert outcome.code == 1, what


@pytest.mark.parametrize("mutation", BYTES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_dataset_is_damaged(run: Run, own: Path, name: str, mutation: str):
    data = (own / name).read_bytes()
    for number in range(ROUNDS):
        chance = random.Random(f"{SEED} {name} {mutation} {number}")
        damaged = BYTES[mutation](data, chance)
        copy = _with(own, name, partial(_fill, damaged))
        _read_all(run, copy, f"{name} {mutation} {number}", seen=name in HASHED and damaged != data)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FILES)
def test_something_else_lies_in_a_files_place(run: Run, own: Path, name: str, place: str):
    copy = _with(own, name, lambda path: _in_place(path, PLACES[place]))
    _read_all(run, copy, f"{name} {place}", seen=True)


#: Values that no field of a record can have.
ODD: list[Any] = [None, True, -1, 1e308, 10**30, "", "x" * 10_000, "\x1b[2J", "\ud800", [], {}, [[]], {"a": None}]


@pytest.mark.parametrize("name", ["job.json", "manifest.json", "receipts/00000001.json"])
def test_a_field_of_a_record_is_odd(run: Run, own: Path, name: str):
    record = json.loads((own / name).read_bytes())
    for field in record:
        for odd in random.Random(f"{SEED} {name} {field}").sample(ODD, min(len(ODD), 2 * ROUNDS)):
            text = json.dumps({**record, field: odd})
            copy = _with(own, name, partial(_fill, text.encode()))
            _read_all(run, copy, f"{name} {field} {odd!r}"[:100], seen=False)


#: Files that a user names: the command that reads them, and a sound one to damage.
NAMED = {
    "latents": "generate {tiny} new --latents {file} --dry-run",
    "labels": "generate {tiny} new --labels {file} --dry-run",
    "words": "generate {tiny} new -n 4 --labels {file} --dry-run",
    "recipe": "reproduce {file} new --trust-generator",
    "keras": "generators inspect {file}",
    "sidecar": "generators inspect m.keras",
    "tfjs": "generators inspect {file}",
    "fleet": "up --config {file}",
}


def _sound(kind: str, own: Path, run: Run) -> tuple[str, bytes]:
    """Name and bytes of a sound file of a kind."""
    if kind in ("latents", "labels"):
        return f"{kind}.npy", (own / f"{kind}.npy").read_bytes()
    if kind == "words":
        return "words.txt", b"circle\nsquare\nstar\ncross\n"
    if kind == "keras":
        shutil.copyfile(TINY.with_suffix(".toml"), "m.toml")
        return "m.keras", TINY.read_bytes()
    if kind == "sidecar":
        shutil.copyfile(TINY, "m.keras")
        return "m.toml", (TINY.with_suffix(".toml").read_bytes())
    if kind == "recipe":
        assert run("recipe", own, "-o", "sound.json").code == 0
        return "r.json", Path("sound.json").read_bytes()
    if kind == "fleet":
        return "fleet.toml", _FLEET.replace("GENERATOR", str(TINY)).encode()
    shutil.copytree(TFJS, "tfjs")
    return "tfjs/model.json", (TFJS / "model.json").read_bytes()


#: A model that TensorFlow.js made.
TFJS = TINY.parents[1] / "generators" / "tfjs" / "conditional"

_FLEET = """redis = "unix:///nowhere"
output_roots = ["/data"]
metrics_port = 9100

[[workers]]
generator = "GENERATOR"
count = 2
device = "cpu"

[s3]
endpoint_url = "http://127.0.0.1:9000"
"""


@pytest.mark.parametrize("kind", NAMED)
def test_a_file_that_the_user_names(run: Run, own: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    """A damaged model that only TensorFlow could judge is not asked about: that takes seconds each."""
    monkeypatch.setattr("pipeline.generators.catalogue.subprocess.run", _no_tensorflow)
    monkeypatch.setattr("pipeline.client.making.make_here", _no_tensorflow)
    name, data = _sound(kind, own, run)
    words = shlex.split(NAMED[kind].format(tiny=shlex.quote(str(TINY)), file=name))
    path = Path(name)
    path.write_bytes(data)
    _check_read(run(*words), kind)
    for mutation, mutate in BYTES.items():
        for number in range(2 * ROUNDS):
            path.write_bytes(mutate(data, random.Random(f"{SEED} {kind} {mutation} {number}")))
            TRIED["damaged file of the user's"] += 1
            outcome = run(*words)
            check(outcome, f"{kind} {mutation} {number}")
            assert "Usage" not in outcome.err
            shutil.rmtree("new", ignore_errors=True)
    for place, put in PLACES.items():
        _in_place(path, put)
        TRIED["damaged file of the user's"] += 1
        outcome = run(*words)
        check(outcome, f"{kind} {place}")
        assert outcome.code or kind == "sidecar", place
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.touch()


def _check_read(outcome: Outcome, kind: str) -> None:
    """What is sound is taken: the words reach what comes after the file."""
    after = {"recipe": "it would be asked about", "keras": "", "sidecar": "", "tfjs": "", "fleet": "unix:///nowhere"}
    if outcome.code:
        assert after.get(kind), outcome.err
        assert after[kind] in outcome.err


def test_a_field_of_a_recipe_is_odd(run: Run, own: Path, monkeypatch: pytest.MonkeyPatch):
    """With the hash that it then must have."""
    monkeypatch.setattr("pipeline.client.making.make_here", _no_tensorflow)
    name, data = _sound("recipe", own, run)
    body = json.loads(data)
    del body["sha256"]
    for field in body:
        for odd in ODD:
            changed = {**body, field: odd}
            text = json.dumps(changed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            hashed = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
            Path(name).write_text(json.dumps({**changed, "sha256": hashed}))
            TRIED["damaged file of the user's"] += 1
            outcome = run("reproduce", name, "new")
            check(outcome, f"{field} {odd!r}"[:100])
            assert outcome.code
            shutil.rmtree("new", ignore_errors=True)


def _no_tensorflow(*_: Any, **__: Any) -> Any:
    from pipeline.common.errors import GeneratorError

    raise GeneratorError("it would be asked about")
