"""Every mistake gets one or two clear lines and the right exit code, and changes nothing at the destination.

2 is for wrong usage, that is for values that the user typed; 1 for what was there and did not work.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.jobs.ledger import Ledger
from tests.cli.conftest import TINY
from tests.cli.running import Outcome, Run, tree
from tests.data.described import write_described
from tests.servers import RcloneS3, Valkey, free_port

# -- what is checked of every answer ------------------------------------------------------------------


def assert_clear(outcome: Outcome, code: int, *says: str, lines: int = 2) -> None:
    """One or two lines on stderr that begin as they should, nothing on stdout, no traceback."""
    told = outcome.err.splitlines()
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert 1 <= len(told) <= lines, outcome.err
    assert told[0].startswith("noisemill: "), outcome.err
    assert "Traceback" not in outcome.err
    assert "Error(" not in outcome.err
    assert max(map(len, told)) < 500, outcome.err
    for part in says:
        assert part in outcome.err, f"{part!r} is not in {outcome.err!r}"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    """Files and folders that mistakes are made with. No test may change any of it."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(whole, folder / "other")
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    (folder / "bare").mkdir()
    (folder / "file").write_text("a file")
    (folder / "link").symlink_to(folder / "file")
    _write_arrays(folder)
    _write_labels(folder)
    _write_generators(folder)
    return folder


def _write_arrays(folder: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)
    arrays: dict[str, Any] = {
        "good": rows,
        "narrow": rows[:, :7],
        "flat": rows[0],
        "none": rows[:0],
        "whole": rows.astype(np.int64),
        "nan": np.where(rows > 1, np.nan, rows),
        "huge": rows.astype(np.float64) * 1e300,
        "complex": rows.astype(np.complex64),
        "scalar": np.float32(3),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(folder / "several.npz", rows=rows)
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-5])
    (folder / "header.npy").write_bytes((folder / "good.npy").read_bytes()[:20])
    (folder / "text.npy").write_text("1 2 3")
    (folder / "void.npy").write_bytes(b"")


