"""torchvision, PyTorch, Hugging Face datasets, webdataset, DuckDB, Polars and torch-fidelity read datasets.

As docs/datasets.md says, where it has code for them.

They are in an environment of their own, `.venv-readers`, which `make readers` makes.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.export import export
from pipeline.stores import open_store
from tests.compat.readers.blocks import ROOT, answers, block, blocks_of
from tests.compat.readers.examples import CLASSES, COUNT, LABELS, make_examples
from tests.servers import S3Server

pytestmark = [pytest.mark.compat, pytest.mark.timeout(600)]

PYTHON = ROOT / ".venv-readers" / "bin" / "python"

FOLDER = """{
    "names": names,
    "pairs": [[path.rpartition("/")[2], label] for path, label in images.samples],
    "sums": sorted(float(image[0].sum()) * 255 for image, _ in images),
}"""
LOADER = """{
    "labels": [int(label) for _, labels in loader for label in labels],
    "sums": sorted(float(sample.double().sum()) for samples, _ in loader for sample in samples),
}"""
BY_SHARD = """{
    "labels": [row["label"] for row in images],
    "classes": [row["class"] for row in images],
    "sums": [sum(row["image"].getdata()) for row in images],
}"""
BY_CLASS = """{
    "names": names,
    "labels": [row["label"] for row in images],
    "sums": sorted(sum(row["image"].getdata()) for row in images),
}"""
TARS = """{
    "labels": [label for _, label in samples],
    "sums": [float(image[:, :, 0].sum()) for image, _ in samples],
}"""
TABLE = """{
    "names": names,
    "labels": [row["label"] for row in table],
    "indices": [row["index"] for row in table],
    "sums": [sum(row["image"].getdata()) for row in table],
}"""
FOURTH = """{
    "label": fourth["label"][0],
    "path": fourth["image"][0]["path"],
    "sum": sum(image.getdata()),
}"""
FLOATS = """
import duckdb, polars
from datasets import load_dataset

rows = load_dataset("parquet", data_files="floats/shards/*.parquet", split="train")
first = {
    "datasets": rows[21]["sample"],
    "duckdb": duckdb.sql("SELECT sample FROM 'floats/shards/*.parquet' WHERE index = 21").fetchall()[0][0],
    "polars": polars.read_parquet("floats/shards/*.parquet").filter(polars.col("index") == 21)["sample"].to_list()[0],
}
"""
#: Features that stand in for those of Inception, whose weights would have to be downloaded: means of parts of an image.
FIDELITY = """
import torch
from torch_fidelity import FeatureExtractorBase, calculate_metrics, register_feature_extractor

class Means(FeatureExtractorBase):
    get_provided_features_list = staticmethod(lambda: ("means",))
    get_default_feature_layer_for_metric = staticmethod(lambda metric: "means")
    can_be_compiled = staticmethod(lambda: False)

    def __init__(self, name, features, **options):
        super().__init__(name, features)

    def forward(self, images):
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 8, 8)
        return (images.double().mean(dim=(1, 2)),)

