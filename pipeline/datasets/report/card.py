"""The dataset card: a README with the metadata block that dataset hubs read."""

from __future__ import annotations

import json
import time

from pipeline.datasets.receipts import Manifest
from pipeline.datasets.report.code_examples import Snippet, checking, making, reading
from pipeline.formats.format import is_png
from pipeline.spec.about import About
from pipeline.spec.job_spec import JobSpec, format_choice, format_settings

_PROVENANCE = (
    "`job.json` defines every sample: sample *i* depends only on the generator's digest, the seed, *i* and the label "
    "plan. `receipts/` has the hashes of each shard's files, `manifest.json` the totals.\n"
)
#: The files for loaders of dataset hubs, which read neither .npy nor .tfrecord.
_DATA_FILES = {
    ("png", "flat"): "shards/**",
    ("png", "class"): "images/**",
    ("tar", "flat"): "shards/*.tar",
    ("parquet", "flat"): "shards/*.parquet",
}
#: Licenses that hubs know by these identifiers.
_HUB_LICENSES = frozenset(
    ("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "cc0-1.0", "cc-by-4.0",
     "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by", "pddl", "openrail", "unlicense")
)  # fmt: skip
#: Notes beside the code.
_NOTES = {
    "npy": "Loaders of dataset hubs read parquet: `noisemill export . OUT --to parquet` writes it.\n",
    "png": "One PNG per sample, named by its 12-digit index; labels are in {labels}.\n",
    "tar": "WebDataset shards: `<index>.png`{labels} in `shards/*.tar`.\n",
    "tfrecord": "A `tf.train.Example` per sample in `shards/*.tfrecord`: `{samples}`{labels}, `index`. Each file's "
    "`.idx` has the offset and size of every record.\n",
    "parquet": "One row per sample in `shards/*.parquet`: `{samples}`{labels}, `index`.\n",
    "null": "No samples were written: the job only measured speed.\n",
}


def dataset_card(spec: JobSpec, manifest: Manifest, *, has_preview: bool, exported_from: str | None = None) -> str:
    """Markdown with a YAML header: what the dataset is, how to read it, how to make it again.

    `exported_from` is the source of an export.
    """
    paragraphs = [
        _metadata(spec, manifest.about),
        f"# {spec.count:,} samples of `{spec.generator_name}`\n",
        "Synthetic data: every sample is the output of a generator; none is a photograph or a real record.\n",
        "![Contact sheet](preview.png)\n" if has_preview else "",
        _facts(spec, manifest, exported_from),
        "## How to read it\n",
        _reading(spec),
        "## How to check it and make it again\n",
        *(_code(snippet) for snippet in (checking("."), making(spec, "."))),
        _PROVENANCE,
        _license(manifest.about),
    ]
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def _license(about: About) -> str:
    lines = ["## License and provenance", ""]
    for name, value in (("License", about.license), ("Data", about.data), ("Authors", ", ".join(about.authors))):
        lines += [f"- {name} of the generator: {_cell(value)}"] if value else []
    lines += [""] if about else []
    return "\n".join([*lines, "The license of the samples depends on the generator and its training data.", ""])


def _metadata(spec: JobSpec, about: About) -> str:
    # A JSON string is valid YAML: file names may contain anything.
    name = json.dumps(f"{spec.generator_name}-{spec.count}", ensure_ascii=False)
    lines = ["---", f"pretty_name: {name}", "tags:", "- synthetic", "- noisemill"]
    if spec.classes:
        lines += ["task_categories:", "- image-classification"]
    if license_ := about.license:
        hub_license = license_.lower()
        named = [f"license_name: {json.dumps(license_, ensure_ascii=False)}"]
        lines += [f"license: {hub_license}"] if hub_license in _HUB_LICENSES else ["license: other", *named]
    lines += ["size_categories:", f"- {_size_category(spec.count)}"]
    if (spec.format, spec.layout) in _DATA_FILES:
        files = _DATA_FILES[spec.format, spec.layout]
        lines += ["configs:", "- config_name: default", "  data_files:", "  - split: train", f'    path: "{files}"']
    lines += ["---", ""]
    return "\n".join(lines)