def _write_labels(folder: Path) -> None:
    np.save(folder / "five.npy", np.zeros(5, np.int32))
    np.save(folder / "beyond.npy", np.array([0, 1, 99]))
    np.save(folder / "negative.npy", np.array([0, -1]))
    np.save(folder / "table.npy", np.zeros((2, 2), np.int32))
    np.save(folder / "floats.npy", np.zeros(4))
    (folder / "typo.txt").write_text("circle\nsqare\n")
    (folder / "numbers.txt").write_text("0\n1\n7\n")
    (folder / "odd.txt").write_text("0\n\u00b2\n")
    (folder / "long.txt").write_text("9" * 5000)
    (folder / "gap.txt").write_text("0\n\n1\n")
    (folder / "blank.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)))


_SIDECAR = '[latent]\ninput = "latent"\nshape = [8]\n[output]\nshape = [5]\n'


def _write_generators(folder: Path) -> None:
    sidecars: dict[str, str | bytes] = {
        "vector": _SIDECAR,
        "volume": _SIDECAR.replace("[5]", "[4, 4, 2]"),
        "toml": "[latent\n",
        "bytes": b"\xff\xfe\x00",
        "table": "latent = 3\n",
        "size": _SIDECAR.replace("[8]", "[-8]"),
        "shape": _SIDECAR.replace("[8]", '"8"'),
        "endless": _SIDECAR.replace("[5]", "[99999999, 99999999]"),
        "range": _SIDECAR + "range = [1]\n",
        "backwards": _SIDECAR + "range = [1.0, -1.0]\n",
        "encoding": _SIDECAR + '[label]\ninput = "label"\nclasses = 3\nencoding = "binary"\n',
        "classless": _SIDECAR + '[label]\ninput = "label"\n',
        "classes": _SIDECAR + '[label]\ninput = "label"\nclasses = -3\n',
        "names": _SIDECAR + '[label]\ninput = "label"\nclasses = "cat"\n',
    }
    for name, text in sidecars.items():
        output = [4, 4, 2] if name == "volume" else [5]
        write_described(folder / f"{name}.keras", [8], output, label=name == "classless")
        (folder / f"{name}.toml").write_bytes(text if isinstance(text, bytes) else text.encode())


# -- values of options ----------------------------------------------------------------------------------

#: Mistakes in the options of `generate` and `submit`, and what the answer must tell.
OPTIONS = {
    "": "give --count",
    "-n 0": "count '0'",
    "-n -5": "count '-5'",
    "-n ten": "count 'ten' is not a number: use for example",
    "-n 1e3": "count '1e3'",
    "-n 1.5": "not a whole number",
    "-n 2T": "count '2T'",
    "-n 1,5k": "count '1,5k'",
    "-n ''": "count ''",
    "-n \u00b2": "is not a number",
    f"-n {'9' * 5000}": "is not a number",
    "-n 1_000_000_000_001": "between 1 and 1,000,000,000,000",
    "-n": "requires an argument",
    "-n 10 --seed -1": "'-1' is not a whole number from 0 to 4294967295",
    "-n 10 --seed 4294967296": "'4294967296' is not a whole number",
    "-n 10 --seed x": "'x' is not a whole number",
    "-n 10 --seed 1.5": "'1.5' is not a whole number",
    "-n 10 --seed \u00b2": "is not a whole number",
    "-n 10 --shard-size 0": "shard size '0'",
    "-n 10 --shard-size -1": "shard size '-1'",
    "-n 10 --shard-size big": "shard size 'big'",
    "-n 1G --shard-size 1": "use a larger shard size",
    "-n 10 --batch 0": "'0' is neither 'auto' nor",
    "-n 10 --batch -1": "'-1' is neither 'auto' nor",
    "-n 10 --batch many": "'many' is neither 'auto' nor",
    "-n 10 --batch \u00b2": "is neither 'auto' nor",
    "-n 10 --batch 1048577": "'1048577' is neither",
    "-n 10 --format jpg": "format 'jpg' is unknown: did you mean png?",
    "-n 10 --format hdf5": "format 'hdf5' is unknown: use npy, png, tar, tfrecord, parquet",
    "-n 10 --format ''": "format '' is unknown",
    "-n 10 --dtype float64": "dtype 'float64' is not float32, float16 or uint8",
    "-n 10 --dtype ''": "dtype",
    "-n 10 --precision half": "precision 'half' is not float32, tf32, mixed_float16 or mixed_bfloat16",
    "-n 10 --format png --dtype float32": "png stores uint8, not float32",
    "-n 10 --format tar --dtype float16": "tar stores uint8, not float16",
    "-n 10 --layout rows": "layout 'rows' is not flat or class",
    "-n 10 --layout class": "npy has no layout 'class': use flat",
    "-n 10 --format tar --layout class": "tar has no layout 'class'",
    "-n 10 --format tfrecord --layout class": "tfrecord has no layout 'class'",
    "-n 10 --format parquet --layout class": "parquet has no layout 'class'",
    "-n 10 --labels evenly": "label plan 'evenly' is unknown: use balanced",
    "-n 10 --labels ''": "label plan ''",
    "-n 10 --labels balanced:3": "label plan 'balanced:3'",
    "-n 10 --labels class:": "label plan 'class:'",
    "-n 10 --labels class:9": "class 9 does not exist, the generator has 0 to 3",
    "-n 10 --labels class:\u00b2": "is unknown: use one of circle",
    "-n 10 --labels class:sqare": "did you mean 'square'?",
    "-n 10 --labels class:dog": "use one of circle, square, star, cross",
    "-n 10 --labels counts:": "label plan 'counts:'",
    "-n 10 --labels counts:0": "'0' is not CLASS=COUNT",
    "-n 10 --labels counts:0=x": "'0=x'",
    "-n 10 --labels counts:0=0": "'0=0'",
    "-n 10 --labels counts:0=\u00b2": "is not a number",
    "-n 10 --labels counts:9=10": "class 9 does not exist",
    "-n 10 --labels counts:0=5,1=6": "are 11, the samples 10",
    "-n 10 --labels nowhere.npy": "nowhere.npy cannot be read: No such file or directory",
    "-n 10 --labels nowhere.txt": "nowhere.txt cannot be read: No such file or directory",
    "-n 10 --labels five.npy": "are 5, the samples 10",
    "--labels beyond.npy": "99 at row 2 is not a class, they are 0 to 3",
    "--labels negative.npy": "-1 at row 1 is not a class",
    "--labels table.npy": "int32 of shape (2, 2), not whole numbers of shape (count,)",
    "--labels floats.npy": "float64",
    "--labels none.npy": "none.npy",
    "--labels cut.npy": "cut.npy are not an .npy array",
    "--labels text.npy": "text.npy are not an .npy array",
    "--labels void.npy": "void.npy are not an .npy array",
    "--labels objects.npy": "objects.npy are not an .npy array",
    "--labels typo.txt": "'sqare' in line 2 is not a class, did you mean 'square'?",
    "--labels numbers.txt": "7 at row 2 is not a class",
    "--labels odd.txt": "in line 2 is not a class",
    "--labels long.txt": "in line 1 is not a class",
    "--labels gap.txt": "'' in line 2 is not a class",
    "--labels blank.txt": "blank.txt",
    "--labels binary.txt": "binary.txt are not text",
    "-n 10 --noise gauss": "noise 'gauss' is unknown: use normal",
    "-n 10 --noise ''": "noise ''",
    "-n 10 --noise normal:": "noise 'normal:'",
    "-n 10 --noise normal:0": "between 1e-06 and 100",
    "-n 10 --noise normal:nan": "between 1e-06 and 100",
    "-n 10 --noise normal:x": "'x' is not a number",
    "-n 10 --noise uniform:2": "uniform takes no parameter",
    "-n 10 --noise truncated": "needs its threshold: for example truncated:2",
    "-n 10 --noise truncated:0": "between 0.1 and 100",
    "-n 10 --noise truncated:inf": "between 0.1 and 100",
    "--latents nowhere.npy": "nowhere.npy cannot be read: No such file or directory",
    "--latents bare": "bare cannot be read: Is a directory",
    "--latents narrow.npy": "(10, 7), the generator takes (count, 8)",
    "--latents flat.npy": "(8,), the generator takes (count, 8)",
    "--latents scalar.npy": "the generator takes (count, 8)",
    "--latents none.npy": "(0, 8), the generator takes (count, 8)",
    "--latents whole.npy": "int64, not floating point",
    "--latents complex.npy": "complex64, not floating point",
    "--latents nan.npy": "hold NaN or infinity",
    "--latents huge.npy": "hold NaN or infinity",
    "--latents cut.npy": "cut.npy are not an .npy array",
    "--latents header.npy": "header.npy are not an .npy array",
    "--latents text.npy": "text.npy are not an .npy array",
    "--latents void.npy": "void.npy are not an .npy array",
    "--latents objects.npy": "objects.npy are not an .npy array",
    "--latents several.npz": "several.npz are not an .npy array",
    "--latents good.npy -n 11": "count 11 is not the 10 rows of good.npy: leave --count out",
    "--latents good.npy --noise uniform": "exclude each other",
    "--latents good.npy --labels five.npy": "are 5, the samples 10",
    "-n 10 --workers 0": "'0' is not a whole number from 1 to 1024",
    "-n 10 --workers all": "'all' is not a whole number",
    "-n 10 --cuont 3": "--count",
    "-n 10 --json=yes": "--json",
    "-n 10 again": "again",
}


@pytest.mark.parametrize("command", ["generate", "submit"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda text: text[:60])
def test_options_of_a_job(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, command: str, options: str):
    monkeypatch.chdir(world)
    before = tree(world)
    assert_clear(run(command, TINY, world / "new", *shlex.split(options)), 2, OPTIONS[options])
    assert tree(world) == before


#: Mistakes of other commands: words, and what the answer must tell.
WORDS = {
    "generat": "Did you mean 'generate'?",
    "frobnicate": "No such command 'frobnicate'",
    "--verson": "--version",
    "generate": "Missing argument 'GENERATOR'",
    "generate fashion": "Missing argument 'DEST'",
    "generate fashion new -n 10 --device tpu": "'tpu' is unknown: use auto, cpu, gpu or gpu:N",
    "generate fashion new -n 10 --device gpu:x": "'gpu:x' is unknown",
    "submit fashion new -n 10 --priority 10": "'10' is not a whole number from 0 to 9",
    "submit fashion new -n 10 --priority high": "'high' is not a whole number from 0 to 9",
    "submit fashion new -n 10 --priority -1": "'-1' is not a whole number from 0 to 9",
    "submit fashion new -n 10 --redis": "requires an argument",
    "jobs extra": "extra",
    "status": "Missing argument 'JOB'",
    "watch": "Missing argument 'JOB...'",
    "cancel": "Missing argument 'JOB'",
    "resume": "Missing argument 'JOB_OR_DEST'",
    "resume fashion-1234567890": "is not a folder; if it is a job's id, add --redis",
    "resume other --workers 0": "'0' is not a whole number",
    "resume other --device tpu": "'tpu' is unknown",
    "verify": "Missing argument 'DEST'",
    "verify other --recompute -1": "'-1' is not a whole number",
    "verify other --recompute some": "'some' is not a whole number",
    "preview": "Missing argument 'DEST'",
    "preview other -o bare": "is a directory",
    "latents": "Missing argument 'DEST'",
    "latents other": "Missing option '--index'",
    "latents other --index -1": "'-1' is not a whole number",
    "latents other --index 100": "the dataset has 100",
    "latents other --index 99 --count 2": "samples 99 to 100 do not all exist: the dataset has 100",
    "latents other --index 0 --count 0": "count '0'",
    "latents other --index 0 -o bare": "is a directory",
    "generators inspekt": "Did you mean 'inspect'?",
    "generators inspect": "Missing argument 'REF'",
    "worker": "Missing argument 'GENERATOR'",
    "worker fashion --device tpu": "'tpu' is unknown",
    "worker fashion --threads -1": "'-1' is not a whole number",
    "worker fashion --log-level loud": "'loud' is not one of",
    "worker fashion --output-root ftp://x --redis unix:///nowhere": "ftp://...",
    "up": "no generator:",
    "up fashion --workers 0": "'0' is not a whole number",
    "workers extra": "extra",
    "doctor one two": "two",
}


@pytest.mark.parametrize("words", WORDS)
def test_words(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, words: str):
    monkeypatch.chdir(world)
    before = tree(world)
    assert_clear(run(*shlex.split(words)), 2, WORDS[words])
    assert tree(world) == before


@pytest.mark.parametrize("name", ["SLICE_S", "LEASE_S", "RECONCILE_S", "STORE_PATIENCE_S"])
@pytest.mark.parametrize("value", ["x", "0", "-1", "nan", "inf"])
def test_environment(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(f"NOISEMILL_{name}", value)
    assert_clear(run("jobs"), 2, f"NOISEMILL_{name}={value!r} is not a number of seconds above 0")


# -- generators -----------------------------------------------------------------------------------------

#: References that lead nowhere (2), and generators that are there but malformed (1).
GENERATORS = {
    "fashon": (2, "generator 'fashon' is unknown: did you mean 'fashion'?"),
    "zebra": (
        2,
        "generator 'zebra' is unknown: built in: article, article-28, fashion, fashion-flow; or give a .keras",
    ),
    "": (2, "the generator's name is empty"),
    "nowhere.keras": (2, "there is no such file"),
    "no/where": (2, "there is no such file"),
    "bare": (2, "is a folder without a model"),
    "file": (2, "file"),
    "toml.keras": (1, "toml.toml cannot be read"),
    "bytes.keras": (1, "bytes.toml"),
    "table.keras": (1, "latent is 3"),
    "size.keras": (1, "latent"),
    "shape.keras": (1, "latent"),
    "endless.keras": (1, "output"),
    "range.keras": (1, "range"),
    "backwards.keras": (1, "range"),
    "encoding.keras": (1, "'binary' is not one of integer, one_hot, concatenated"),
    "classless.keras": (1, "[label] needs classes"),
    "classes.keras": (1, "classes -3"),
    "names.keras": (1, "classes 'cat'"),
}

_WITH_GENERATOR = {
    "generate": "generate {} new -n 10",
    "submit": "submit {} new -n 10 --redis unix:///nowhere",
    "inspect": "generators inspect {}",
    "worker": "worker {} --redis unix:///nowhere",
    "up": "up {} --redis unix:///nowhere",
}


@pytest.mark.parametrize("command", _WITH_GENERATOR)
@pytest.mark.parametrize("reference", GENERATORS)
def test_generators(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, command: str, reference: str):
    monkeypatch.chdir(world)
    before = tree(world)
    code, says = GENERATORS[reference]
    outcome = run(*(word or reference for word in shlex.split(_WITH_GENERATOR[command].format("''"))))
    assert_clear(outcome, code, says)
    assert tree(world) == before


@pytest.mark.parametrize(
    ("generator", "options", "says"),
    [
        ("vector.keras", "--format png", "png needs images of 1, 3 or 4 channels"),
        ("vector.keras", "--format tar", "the samples are (5,); use npy"),
        ("volume.keras", "--format png", "the samples are (4, 4, 2); use npy"),
        ("vector.keras", "--dtype uint8", "uint8 needs the value range of the generator"),
        ("vector.keras", "--labels balanced", "this generator has no classes"),
        ("vector.keras", "--labels five.npy", "this generator has no classes"),
    ],
)
def test_what_a_generator_cannot_do(
    run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, generator: str, options: str, says: str
):
    monkeypatch.chdir(world)
    before = tree(world)
    assert_clear(run("generate", generator, "new", "-n", "10", *shlex.split(options)), 2, says)
    assert tree(world) == before


def test_a_file_that_is_no_model(tmp_path: Path):
    """A zip that is cut off."""
    model = tmp_path / "cut.keras"
    model.write_bytes(TINY.read_bytes()[:2000])
    command = [sys.executable, "-m", "pipeline.cli", "generate", str(model), "new", "-n", "10"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=600)
    assert_clear(Outcome(done.returncode, done.stdout, done.stderr), 1, f"generator {model} is no whole .keras file")
    assert not (tmp_path / "new").exists()


# -- destinations -----------------------------------------------------------------------------------------

#: Where nothing can be written or read, for `generate`: place, exit code, what the answer must tell.
DESTINATIONS = {
    "": (2, "the destination is empty"),
    "ftp://host/x": (2, "destination ftp://... cannot be written"),
    "ftp://user:secret@host/x": (2, "destination ftp://..."),
    "gs://bucket/x": (2, "destination gs://..."),
    "https://host/x": (2, "destination https://..."),
    "s3://": (2, "has no valid bucket"),
    "s3:///x": (2, "has no valid bucket"),
    "s3:bucket/x": (2, "s3"),
    "s3://bucket/../x": (2, "'..'"),
    "s3://bucket//x": (2, "empty part"),
    "s3://key:secret@bucket/x": (2, "has no user in it"),
    f"s3://bucket/{'x' * 1000}": (2, "longer than 800 bytes"),
    "file://host/x": (2, "file:///data/name"),
    "file:x": (2, "three slashes"),
    "file": (1, "a file lies where a folder should be"),
    "file/below": (1, "a file lies where a folder should be"),
    "link": (1, "a file lies where a folder should be"),
    "full": (1, "is not empty and holds no job (there is 'notes.txt')"),
    "other": (1, "holds another job (count 100, not 10"),
    "other/shards": (1, "is not empty and holds no job"),
    "/proc/noisemill": (1, "/proc/noisemill: "),
    "/dev/null": (1, "a file lies where a folder should be"),
    "x" * 300: (1, "path is too long"),
}


@pytest.mark.parametrize("place", DESTINATIONS, ids=lambda text: text[:40])
@pytest.mark.parametrize("command", ["generate", "submit"])
def test_destinations(run: Run, world: Path, redis: Any, monkeypatch: pytest.MonkeyPatch, place: str, command: str):
    monkeypatch.chdir(world)
    before = tree(world)
    code, says = DESTINATIONS[place]
    outcome = run(command, TINY, place, "-n", "10")
    assert_clear(outcome, code, says)
    assert "secret" not in outcome.err
    assert tree(world) == before
    assert Ledger(redis).jobs() == []


_READERS = ("verify", "preview", "latents --index 0", "resume", "extend --count 200", "export new --to png")


@pytest.mark.parametrize("command", _READERS)
@pytest.mark.parametrize(
    "place", ["./nowhere", "./bare", "./full", "./file", "./file/below", "s3://", "ftp://host/x", "''"]
)
def test_no_dataset(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str):
    monkeypatch.chdir(world)
    before = tree(world)
    name, *options = command.split()
    outcome = run(name, *shlex.split(place), *options)
    typed = ":" in place or place == "''"
    assert_clear(outcome, 2 if typed else 1)
    assert tree(world) == before


def test_preview_that_cannot_be_written(run: Run, dataset: Path):
    before = tree(dataset)
    assert_clear(run("preview", dataset, "-o", dataset / "job.json" / "x.png"), 1, "x.png")
    assert_clear(run("latents", dataset, "--index", 0, "-o", "/proc/x.npy"), 1, "/proc/x.npy")
    assert tree(dataset) == before


def test_preview_of_what_is_no_image(run: Run, world: Path, tmp_path: Path, redis: Any):
    assert run("submit", world / "vector.keras", tmp_path / "vectors", "-n", "10").code == 0
    assert_clear(run("preview", tmp_path / "vectors"), 2, "has no images: samples are (5,)")


def test_preview_of_what_is_not_made_yet(run: Run, tmp_path: Path, redis: Any):
    assert run("submit", TINY, tmp_path / "queued", "-n", "10").code == 0
    assert_clear(run("preview", tmp_path / "queued"), 2, "has no samples yet")


def test_preview_of_samples_that_are_missing(run: Run, dataset: Path):
    (dataset / "shards" / "00000000.npy").unlink()
    assert_clear(run("preview", dataset), 1, "00000000.npy is missing")


@pytest.mark.parametrize(
    ("count", "says"),
    [
        ("99", "count 99 is less than the 100 samples"),
        ("0", "count"),
        ("-5", "-5"),
        ("many", "many"),
        ("10T", "10T"),
        ("", "count"),
    ],
)
def test_datasets_that_cannot_be_extended(
    run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, count: str, says: str
):
    monkeypatch.chdir(world)
    before = tree(world)
    for more in ([], ["--dry-run"]):
        assert_clear(run("extend", "./other", f"--count={count}", *more), 2, says)
    assert_clear(run("extend", "./other"), 2, "--count")
    assert tree(world) == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("./other ./other --to png", 2, "is the dataset itself"),
        ("./other ./other/pngs --to png", 2, "is inside the dataset"),
        ("./other ./full --to png", 1, "is not empty"),
        ("./other ./file --to png", 1, "file"),
        ("./other ./new --to jpg", 2, "did you mean png?"),
        ("./other ./new", 2, "Missing option '--to'"),
        ("./other ./new --to npz", 2, "must end in .npz"),
        ("./other ./full/notes.txt/a.npz --to npz", 1, "notes.txt"),
        ("./other ./new --to npy --dtype float64", 2, "float64"),
        ("./other ./new --to npy --dtype 16", 2, "'16'"),
        ("./other ./new --to tar --layout class", 2, "tar has no layout 'class'"),
        ("./other ./new --to tar --layout tree", 2, "layout 'tree'"),
        ("./other ./new --to png --shard-size 0", 2, "0"),
        ("./other ./new --to png --channels 3", 2, "--channels is only for npz"),
        ("./other ./new.npz --to npz --channels 2", 2, "'2'"),
        ("./other ./new.npz --to npz --arrays a/b", 2, "two different names"),
        ("./other '' --to png", 2, "the destination is empty"),
        ("./other ftp://host/x --to png", 2, "ftp://"),
        ("./other", 2, "Missing argument 'OUT'"),
    ],
)
def test_exports_that_cannot_be(
    run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, words: str, code: int, says: str
):
    monkeypatch.chdir(world)
    before = tree(world)
    assert_clear(run("export", *shlex.split(words)), code, says)
    assert tree(world) == before


def test_an_export_of_a_truncated_shard(run: Run, dataset: Path, tmp_path: Path):
    path = dataset / "shards" / "00000002.npy"
    path.write_bytes(path.read_bytes()[:-100])
    for to, out in (("png", "pngs"), ("npz", "a.npz")):
        assert_clear(
            run("export", dataset, tmp_path / out, "--to", to), 1, "00000002.npy is damaged", "noisemill resume"
        )
    assert not (tmp_path / "a.npz").exists()


# -- S3 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[RcloneS3]:
    with RcloneS3() as server:
        yield server


_S3_COMMANDS = (
    "generate {tiny} {place} -n 10",
    "submit {tiny} {place} -n 10",
    "verify {place}",
    "preview {place}",
    "latents {place} --index 0",
    "resume {place}",
)


def _try_s3(run: Run, s3: RcloneS3, place: str, command: str, *says: str) -> None:
    before = tree(s3.folder)
    outcome = run(*shlex.split(command.format(tiny=shlex.quote(str(TINY)), place=place)))
    assert_clear(outcome, 1, *says)
    assert s3.secret not in outcome.err
    assert tree(s3.folder) == before


@pytest.mark.parametrize("command", _S3_COMMANDS)
def test_s3_without_the_bucket(run: Run, s3: RcloneS3, redis: Any, monkeypatch: pytest.MonkeyPatch, command: str):
    _environment(monkeypatch, s3.environment)
    # rclone answers that the key is missing where the bucket is: readers hear that there is no dataset.
    writes = command.startswith(("generate", "submit"))
    _try_s3(run, s3, "s3://no-such-bucket/x", command, "bucket does not exist" if writes else "no-such-bucket")


@pytest.mark.parametrize("command", _S3_COMMANDS)
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "check AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no S3 credentials found: set AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, "the AWS profile does not exist: check AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL": "localhost"}, "AWS_ENDPOINT_URL is not a URL"),
    ],
    ids=["secret", "nothing", "profile", "endpoint"],
)
def test_s3_settings(
    run: Run, s3: RcloneS3, redis: Any, monkeypatch: pytest.MonkeyPatch, command: str, changes: dict, says: str
):
    _environment(monkeypatch, {**s3.environment, **changes})
    _try_s3(run, s3, s3.destination(), command, says)


