"""The page: HTML without scripts, with style and images embedded, light or dark as the reader's system."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.formatting import duration, rate, size
from pipeline.common.version import VERSION
from pipeline.datasets.report import charts
from pipeline.datasets.report.code_examples import Snippet, checking, making, reading, recipe
from pipeline.datasets.report.findings import CLASSES, Findings, Rate
from pipeline.datasets.report.pictures import grid, is_large, mean_and_deviation
from pipeline.datasets.stages import STAGES, verdict
from pipeline.formats.image import image_shape
from pipeline.spec.job_spec import format_choice, format_settings

#: Forbids everything that is not embedded: the page cannot make requests.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
#: Samples on the sheet: small images, large ones, curves.
_SHEET, _LARGE_SHEET, _CURVES = 96, 40, 24


def page(findings: Findings) -> str:
    """The whole page."""
    title = f"{findings.spec.count:,} samples of {findings.spec.generator_name}"
    style = files("pipeline.datasets.report").joinpath("style.css").read_text(encoding="utf-8")
    sections = [
        _sheet(findings),
        _classes(findings),
        _values(findings),
        _likeness(findings),
        _compared(findings),
        _speed(findings),
        _provenance(findings),
        _reading(findings),
        _again(findings),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="noisemill {VERSION}">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{_head(findings, title)}\n{''.join(sections)}"
        f"<footer>Synthetic data: every sample is the output of a generator. Written by noisemill {VERSION}, "
        f"{_when(time.time())}.</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>\n" if inside else ""


def _head(findings: Findings, title: str) -> str:
    spec = findings.spec
    state = f'<span class="state{"" if findings.whole else " growing"}">{escape(_state(findings))}</span>'
    facts = [
        (f"{spec.count:,}", "samples"),
        (" \N{MULTIPLICATION SIGN} ".join(map(str, spec.sample_shape)), "shape of one"),
        (f"{spec.format}, {spec.dtype}", "stored as"),
        (f"{len(spec.classes):,}" if spec.classes else "none", "classes"),
        (size(findings.size_bytes), f"in {findings.shards_made:,} shards"),
    ]
    if findings.rate and findings.rate.overall:
        facts.append((f"{findings.rate.overall:,.0f}", "samples a second"))
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in facts)
    return (
        f'<header><h1>{escape(title)}</h1><p class="place">{escape(findings.url)}</p>{state}</header>\n'
        f'<div class="facts">{cells}</div>'
    )


def _state(findings: Findings) -> str:
    made, count = findings.samples_made, findings.spec.count
    if findings.whole:
        return "whole"
    if findings.selection:
        return f"a part: shards {findings.selection} of {len(findings.spec.plan):,}; {made:,} samples are there"
    return f"not whole: {made:,} of {count:,} samples, {made / count:.0%}"


def _sheet(findings: Findings) -> str:
    if findings.spec.format == "null":
        return _section("Samples", "<p>No samples were written: the job only measured speed.</p>")
    if not len(findings.samples):
        return _section("Samples", "<p>There are none yet.</p>")
    shape = findings.spec.sample_shape
    most = _CURVES if image_shape(shape) is None else _LARGE_SHEET if is_large(shape) else _SHEET
    chosen = np.linspace(0, len(findings.samples) - 1, min(most, len(findings.samples))).astype(int)
    samples = findings.samples[chosen]
    note = f"{len(chosen)} of {findings.samples_made:,} samples, from shards all over the dataset, not selected."
    note = f'<p class="dim">{note}</p>'
    if image_shape(findings.spec.sample_shape) is None:
        return _section("Samples", _curves(findings, samples), note)
    return _section("Contact sheet", _picture(findings, samples, 16, "sheet", "Contact sheet"), note)


def _picture(findings: Findings, samples: NDArray[Any], columns: int, kind: str, words: str) -> str:
    large = is_large(findings.spec.sample_shape)
    url, width, height = grid(samples, max(2, columns // 2) if large else columns, findings.full_scale)
    kind = f"{kind} smooth" if large else kind
    return f'<img class="{kind}" src="{url}" width="{width}" height="{height}" alt="{escape(words)}">'


def _curves(findings: Findings, samples: NDArray[Any]) -> str:
    """Samples that are not images, as curves of their first values."""
    low, high = findings.full_scale
    rows = samples.reshape(len(samples), -1)[:, :256].astype(float)
    return f'<div class="samples">{"".join(charts.line(row.tolist(), low, high) for row in rows)}</div>'


def _classes(findings: Findings) -> str:
    names, statistics = findings.spec.classes, findings.statistics
    if names is None or statistics is None or statistics.classes is None:
        return ""
    counts = statistics.classes
    shown = list(range(len(names)))[:CLASSES]
    bars = charts.bars([(names[label], counts[label], f"{counts[label]:,}") for label in shown], "Samples per class")
    more = f"<p class='dim'>The first {CLASSES} of {len(names):,} classes.</p>" if len(names) > CLASSES else ""
    parts = [_section("Classes", bars, more)]
    if findings.classes and image_shape(findings.spec.sample_shape) is not None:
        cards = "".join(
            f"<div><h3>{escape(names[label])}<span>{label}</span></h3>"
            f"{_picture(findings, samples, 10, 'grid', names[label])}</div>"
            for label, samples in findings.classes.items()
        )
        parts.append(_section("By class", f'<div class="classes">{cards}</div>'))
    return "".join(parts)


def _values(findings: Findings) -> str:
    statistics = findings.statistics
    if statistics is None:
        return ""
    facts = [
        ("Least, greatest", f"{statistics.minimum:.6g}, {statistics.maximum:.6g}"),
        ("Mean", f"{statistics.mean:.6g}"),
        ("Constant samples", f"{statistics.constant:,}"),
    ]
    table = _table((name, escape(value)) for name, value in facts)
    if not len(findings.samples):
        return _section("Values", table)
    counts, edges = findings.histogram
    total = max(1, sum(counts))
    bins = zip(counts, edges[:-1], edges[1:], strict=True)
    titles = [f"{low:.4g} to {high:.4g}: {count / total:.2%}" for count, low, high in bins]
    ticks = [(0.0, f"{edges[0]:.4g}"), (0.5, f"{edges[len(edges) // 2]:.4g}"), (1.0, f"{edges[-1]:.4g}")]
    # The background of images is one value, whose bar would hide the others.
    heights = [count**0.5 for count in counts]
    chart = charts.columns(heights, ticks, titles, "Histogram of values", top=f"{max(counts) / total:.1%}")
    caption = f"Values of {len(findings.samples):,} samples; heights are square roots, so that rare values can be seen."
    moments = ""
    if image_shape(findings.spec.sample_shape) is not None:
        mean, deviation = mean_and_deviation(findings.samples, findings.full_scale)
        moments = (
            f'<div class="moments"><figure><img src="{mean}" alt="Mean"><figcaption>Mean</figcaption></figure>'
            f'<figure><img src="{deviation}" alt="Deviation"><figcaption>Deviation</figcaption></figure></div>'
        )
    figure = f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"
    return _section("Values", f'<div class="two"><div>{figure}</div><div>{table}{moments}</div></div>')


def _likeness(findings: Findings) -> str:
    statistics = findings.statistics
    if statistics is None:
        return ""
    repeated = f"{statistics.repeated:,} of {findings.samples_made:,} samples"
    parts = [f"<p>{repeated} equal another one of their shard, value for value.</p>"]
    if findings.nearest and findings.nearest_median is not None:
        pairs = []
        rows = {index: row for row, index in enumerate(findings.indices)}
        for pair in findings.nearest:
            caption = f"{pair.first:,} and {pair.second:,}: {pair.distance:.3f}"
            both = findings.samples[[rows[pair.first], rows[pair.second]]]
            if image_shape(findings.spec.sample_shape) is not None:
                picture = _picture(findings, both, 2, "pair", caption)
            else:
                picture = _curves(findings, both)
            pairs.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
        note = (
            f"The pairs most alike among {len(findings.samples):,} samples, with their distance (root mean square, as "
            f"a share of full scale). The median sample is {findings.nearest_median:.3f} from its nearest: pairs of "
            "almost 0 would mean that the generator repeats itself."
        )
        parts += [f'<div class="pairs">{"".join(pairs)}</div>', f'<p class="dim">{note}</p>']
    return _section("Nearest and repeated samples", *parts)


def _compared(findings: Findings) -> str:
    """The saved result of `evaluate`."""
    if findings.evaluation is None:
        return ""
    found, picture = findings.evaluation
    near = found.near_copies
    rows = [
        (
            "Compared",
            f"{found.samples:,} samples with {found.real_training:,} real images, {found.real_test:,} for testing",
        ),
        ("Consistency", f"{found.consistency:.3f}"),
        ("TSTR", f"{found.tstr:.3f}, as a share of real {found.tstr_of_real:.3f}"),
        ("Coverage", f"{found.coverage:.3f} (real images {found.coverage_of_real:.3f})"),
        ("Novelty", f"{found.novelty:.3f}"),
        ("Near copies", near.describe()),
    ]
    note = (
        f"The samples nearest to a training image, each above that image. A near copy is no farther from it than "
        f"{near.percentile:g} % of the training images of its class are from their nearest other. A share well above "
        "that of real test images would mean that the generator repeats its training data."
    )
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    pairs = "; ".join(
        f"{pair.sample:,} and real {pair.real:,}: {pair.distance:.3f} (limit {pair.limit:.3f})" for pair in near.pairs
    )
    return _section(
        "Compared with real images",
        _table(rows),
        f'<img class="sheet" src="{url}" alt="Samples above the training images that they are nearest to">',
        f'<p class="dim">{escape(note)}</p><p class="dim">{escape(pairs)}</p>',
    )


def _speed(findings: Findings) -> str:
    parts = []
    if findings.rate is not None and findings.rate.overall:
        parts.append(_rate(findings.rate, findings.samples_made))
    seconds = {stage: findings.stage_seconds.get(stage, 0.0) for stage in STAGES}
    total = sum(seconds.values())
    if total > 0:
        strip = "".join(
            f'<div class="{stage}" style="width:{100 * spent / total:.2f}%" title="{stage} {spent:.1f} s"></div>'
            for stage, spent in seconds.items()
        )
        keys = "".join(
            f'<span class="key"><i class="{stage}"></i>{stage} {duration(spent)}</span>'
            for stage, spent in seconds.items()
        )
        bound = verdict(seconds)
        parts.append(
            f'<h3>Busy, by stage</h3><div class="stages">{strip}</div>{keys}'
            f'<p class="dim">Stages overlap; summed over workers. {escape((bound or "").capitalize())}.</p>'
        )
    return _section("Speed", *parts)


def _rate(found: Rate, samples: int) -> str:
    words = f"<p>{samples:,} samples in {duration(found.working_s)}"
    words += f", {rate(found.overall)}"
    words += f"; pauses of {duration(found.paused_s)} are left out" if found.paused_s else ""
    words += ".</p>"
    if not found.series:
        return words
    titles = [
        f"after {duration((place + 0.5) * found.step_s)}: {value:,.0f}/s" for place, value in enumerate(found.series)
    ]
    ticks = [(0.0, "0"), (0.5, duration(found.working_s / 2)), (1.0, duration(found.working_s))]
    return words + charts.curve(found.series, ticks, titles, "Samples per second over time")


def _provenance(findings: Findings) -> str:
    spec = findings.spec
    rows = [
        ("Generator", escape(f"{spec.generator_name}, {spec.digest}")),
        ("Seed, noise", escape(f"{spec.seed}, {'latents of the user' if spec.latents else spec.noise}")),
        ("Labels", escape(spec.labels or "none")),
        *([("Attributes", escape(spec.attributes))] if spec.attributes else []),
        *([("Settings", escape(format_settings(spec.settings)))] if spec.settings else []),
        *([("Sampler", escape(spec.sampler))] if spec.sampler else []),
        *([("Best of", escape(format_choice(spec)))] if spec.judge else []),
        ("Job", escape(spec.sha256)),
        ("Shards", f"{findings.shards_made:,} of {len(spec.plan):,}, up to {spec.shard_size:,} samples each"),
    ]
    for number, record in enumerate(findings.made_by[:5]):
        versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
        device = f"{record.device} ({record.device_name})"
        engine = f"{record.engine}, batch {record.batch}, {record.precision}, {device}; {versions}"
        rows.append(("" if number else "Made by", escape(engine)))
    if len(findings.made_by) > 5:
        rows.append(("", f"and {len(findings.made_by) - 5} other ways: see receipts/"))
    workers = list(findings.workers.items())
    rows += [
        ("" if number else "Workers", escape(f"{worker}: {made:,} shards, {samples:,} samples"))
        for number, (worker, (made, samples)) in enumerate(workers[:20])
    ]
    if len(workers) > 20:
        rows.append(("", f"and {len(workers) - 20} workers more"))
    if findings.finished_at is not None:
        rows.append(("Latest shard", _when(findings.finished_at)))
    return _section("Provenance", _table(rows))


def _reading(findings: Findings) -> str:
    return _section("How to read it", "".join(map(_code, reading(findings.spec))))


def _again(findings: Findings) -> str:
    note = "<p>Sample <i>i</i> depends on the generator, the seed, <i>i</i> and the label plan alone.</p>"
    snippets = [making(findings.spec, findings.url), recipe(findings.url), checking(findings.url)]
    if not findings.whole:
        resuming = checking(findings.url).code.split("\n")[0].replace(" verify ", " resume ")
        snippets.insert(0, Snippet("What is missing", "sh", resuming))
    return _section("How to make it again", note, "".join(map(_code, snippets)))


def _code(snippet: Snippet) -> str:
    return f"<h3>{escape(snippet.title)}</h3><pre>{escape(snippet.code)}</pre>"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows) + "</table>"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