def _size_category(count: int) -> str:
    bounds = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    bounds += [(10**8, "10M<n<100M"), (10**9, "100M<n<1B")]
    return next((name for bound, name in bounds if count < bound), "n>1B")


def _facts(spec: JobSpec, manifest: Manifest, exported_from: str | None) -> str:
    statistics = manifest.statistics
    facts = [
        ("Generator", f"`{spec.generator_name}`, `{spec.digest}`"),
        ("Samples", f"{spec.count:,} of shape {_shape(spec.sample_shape)}, {spec.dtype}, as {spec.format}"),
        ("Seed and noise", f"{spec.seed}, {'own latents' if spec.latents else spec.noise}"),
        ("Labels", spec.labels or "none"),
        *([("Attributes", spec.attributes)] if spec.attributes else []),
        *([("Settings", format_settings(spec.settings))] if spec.settings else []),
        *([("Sampler", spec.sampler)] if spec.sampler else []),
        *([("Best of", format_choice(spec))] if spec.judge else []),
        ("Shards", f"{manifest.shards:,}, {manifest.size_bytes:,} bytes"),
        ("Values", f"{statistics.minimum:g} to {statistics.maximum:g}, mean {statistics.mean:.4g}"),
        ("Repeated, constant samples", f"{statistics.repeated:,}, {statistics.constant:,}"),
        (
            "Made by",
            "; ".join(f"{record.engine}, batch {record.batch}, {record.device}" for record in manifest.made_by),
        ),
        ("Finished", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.finished_at))),
    ]
    if exported_from is not None:
        facts.append(("Exported from", f"`{exported_from}`"))
    table = "| | |\n| --- | --- |\n" + "".join(f"| {name} | {_cell(value)} |\n" for name, value in facts)
    if spec.classes and statistics.classes:
        rows = zip(range(len(spec.classes)), spec.classes, statistics.classes, strict=True)
        table += "\n| label | class | samples |\n| --- | --- | --- |\n"
        table += "".join(f"| {label} | {_cell(name)} | {count:,} |\n" for label, name, count in rows)
    return table + _scores(spec, manifest)


def _scores(spec: JobSpec, manifest: Manifest) -> str:
    """What the judge gave, by class."""
    scores = manifest.scores
    if scores is None:
        return ""
    marked = scores.candidates_below is not None and scores.winners_below is not None
    below = f" | candidates below {spec.min_score:g} | samples below" if marked else ""
    table = f"\n| class | mean score of candidates | of samples{below} |\n| --- | --- | ---"
    table += " | --- | --- |\n" if marked else " |\n"
    for row, name in enumerate(spec.classes or ("all",)):
        table += f"| {_cell(name)} | {scores.candidates[row]:.4g} | {scores.winners[row]:.4g}"
        if scores.candidates_below is not None and scores.winners_below is not None:
            table += f" | {scores.candidates_below[row]:,} | {scores.winners_below[row]:,}"
        table += " |\n"
    return table


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _reading(spec: JobSpec) -> str:
    where = {
        "png": "`metadata.jsonl` beside them" if spec.layout == "flat" else "the folders' names",
        "tar": " and `<index>.cls`",
        "tfrecord": ", `label`",
        "parquet": ", `label`",
    }
    without = {"png": "no file, since the generator has no classes"}
    labels = (where if spec.classes else without).get(spec.format, "")
    samples = "image" if is_png(spec.sample_type) else "sample"
    note = _NOTES.get(spec.format, "").format(labels=labels, samples=samples)
    return "\n".join([note, *map(_code, reading(spec))])


def _code(snippet: Snippet) -> str:
    return f"{snippet.title}:\n\n```{snippet.language}\n{snippet.code}\n```\n"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