register_feature_extractor("means", Means)
options = dict(feature_extractor="means", fid=True, cuda=False, samples_find_deep=True, verbose=False, cache=False)
same, other = (
    calculate_metrics(input1="pictures/images", input2=place, **options)["frechet_inception_distance"]
    for place in ("flat/shards", "flat/shards/00000000")
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PYTHON.exists():
        pytest.skip("no .venv-readers: make readers")
    return make_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def pixels(folder: Path) -> list[float]:
    """Sum of each sample's pixels, in order."""
    return [float(total) for total in Dataset(folder / "flat").samples(0, COUNT).reshape(COUNT, -1).sum(axis=1)]


def test_every_piece_of_the_page_is_run() -> None:
    words = ["ImageFolder", "DataLoader(Dataset", "flat/shards", "pictures/images", "webdataset", 'row["cls"]']
    words += ["mlcroissant", "with noisemill.stream", "StreamDataset", "tables"]
    assert {code for word in words for code in blocks_of("readers") if word in code} == set(blocks_of("readers"))


def test_torchvision_image_folder(folder: Path, tmp_path: Path, pixels: list[float]) -> None:
    [told] = answers(PYTHON, folder, [(block("readers", "ImageFolder"), FOLDER)], tmp_path)
    assert told["names"] == sorted(CLASSES)
    named = {name: told["names"][label] for name, label in told["pairs"]}
    assert named == {f"{index:012d}.png": CLASSES[label] for index, label in enumerate(LABELS)}
    assert np.allclose(told["sums"], sorted(pixels))


def test_dataloader(folder: Path, tmp_path: Path) -> None:
    [told] = answers(PYTHON, folder, [(block("readers", "DataLoader(Dataset"), LOADER)], tmp_path)
    assert Counter(told["labels"]) == Counter(LABELS)
    floats = Dataset(folder / "out").samples(0, COUNT).astype(np.float64)
    assert np.allclose(told["sums"], sorted(floats.reshape(COUNT, -1).sum(axis=1)))


def test_dataloader_from_s3(folder: Path, tmp_path: Path, s3: S3Server) -> None:
    """Its worker processes are forked after the parent has spoken to S3."""
    place = s3.destination()
    source, target = open_store(folder / "out"), open_store(place)
    for entry in source.list():
        target.write(entry.name, source.read(entry.name))
    code = block("readers", "DataLoader(Dataset").replace('Dataset("out")', f'opened("{place}")')
    opened = "from noisemill import Dataset\ndef opened(url):\n    d = Dataset(url)\n    d[0]\n    return d\n"
    [told] = answers(PYTHON, folder, [(opened + code, LOADER)], tmp_path)
    assert Counter(told["labels"]) == Counter(LABELS)


def test_hugging_face_by_shard(folder: Path, tmp_path: Path, pixels: list[float]) -> None:
    """Shards come in any order."""
    [told] = answers(PYTHON, folder, [(block("readers", "flat/shards"), BY_SHARD)], tmp_path)
    assert sorted(zip(told["labels"], told["sums"], strict=True)) == sorted(zip(LABELS, pixels, strict=True))
    assert told["classes"] == [CLASSES[label] for label in told["labels"]]


def test_hugging_face_by_class(folder: Path, tmp_path: Path, pixels: list[float]) -> None:
    [told] = answers(PYTHON, folder, [(block("readers", 'data_dir="pictures/images"'), BY_CLASS)], tmp_path)
    assert Counter(told["names"][label] for label in told["labels"]) == Counter(CLASSES[label] for label in LABELS)
    assert told["sums"] == sorted(pixels)


@pytest.mark.parametrize(("name", "label"), [("tars", "cls"), ("flat", "label"), ("pictures", "label")])
def test_hugging_face_by_the_card(folder: Path, tmp_path: Path, pixels: list[float], name: str, label: str) -> None:
    """The piece of the page for tar, and the same for the other forms that hubs read."""
    code = block("readers", 'row["cls"]').replace('"tars"', f'"{name}"').replace('row["cls"]', f'row["{label}"]')
    code = code if name == "tars" else code.replace('row["png"]', 'row["image"]')
    kind = "png" if name == "tars" else "image"
    sums = f"sorted(sum(row['{kind}'].convert('L').getdata()) for row in rows)"
    [told] = answers(PYTHON, folder, [(code, f"{{'count': len(rows), 'sums': {sums}}}")], tmp_path)
    assert (told["count"], told["sums"]) == (COUNT, sorted(pixels))


def test_webdataset(folder: Path, tmp_path: Path, pixels: list[float]) -> None:
    [told] = answers(PYTHON, folder, [(block("readers", "webdataset"), TARS)], tmp_path)
    assert (told["labels"], told["sums"]) == (LABELS, pixels)


def test_mlcroissant(folder: Path, tmp_path: Path, pixels: list[float]) -> None:
    """It accepts the metadata of every format, and reads images with it. It makes them RGB."""
    reading = block("readers", "mlcroissant").replace(
        "    image, label =", "    rows = globals().setdefault('rows', [])\n    rows.append(record)\n    image, label ="
    )
    rows = """{
        "labels": [row["samples/label"] for row in rows],
        "sums": [float(sum(row["samples/image"].convert("L").getdata())) for row in rows],
    }"""
    valid = "import mlcroissant\nfor name in ('out', 'pictures', 'flat', 'tars', 'records', 'tables'):\n"
    valid += (
        "    errors = mlcroissant.Dataset(f'{name}/croissant.json').metadata.ctx.issues.errors\n    assert not errors\n"
    )
    by_class = "import mlcroissant\nrows = list(mlcroissant.Dataset('pictures/croissant.json').records('samples'))\n"
    pairs = "sorted([row['samples/index'], row['samples/class'].decode()] for row in rows)"
    tables = "import mlcroissant\nrows = list(mlcroissant.Dataset('tables/croissant.json').records('samples'))\n"
    pieces = [(reading, rows), (valid, "None"), (by_class, pairs), (tables, rows)]
    told, _, classes, table = answers(PYTHON, folder, pieces, tmp_path)
    assert table == {"labels": LABELS, "sums": pixels}
    assert sorted(zip(told["labels"], told["sums"], strict=True)) == sorted(zip(LABELS, pixels, strict=True))
    assert classes == [[index, CLASSES[label]] for index, label in enumerate(LABELS)]


def test_streams(folder: Path, tmp_path: Path) -> None:
    """PyTorch is in one environment, TensorFlow in the other: users have both in one."""
    other = f"import sys\nsys.executable = {sys.executable!r}\ntold = []\n"

    def told(word: str, indent: str) -> str:
        code = block("readers", word).replace('.json"', '.json", trust_generator=True')
        return other + code.replace(f"{indent}assert", f"{indent}told += labels.tolist()\n{indent}assert")

    pieces = [
        (told("with noisemill.stream", " " * 8), "told"),
        (told("StreamDataset", " " * 4), "[told, str(samples.dtype)]"),
    ]
    in_order, (shared, dtype) = answers(PYTHON, folder, pieces, tmp_path)
    assert in_order == LABELS
    assert Counter(shared) == Counter(LABELS)
    assert dtype == "torch.float32"


def test_hugging_face_reads_tables(folder: Path, tmp_path: Path, pixels: list[float]) -> None:
    [told] = answers(PYTHON, folder, [(block("readers", 'load_dataset("tables"'), TABLE)], tmp_path)
    assert told == {"names": list(CLASSES), "labels": LABELS, "indices": list(range(COUNT)), "sums": pixels}


def test_duckdb_and_polars(folder: Path, tmp_path: Path, pixels: list[float]) -> None:
    pieces = [(block("readers", "duckdb"), "counts"), (block("readers", "polars"), FOURTH)]
    counts, fourth = answers(PYTHON, folder, pieces, tmp_path)
    assert counts == [[label, count] for label, count in sorted(Counter(LABELS).items())]
    assert fourth == {"label": LABELS[3], "path": "000000000003.png", "sum": pixels[3]}


def test_tables_of_floats(folder: Path, tmp_path: Path) -> None:
    export(str(folder / "out"), str(folder / "floats"), to="parquet", dtype="float32")
    [told] = answers(PYTHON, folder, [(FLOATS, "first")], tmp_path)
    expected = Dataset(folder / "out")[21][0].reshape(-1).tolist()
    assert told == {"datasets": expected, "duckdb": expected, "polars": expected}


def test_torch_fidelity(folder: Path, tmp_path: Path) -> None:
    """Grey PNGs by class and by shard are the same images in RGB; those of the first shard alone are others."""
    [told] = answers(PYTHON, folder, [(FIDELITY, "[same, other]")], tmp_path)
    assert abs(told[0]) < 1e-6 < told[1]
