"""The datasets that docs/datasets.md reads, small ones of the generator `tiny` (8x8 pixels, four classes)."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.export import export
from pipeline.datasets.recipe import recipe_of
from pipeline.generators import find_generator
from pipeline.jobs.request import JobRequest
from tests.making import make_dataset

_TINY = Path(__file__).parents[2] / "data" / "tiny.keras"
_FORMS = {
    "out": ("npy", None),
    "pictures": ("png", "class"),
    "flat": ("png", "flat"),
    "tars": ("tar", None),
    "records": ("tfrecord", None),
    "tables": ("parquet", None),
}

#: Samples of each, and their labels in order: the plan is `balanced`.
COUNT = 22
LABELS = [index % 4 for index in range(COUNT)]
CLASSES = ("circle", "square", "star", "cross")


def make_examples(folder: Path) -> Path:
    """Makes them in three shards each."""
    for name, (format_, layout) in _FORMS.items():
        request = JobRequest(count=COUNT, shard_size=8, format=format_, layout=layout)
        make_dataset(folder / name, request.resolve(find_generator(str(_TINY)))[0])
    export(str(folder / "out"), str(folder / "out.npz"), to="npz", channels=3)
    (folder / "out.recipe.json").write_text(recipe_of(Dataset(folder / "out")).to_json(), encoding="utf-8")
    return folder
