"""From a recipe to the dataset again, by real workers: here and now, and queued."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.recipe import Recipe
from tests.cli.running import Run
from tests.end_to_end.fleet import TINY, Fleet
from tests.servers import S3Server


def recipe_file(fleet: Fleet) -> str:
    return str(fleet.folder / "original.recipe.json")


def shard_bytes(folder: Path, index: int) -> bytes:
    return (folder / f"shards/{index:08d}.npy").read_bytes()


def test_some_shards_here_and_now_then_the_rest(original: Path, fleet: Fleet) -> None:
    """Elsewhere: no Redis, a new folder. First three shards, then another by a queue, then all that is missing."""
    here = Fleet(fleet.folder, {**fleet.environment, "NOISEMILL_REDIS_URL": ""})
    done = here.run("reproduce", recipe_file(fleet), "again", "--shards", "7,2-3", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["same"], told["selection"], told["of"]) == (True, "2-3,7", 10)
    assert told["counts"] == {"bit-equal": 3, "within tolerance": 0, "different": 0}
    assert [each["shard"] for each in told["shards"]] == [2, 3, 7]
    again = fleet.folder / "again"
    assert sorted(path.name for path in (again / "shards").glob("????????.npy")) == [
        f"0000000{n}.npy" for n in (2, 3, 7)
    ]
    assert all(shard_bytes(again, index) == shard_bytes(original, index) for index in (2, 3, 7))
    dataset = Dataset(again)
    assert not dataset.whole
    assert list(dataset.made()) == [2, 3, 7]
    assert np.array_equal(dataset[250][0], Dataset(original)[250][0])
    checked = here.run("verify", "again")
    assert checked.returncode == 0, checked.stderr
    assert "sound; only shards 2-3,7, as selected: 300 samples in 3 shards" in checked.stdout
    assert fleet.run("reproduce", recipe_file(fleet), "again", "--shards", "0").returncode == 0
    assert str(Dataset(again).selection()) == "0,2-3,7"
    damaged = bytearray(shard_bytes(again, 3))
    damaged[-1] ^= 1  # Of the same size, with a receipt that says otherwise.
    (again / "shards/00000003.npy").write_bytes(damaged)
    assert fleet.run("verify", "again").returncode == 1
    mended = fleet.run("reproduce", recipe_file(fleet), "again", "--shards", "2-3")
    assert mended.returncode == 0, mended.stderr
    assert shard_bytes(again, 3) == shard_bytes(original, 3)
    assert fleet.run("verify", "again").returncode == 0
    job = fleet.json("resume", "again")
    assert (job["selection"], job["samples_found"]) == (None, 400)
    assert fleet.watch(job["id"]).returncode == 0
    assert here.run("verify", "again").returncode == 0
    assert not (again / "selection.json").exists()
    done = here.run("reproduce", recipe_file(fleet), "again")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"{again}: 10 shards: 10 bit-equal"


def test_queued_to_s3(original: Path, fleet: Fleet, s3: S3Server) -> None:
    destination = s3.destination()
    bucket, prefix = destination.removeprefix("s3://").split("/", 1)
    s3.client.put_object(Bucket=bucket, Key=f"{prefix}-recipes/r.json", Body=Path(recipe_file(fleet)).read_bytes())
    done = fleet.run("reproduce", f"{destination}-recipes/r.json", destination, "--shards", "9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{destination}: shards 9 of 10: 1 bit-equal"
    job = next(job for job in fleet.json("jobs") if job["destination"] == destination)
    assert (job["state"], job["selection"], job["shards"], job["count"]) == ("done", "9", 1, 100)
    assert fleet.run("verify", destination).returncode == 0
    whole = fleet.run("reproduce", recipe_file(fleet), destination)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.splitlines()[-1] == f"{destination}: 10 shards: 10 bit-equal"
    assert Dataset(destination).whole


def test_another_engine_is_told(original: Path, fleet: Fleet, tmp_path: Path) -> None:
    """A recipe that asks for the other engine and batch, and knows of one shard that is another's."""
    made = Recipe.from_json(Path(recipe_file(fleet)).read_bytes(), "r")
    record = made.made_by[0]
    other = replace(record, engine="tf" if record.engine == "xla" else "xla", batch=7, device_name="another")
    fingerprints = made.fingerprints.copy()
    fingerprints[4] = fingerprints[5]
    changed = replace(made, made_by=(other,), fingerprints=fingerprints)
    (tmp_path / "r.json").write_text(changed.to_json())
    done = fleet.run("reproduce", str(tmp_path / "r.json"), str(fleet.folder / "otherwise"))
    assert done.returncode == 1, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "different" in lines["4"]
    assert "different" not in lines["5"]
    assert all("bit-equal" in lines[str(n)] or "within tolerance" in lines[str(n)] for n in range(10) if n != 4)
    assert f"device name {record.device_name}, not another" in done.stdout
    receipt = Dataset(fleet.folder / "otherwise").receipt(0)
    assert receipt is not None
    assert (receipt.made_by.engine, receipt.made_by.batch) == (other.engine, 7)