def test_s3_out_of_reach(run: Run, s3: RcloneS3, monkeypatch: pytest.MonkeyPatch):
    gone = f"http://127.0.0.1:{free_port()}"
    _environment(monkeypatch, {**s3.environment, "AWS_ENDPOINT_URL": gone})
    _try_s3(
        run, s3, s3.destination(), "generate {tiny} {place} -n 10", gone.removeprefix("http://"), "cannot be reached"
    )


def _environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)


# -- Redis ------------------------------------------------------------------------------------------------

_REDIS_COMMANDS = (
    "submit {tiny} new -n 10",
    "submit {tiny} new -n 10 --dry-run",
    "jobs",
    "status x",
    "watch x",
    "cancel x",
    "resume ./other",
    "workers",
    "worker {tiny}",
    "up {tiny}",
)


def _try_redis(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, url: str, command: str) -> Outcome:
    monkeypatch.chdir(world)
    before = tree(world)
    outcome = run(*shlex.split(command.format(tiny=shlex.quote(str(TINY)))), "--redis", url)
    assert tree(world) == before
    assert "secret" not in outcome.err
    return outcome


@pytest.mark.parametrize(
    ("url", "command"),
    [
        *(("unix:///nowhere.sock", command) for command in _REDIS_COMMANDS),
        ("redis://127.0.0.1:1/0", "jobs"),
        ("redis://:secret@127.0.0.1:1/0", "submit {tiny} new -n 10"),
        ("redis://nowhere.invalid", "jobs"),
    ],
)
def test_redis_absent(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, url: str, command: str):
    outcome = _try_redis(run, world, monkeypatch, url, command)
    assert_clear(outcome, 1, "cannot be reached: start it, or set NOISEMILL_REDIS_URL or --redis")


