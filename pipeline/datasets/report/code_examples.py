"""Code examples for reading a dataset and commands for making it again, for its card and its report.

The code should be run in the dataset's folder.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from pipeline.formats.format import is_png
from pipeline.formats.image import image_shape
from pipeline.spec.job_spec import JobSpec


@dataclass(frozen=True)
class Snippet:
    """A few lines to paste."""

    #: Their subject: "numpy", "Keras".
    title: str
    #: "python" or "sh".
    language: str
    code: str


def reading(spec: JobSpec) -> list[Snippet]:
    """How to read such a dataset, the shortest way first; empty if no samples were written."""
    if spec.format == "null":
        return []
    readers = {
        ("npy", "flat"): _npy,
        ("png", "flat"): _png_flat,
        ("png", "class"): _png_class,
        ("tar", "flat"): _tar,
        ("tfrecord", "flat"): _tfrecord,
        ("parquet", "flat"): _parquet,
    }
    return [*readers[spec.format, spec.layout](spec), _noisemill(spec)]


def making(spec: JobSpec, destination: str) -> Snippet:
    """The command that makes it again at another destination."""
    options = [f"--count {spec.count}", f"--seed {spec.seed}", f"--shard-size {spec.shard_size}"]
    options += [f"--format {spec.format}", f"--dtype {spec.dtype}"]
    options += [f"--layout {spec.layout}"] if spec.layout != "flat" else []
    options += [f"--latents {shlex.quote(destination + '/latents.npy')}"] if spec.latents else []
    options += [f"--noise {spec.noise}"] if not spec.latents and spec.noise != "normal" else []
    if spec.attributes:
        numbers = spec.attributes.removeprefix("all:")
        brought = spec.attributes.startswith("file:")
        options.append(f"--attributes {shlex.quote(destination + '/attributes.npy') if brought else numbers}")
    for name, values in spec.settings:
        options.append(f"--set {shlex.quote(name + '=' + ','.join(map(str, values)))}")
    if spec.sampling is not None:
        sampler = spec.sampling
        options.append(f"--sampler {sampler.method} --steps {sampler.steps} --guidance {sampler.guidance:g}")
        options += [f"--eta {sampler.eta:g}"] if sampler.method == "ddim" else []
    if spec.judge is not None:
        options.append(f"--best-of {spec.best_of} --judge {shlex.quote(spec.judge)}")
        options += [f"--enough {spec.enough!r}"] if spec.enough is not None else []
        options += [f"--min-score {spec.min_score!r}"] if spec.min_score is not None else []
    options += [f"--batch {spec.batch}"] if spec.batch else []
    options += [f"--precision {spec.precision}"] if spec.precision != "float32" else []
    if spec.labels and spec.labels.startswith("file:"):
        options.append(f"--labels {shlex.quote(destination + '/labels.npy')}")
    elif spec.labels not in (None, "balanced"):
        options.append(f"--labels {spec.labels}")
    command = f"noisemill generate {shlex.quote(spec.generator)} again"
    return Snippet("The same samples", "sh", " \\\n  ".join([command, *options]))


def recipe(destination: str) -> Snippet:
    """The commands that write its recipe and use it."""
    name = destination.rstrip("/").rpartition("/")[2] or "dataset"
    lines = [
        f"noisemill recipe {shlex.quote(destination)}",
        f"noisemill reproduce {shlex.quote(name + '.recipe.json')} again",
    ]
    return Snippet("As a recipe, shard by shard compared", "sh", "\n".join(lines))


def checking(destination: str) -> Snippet:
    """The commands that check it."""
    place = shlex.quote(destination)
    return Snippet("Check it", "sh", f"noisemill verify {place}\nnoisemill verify {place} --recompute 100")


def _noisemill(spec: JobSpec) -> Snippet:
    label = "sample, label" if spec.classes else "sample, _"
    return Snippet("noisemill", "python", f'import noisemill\n\ndataset = noisemill.Dataset(".")\n{label} = dataset[0]')


def _npy(spec: JobSpec) -> list[Snippet]:
    shape = ", ".join(["n", *map(str, spec.sample_shape)])
    one = f'import numpy as np\n\nsamples = np.load("shards/00000000.npy", mmap_mode="r")  # ({shape}), {spec.dtype}\n'
    every = (
        'from glob import glob\n\nimport numpy as np\n\nnames = sorted(glob("shards/????????.npy"))\n'
        "samples = np.concatenate([np.load(name) for name in names])\n"
    )
    tensors, data = "samples", "torch.utils.data.TensorDataset(torch.from_numpy(samples))"
    if spec.classes:
        one += 'labels = np.load("shards/00000000.labels.npy")\n'
        every += 'labels = np.concatenate([np.load(name.replace(".npy", ".labels.npy")) for name in names])\n'
        tensors = "(samples, labels)"
        data = "torch.utils.data.TensorDataset(torch.from_numpy(samples), torch.from_numpy(labels).long())"
    keras = f"batches = tf.data.Dataset.from_tensor_slices({tensors}).shuffle(10_000).batch(64)"
    torch = f"data = {data}\nbatches = torch.utils.data.DataLoader(data, 64, shuffle=True)"
    return [
        Snippet("numpy", "python", one.rstrip()),
        Snippet("Keras", "python", f"{every}\nimport tensorflow as tf\n\n{keras}"),
        Snippet("PyTorch", "python", f"{every}\nimport torch\n\n{torch}"),
    ]


def _png_flat(spec: JobSpec) -> list[Snippet]:
    hugging_face = (
        'from datasets import load_dataset\n\ndata = load_dataset("imagefolder", data_dir="shards", split="train")'
    )
    pillow = (
        "from glob import glob\n\nimport numpy as np\nfrom PIL import Image\n\n"
        'for name in sorted(glob("shards/*/*.png")):\n    with Image.open(name) as image:\n'
        "        samples = np.asarray(image)"
    )
    return [Snippet("Hugging Face", "python", hugging_face), Snippet("Pillow", "python", pillow)]


def _png_class(spec: JobSpec) -> list[Snippet]:
    shape = image_shape(spec.sample_shape)
    assert shape is not None, "a PNG is an image"
    height, width, channels = shape
    mode = {1: "grayscale", 3: "rgb", 4: "rgba"}[channels]
    keras = (
        "import keras\n\n"
        "batches = keras.utils.image_dataset_from_directory(\n"
        f'    "images", image_size=({height}, {width}), color_mode="{mode}", batch_size=64\n)'
    )
    torch = (
        "import torch\nfrom torchvision import datasets, transforms\n\n"
        'data = datasets.ImageFolder("images", transforms.ToTensor())\n'
        "batches = torch.utils.data.DataLoader(data, 64, shuffle=True)"
    )
    return [Snippet("Keras", "python", keras), Snippet("PyTorch", "python", torch)]


def _tar(spec: JobSpec) -> list[Snippet]:
    last = len(spec.plan) - 1
    names = f"shards/{{00000000..{last:08d}}}.tar" if last else "shards/00000000.tar"
    parts = '"png", "cls"' if spec.classes else '"png"'
    web = (
        f'import webdataset\n\nnames = "{names}"\n'
        f'data = webdataset.WebDataset(names, shardshuffle=False).decode("pil").to_tuple({parts})'
    )
    hugging_face = (
        "from datasets import load_dataset\n\n"
        'data = load_dataset("webdataset", data_files="shards/*.tar", split="train")'
    )
    return [Snippet("WebDataset", "python", web), Snippet("Hugging Face", "python", hugging_face)]


def _tfrecord(spec: JobSpec) -> list[Snippet]:
    image = image_shape(spec.sample_shape)
    if is_png(spec.sample_type) and image is not None:
        feature, value = '"image": tf.io.FixedLenFeature([], tf.string)', f'tf.io.decode_png(one["image"], {image[2]})'
    else:
        kind = "int64" if spec.dtype == "uint8" else "float32"
        feature, value = f'"sample": tf.io.FixedLenFeature({list(spec.sample_shape)}, tf.{kind})', 'one["sample"]'
    label_feature = ', "label": tf.io.FixedLenFeature([], tf.int64)' if spec.classes else ""
    label = ', one["label"]' if spec.classes else ""
    code = (
        "from glob import glob\n\nimport tensorflow as tf\n\n"
        f"features = {{{feature}{label_feature}}}\n\n\n"
        "def parsed(record):\n"
        "    one = tf.io.parse_single_example(record, features)\n"
        f"    return {value}{label}\n\n\n"
        'records = tf.data.TFRecordDataset(sorted(glob("shards/*.tfrecord")))\n'
        "batches = records.map(parsed, tf.data.AUTOTUNE).shuffle(10_000).batch(64)"
    )
    return [Snippet("Keras", "python", code)]


def _parquet(spec: JobSpec) -> list[Snippet]:
    hugging_face = (
        "from datasets import load_dataset\n\n"
        'data = load_dataset("parquet", data_files="shards/*.parquet", split="train")'
    )
    duckdb = "import duckdb\n\nrows = duckdb.sql(\"SELECT * FROM 'shards/*.parquet' WHERE index < 10\").fetchall()"
    polars = 'import polars\n\ntable = polars.read_parquet("shards/*.parquet")'
    return [
        Snippet("Hugging Face", "python", hugging_face),
        Snippet("DuckDB", "python", duckdb),
        Snippet("Polars", "python", polars),
    ]