def test_latents_that_are_too_large_for_the_recipe(fleet: Fleet, original: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((9000, 8)).astype(np.float32)
    np.save(fleet.folder / "mine.npy", rows)
    np.save(fleet.folder / "others.npy", rows + 1)
    job = fleet.submit(TINY, str(fleet.folder / "mine"), "--latents", "mine.npy", "--shard-size", "1000")
    assert fleet.watch(job).returncode == 0
    written = fleet.run("recipe", "mine")
    assert "latents.npy (288.1 kB) is too large for a recipe" in written.stderr
    command = ["reproduce", "mine.recipe.json", str(fleet.folder / "mine-again"), "--shards", "8"]
    without = fleet.run(*command)
    assert (without.returncode, len(without.stderr.splitlines())) == (2, 1)
    assert "give that file with --latents" in without.stderr
    wrong = fleet.run(*command, "--latents", "others.npy")
    assert (wrong.returncode, "is not the one" in wrong.stderr) == (2, True)
    assert not (fleet.folder / "mine-again").exists()
    assert fleet.run(*command, "--latents", "mine.npy").returncode == 0


# -- what cannot be ---------------------------------------------------------------------------------


def refusals(fleet: Fleet, folder: Path) -> dict[str, tuple[list[str], int, str]]:
    recipe = recipe_file(fleet)
    shutil.copy(recipe, folder / "edited.json")
    text = (folder / "edited.json").read_text().replace('"seed": 5', '"seed": 6')
    (folder / "edited.json").write_text(text)
    moved = Recipe.from_json(Path(recipe).read_bytes(), "r")
    moved = replace(moved, spec=replace(moved.spec, generator="/nowhere/tiny.keras"))
    (folder / "moved.json").write_text(moved.to_json())
    (folder / "full").mkdir()
    (folder / "full/notes.txt").write_text("mine")
    new = str(folder / "new")
    return {
        "no object": (["s3://noisemill-test/none.json", new], 2, "no such file"),
        "no file": ([str(folder / "none.json"), new], 2, "there is no such file"),
        "a folder": ([str(folder), new], 2, "is not a file"),
        "another file": ([str(folder / "full/notes.txt"), new], 1, "notes.txt is not valid JSON"),
        "edited": ([str(folder / "edited.json"), new], 1, "is damaged or was edited"),
        "another generator": ([recipe, new, "--generator", "fashion"], 1, "is not the recipe's: its digest is"),
        "no generator": ([recipe, new, "--generator", "nothing"], 2, "generator 'nothing' is unknown"),
        "generator elsewhere": ([str(folder / "moved.json"), new], 1, "give its location with --generator"),
        "no shard": ([recipe, new, "--shards", "10"], 2, "there is no shard 10, they are 0 to 9"),
        "no number": ([recipe, new, "--shards", "a-b"], 2, "write 17,20-25"),
        "needless latents": ([recipe, new, "--latents", "mine.npy"], 2, "latents mine.npy cannot be read"),
        "occupied": ([recipe, str(folder / "full")], 1, "is not empty and holds no job"),
    }


@pytest.mark.parametrize("kind", [
    "no object", "no file", "a folder", "another file", "edited", "another generator", "no generator",
    "generator elsewhere", "no shard", "no number", "needless latents", "occupied",
])  # fmt: skip
def test_a_clear_line(original: Path, fleet: Fleet, tmp_path: Path, run: Run, kind: str) -> None:
    words, code, says = refusals(fleet, tmp_path)[kind]
    done = run("reproduce", *words)
    assert done.code == code, done.err
    assert says in done.err
    assert done.err.startswith("noisemill: ")
    assert 1 <= len(done.err.splitlines()) <= 2
    assert "Traceback" not in done.err
    assert not (tmp_path / "new").exists()