@pytest.fixture(scope="module")
def locked() -> Iterator[Valkey]:
    with Valkey(port=0, requirepass="secret") as server:
        yield server


# redis-py tries again where it is refused, which takes seconds: not for every command.
@pytest.mark.parametrize(
    ("password", "command"),
    [
        ("", "submit {tiny} new -n 10"),
        (":wrong@", "submit {tiny} new -n 10"),
        (":wrong@", "jobs"),
        (":wrong@", "resume ./other"),
        (":wrong@", "worker {tiny}"),
        ("nobody:wrong@", "jobs"),
    ],
)
def test_redis_refuses(
    run: Run, world: Path, locked: Valkey, monkeypatch: pytest.MonkeyPatch, password: str, command: str
):
    outcome = _try_redis(run, world, monkeypatch, f"redis://{password}127.0.0.1:{locked.port}/0", command)
    # A process that runs for long is warned of the password that its command line shows, a line more.
    lines = 3 if command.startswith("worker") else 2
    assert_clear(outcome, 1, f"127.0.0.1:{locked.port}", "password", lines=lines)
    assert "wrong" not in outcome.err


@pytest.fixture(scope="module")
def web_server() -> Iterator[str]:
    """Answers whatever it is told as a web server would."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve_web, args=(listener,), daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def _serve_web(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("command", _REDIS_COMMANDS)
def test_redis_is_a_web_server(run: Run, world: Path, web_server: str, monkeypatch: pytest.MonkeyPatch, command: str):
    outcome = _try_redis(run, world, monkeypatch, web_server, command)
    assert_clear(outcome, 1, web_server.partition("//")[2], "did not respond as Redis does")


@pytest.mark.parametrize("command", _REDIS_COMMANDS)
@pytest.mark.parametrize(
    "url",
    ["", "localhost", "http://localhost:6379", "redis://localhost:99999", "redis://localhost:port", "redis://[::1"],
)
def test_redis_url(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch, url: str, command: str):
    assert_clear(_try_redis(run, world, monkeypatch, url, command), 2, "Redis URL")


# -- jobs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "watch", "cancel", "resume"])
@pytest.mark.parametrize(
    ("job", "says"), [("zebra", "job 'zebra' is unknown: see 'noisemill jobs'"), ("tiny-", "could be any of")]
)
def test_jobs_that_are_not_to_be_found(run: Run, redis: Any, tmp_path: Path, command: str, job: str, says: str):
    for name in ("one", "two"):
        assert run("submit", TINY, tmp_path / name, "-n", "10").code == 0
    before = tree(tmp_path)
    assert_clear(run(command, job), 2, says)
    assert tree(tmp_path) == before


# -- what lies at the destination ---------------------------------------------------------------------------


def _damages(data: bytes) -> dict[str, bytes]:
    """Ways in which a record can be malformed, whatever it says."""
    return {
        "empty": b"",
        "half": data[: len(data) // 2],
        "binary": bytes(range(256)),
        "list": b"[]",
        "null": b"null",
        "nan": b"NaN",
        "deep": b"[" * 100_000,
        "endless": b'{"version": ' + b"9" * 5000 + b"}",
        "unknown": _changed(data, surprise=1),
        "newer": _changed(data, version=99),
        "version": _changed(data, version="1"),
        "lacking": json.dumps({"version": 1}).encode(),
    }


def _changed(data: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(data), **changes}).encode()


_HUGE = 10**400

#: Values of job.json that cannot be, and what the answer must name.
JOB_FIELDS: list[tuple[str, Any]] = [
    ("generator", None), ("generator", ""), ("generator", 3), ("generator", "a\nb"),
    ("digest", "x"), ("digest", None), ("digest", _HUGE),
    ("count", 0), ("count", -1), ("count", 1.5), ("count", True), ("count", "100"), ("count", _HUGE), ("count", None),
    ("seed", -1), ("seed", 2**32), ("seed", "7"), ("seed", 1e300),
    ("shard_size", 0), ("shard_size", None), ("shard_size", _HUGE),
    ("format", "bmp"), ("format", None), ("format", ["npy"]), ("format", {}),
    ("dtype", "float64"), ("dtype", 4), ("dtype", []),
    ("layout", "round"), ("layout", {}),
    ("labels", None), ("labels", "file:x"), ("labels", "class:99"), ("labels", "counts:0=5"), ("labels", 3),
    ("noise", "loud"), ("noise", "truncated:x"), ("noise", "normal:1e9"), ("noise", None), ("noise", "truncated:1e-9"),
    ("latents", "x"), ("latents", 1),
    ("batch", -1), ("batch", 2**21), ("batch", "auto"),
    ("latent_shape", [0]), ("latent_shape", [2**30, 2**30]), ("latent_shape", "8"), ("latent_shape", [True]),
    ("sample_shape", [-1]), ("sample_shape", None), ("sample_shape", [2**40]), ("sample_shape", {"a": 1}),
    ("value_range", [1, 0]), ("value_range", [0]), ("value_range", "x"), ("value_range", [0, _HUGE]),
    ("value_range", [float("nan"), 1]),
    ("classes", []), ("classes", None), ("classes", "abcd"), ("classes", [1, 2]), ("classes", ["a\x1b[31m"]),
]  # fmt: skip

_JOB_READERS = (
    "verify {place}",
    "preview {place}",
    "latents {place} --index 0",
    "resume {place}",
    "generate {tiny} {place} -n 100 --seed 7 --shard-size 30",
    "submit {tiny} {place} -n 100 --seed 7 --shard-size 30",
)


@pytest.mark.parametrize("command", _JOB_READERS, ids=lambda text: text.split()[0])
@pytest.mark.parametrize("damage", list(_damages(b'{"a": 1}')))
def test_job_malformed(run: Run, dataset: Path, redis: Any, damage: str, command: str):
    path = dataset / "job.json"
    path.write_bytes(_damages(path.read_bytes())[damage])
    before = tree(dataset)
    outcome = run(*shlex.split(command.format(tiny=shlex.quote(str(TINY)), place=dataset)))
    assert_clear(outcome, 1, str(path))
    assert tree(dataset) == before
    assert Ledger(redis).jobs() == []


@pytest.mark.parametrize(("field", "value"), JOB_FIELDS, ids=lambda value: str(value)[:20])
def test_job_with_a_bad_field(run: Run, dataset: Path, field: str, value: Any):
    path = dataset / "job.json"
    path.write_bytes(_changed(path.read_bytes(), **{field: value}))
    before = tree(dataset)
    for command in ("verify {place}", "latents {place} --index 0"):
        assert_clear(run(*shlex.split(command.format(place=dataset))), 1, str(path))
    assert tree(dataset) == before


#: Values of a receipt that cannot be; a dotted name leads into it.
RECEIPT_FIELDS: list[tuple[str, Any]] = [
    ("samples_sha256", "x"), ("samples_sha256", None),
    ("shard", 0), ("shard", -1), ("shard", "1"), ("shard", _HUGE), ("shard", True),
    ("first", 0), ("first", None), ("count", 31), ("count", 1.5),
    ("files", None), ("files", {}), ("files", []), ("files", ["shards/00000001.npy"]), ("files", [{"name": "x"}]),
    ("files.0.name", "../../etc/passwd"), ("files.0.name", "/etc/passwd"), ("files.0.name", 3),
    ("files.0.size_bytes", -1), ("files.0.size_bytes", "1"), ("files.0.size_bytes", 10**30),
    ("files.0.sha256", "x"), ("files.0.sha256", None),
    ("statistics", None), ("statistics", []), ("statistics.surprise", 1),
    ("statistics.repeated", None), ("statistics.repeated", "x"), ("statistics.repeated", -1),
    ("statistics.constant", []), ("statistics.minimum", "x"), ("statistics.maximum", None), ("statistics.mean", {}),
    ("statistics.classes", "x"), ("statistics.classes", [1]), ("statistics.classes", None),
    ("made_by", None), ("made_by", "cpu"), ("made_by.batch", 0), ("made_by.batch", "64"), ("made_by.engine", None),
    ("made_by.engine", 3), ("made_by.device", None), ("made_by.versions", "x"), ("made_by.surprise", 1),
    ("attempt", None), ("attempt", -1), ("worker", None), ("worker", 3), ("finished_at", None), ("finished_at", "x"),
]  # fmt: skip

MANIFEST_FIELDS: list[tuple[str, Any]] = [
    ("spec_sha256", "x"), ("count", 99), ("count", None), ("shards", 3), ("shards", "4"), ("size_bytes", 1),
    ("size_bytes", 10**30), ("index_sha256", "x"), ("index_sha256", None), ("statistics", None),
    ("statistics.mean", "x"),
    ("statistics.classes", 3), ("statistics.repeated", "x"), ("made_by", None), ("made_by", [3]),
    ("made_by.0.batch", "x"), ("made_by.0.versions", 3), ("job", None), ("generator", 3), ("digest", []),
    ("noisemill", {}),
    ("finished_at", "x"),
]  # fmt: skip


def _set(data: bytes, field: str, value: Any) -> bytes:
    document = json.loads(data)
    *path, last = field.split(".")
    inner = document
    for name in path:
        inner = inner[int(name) if isinstance(inner, list) else name]
    inner[last] = value
    return json.dumps(document).encode()


def _assert_unsound(run: Run, dataset: Path, says: str, *, mendable: bool = True) -> None:
    """`verify` names what is malformed, one line for each problem, and what to do; it changes nothing."""
    before = tree(dataset)
    outcome = run("verify", dataset)
    assert_clear(outcome, 1, says, lines=5)
    assert all(line.startswith("noisemill: ") for line in outcome.err.splitlines()), outcome.err
    assert (f"noisemill resume {dataset}" in outcome.err.splitlines()[-1]) == mendable
    told = run("verify", dataset, "--json")
    assert told.code == 1
    assert json.loads(told.out)["sound"] is False
    assert tree(dataset) == before


@pytest.mark.parametrize("name", ["receipts/00000001.json", "manifest.json"])
@pytest.mark.parametrize("damage", list(_damages(b'{"a": 1}')))
def test_record_malformed(run: Run, dataset: Path, name: str, damage: str):
    path = dataset / name
    path.write_bytes(_damages(path.read_bytes())[damage])
    _assert_unsound(run, dataset, name)


@pytest.mark.parametrize(("field", "value"), RECEIPT_FIELDS, ids=lambda value: str(value)[:20])
def test_receipt_with_a_bad_field(run: Run, dataset: Path, field: str, value: Any):
    path = dataset / "receipts" / "00000001.json"
    path.write_bytes(_set(path.read_bytes(), field, value))
    _assert_unsound(run, dataset, "shard 1")


@pytest.mark.parametrize(("field", "value"), MANIFEST_FIELDS, ids=lambda value: str(value)[:20])
def test_manifest_with_a_bad_field(run: Run, dataset: Path, field: str, value: Any):
    path = dataset / "manifest.json"
    path.write_bytes(_set(path.read_bytes(), field, value))
    _assert_unsound(run, dataset, "manifest")


@pytest.mark.parametrize("damage", ["empty", "half", "binary", "list", "deep"])
def test_shard_index_malformed(run: Run, dataset: Path, damage: str):
    path = dataset / "shards.jsonl"
    path.write_bytes(_damages(b'{"a": 1}')[damage])
    _assert_unsound(run, dataset, "shards.jsonl is damaged")


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("shards/00000001.npy", None, "shards/00000001.npy is missing"),
        ("shards/00000001.npy", b"", "has 0 bytes"),
        ("shards/00000001.labels.npy", b"x", "has 1 bytes"),
        ("shards/00000009.npy", b"x", "belong to no shard"),
        ("receipts/00000001.json", None, "1 of 4 shards have not been made"),
        ("manifest.json", None, "there is no manifest.json"),
        ("shards.jsonl", None, "shards.jsonl is missing"),
    ],
)
def test_file_missing_or_cut(run: Run, dataset: Path, name: str, damage: bytes | None, says: str):
    path = dataset / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    _assert_unsound(run, dataset, says, mendable="belong to no shard" not in says)


@pytest.mark.parametrize("name", ["latents.npy", "labels.npy"])
@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_inputs_of_the_users_own(run: Run, world: Path, tmp_path: Path, redis: Any, name: str, damage: str):
    np.save(tmp_path / "ten.npy", np.arange(10) % 4)
    own = ["--latents", world / "good.npy", "--labels", tmp_path / "ten.npy"]
    assert run("submit", TINY, tmp_path / "own", *own).code == 0
    path = tmp_path / "own" / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-9] if damage == "cut" else b"text")
    assert_clear(run("latents", tmp_path / "own", "--index", "9"), 1, str(path))


# -- as a user calls it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("genrate", 2, "Did you mean 'generate'?"),
        ("generate fashon new -n 10", 2, "did you mean 'fashion'?"),
        ("generate fashion file -n 10", 1, "a file lies where a folder should be"),
        ("jobs --redis unix:///nowhere", 1, "cannot be reached"),
        ("verify ./nowhere", 1, "holds no dataset"),
    ],
)
def test_as_a_process(world: Path, words: str, code: int, says: str):
    before = tree(world)
    command = [sys.executable, "-m", "pipeline.cli", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=world, check=False, timeout=600)
    assert_clear(Outcome(done.returncode, done.stdout, done.stderr), code, says)
    assert tree(world) == before
