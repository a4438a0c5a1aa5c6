"""The plan of a dataset: its division into shards, and the names of all files.

This is the only module that defines file names.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

#: Shards are numbered with eight digits.
MAX_SHARDS = 10**8

JOB = "job.json"
MANIFEST = "manifest.json"
SHARD_INDEX = "shards.jsonl"
CARD = "README.md"
#: Metadata for dataset searches, as JSON-LD; older datasets lack it.
CROISSANT = "croissant.json"
PREVIEW = "preview.png"
REPORT = "report.html"
#: What `evaluate --save` found, and the samples nearest to training images.
EVALUATION = "evaluation.json"
NEAR_COPIES = "near_copies.png"
SELECTION = "selection.json"
LATENTS = "latents.npy"
ATTRIBUTES = "attributes.npy"
LABELS = "labels.npy"
#: The source of an exported dataset; absent if a job made it.
ORIGIN = "export.json"
SHARDS = "shards"
RECEIPTS = "receipts"
IMAGES = "images"
#: Receipts that a pack copies. The ledger (`commit` in ledger.lua) has the same number.
PACK_SHARDS = 1024

#: How folders of classes are named, see `class_folders`.
ASCII_FOLDERS, UNICODE_FOLDERS = "ascii", "unicode"

#: Target size of a shard by default, bytes.
_DEFAULT_SHARD_BYTES = 64 * 2**20
_DEFAULT_SHARD_SAMPLES = 8192

#: Most characters of a class name in its folder's name: file systems allow 255 bytes, and a character may have four.
_FOLDER_LETTERS = 50


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A contiguous range of samples, written as one unit."""

    #: Position in the plan, from 0.
    index: int
    #: Index of its first sample in the dataset.
    first: int
    #: Number of its samples, at least 1.
    count: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Division of `count` samples into shards of `shard_size`; the last shard has the rest."""

    count: int
    shard_size: int

    def __len__(self) -> int:
        """Number of shards."""
        return math.ceil(self.count / self.shard_size)

    def __getitem__(self, index: int) -> Shard:
        """The shard at `index`. Raises IndexError outside 0..len-1."""
        if not 0 <= index < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        first = index * self.shard_size
        return Shard(index=index, first=first, count=min(self.shard_size, self.count - first))

    def __iter__(self) -> Iterator[Shard]:
        """All shards in order."""
        return (self[index] for index in range(len(self)))


def default_shard_size(sample_bytes: int) -> int:
    """Samples per shard by default: a power of two, at most 8,192 and about 64 MiB.

    Depends only on the size of a sample, so that a job is the same on every machine.
    """
    fitting = max(1, _DEFAULT_SHARD_BYTES // max(1, sample_bytes))
    return min(_DEFAULT_SHARD_SAMPLES, 1 << (fitting.bit_length() - 1))


def shard_stem(index: int) -> str:
    """Name of a shard or receipt without folder and extension: its index in 8 digits."""
    return f"{index:08d}"


def shard_name(index: int, suffix: str) -> str:
    """Name of a shard's file: `shards/00000007.npy` for suffix ".npy"; of its folder for suffix ""."""
    return f"{SHARDS}/{shard_stem(index)}{suffix}"


def receipt_name(index: int) -> str:
    """Name of a shard's receipt: `receipts/00000007.json`."""
    return f"{RECEIPTS}/{shard_stem(index)}.json"


def receipt_index(name: str) -> int | None:
    """Shard index of a receipt's name, or None if it is not the name of a receipt."""
    match = re.fullmatch(rf"{RECEIPTS}/(\d{{8}})\.json", name)
    return int(match[1]) if match else None


def pack_name(number: int) -> str:
    """Name of the pack with the receipts of shards number * PACK_SHARDS and following: `receipts/packs/000007`."""
    return f"{RECEIPTS}/packs/{number:06d}"


def pack_number(name: str) -> int | None:
    """Number of a pack, or None if it is not the name of one."""
    match = re.fullmatch(rf"{RECEIPTS}/packs/(\d{{6}})", name)
    return int(match[1]) if match else None


def sample_stem(index: int) -> str:
    """Name of a sample without folder and extension: its index in 12 digits."""
    return f"{index:012d}"


@lru_cache(64)
def class_folders(class_names: tuple[str, ...], style: str = ASCII_FOLDERS) -> tuple[str, ...]:
    """Folders of the classes' images, in the order of the names; all different, even ignoring case.

    "unicode" keeps the letters of any script, as NFC: `images/été`, `images/हिन्दी`. "ascii" is the style of older
    datasets: each folder is that of `class_folder`, and only classes for which it would be the same keep their letters.
    Classes that still share a folder get the number of their class: `c-2` and `c-3` for "C++" and "C".
    """
    if style == UNICODE_FOLDERS:
        folders = [_unicode_folder(name) for name in class_names]
    else:
        folders = [class_folder(name) for name in class_names]
        shared = Counter(folders)
        folders = [
            folder if shared[folder] == 1 else _script_folder(name)
            for folder, name in zip(folders, class_names, strict=True)
        ]
    shared = Counter(folder.casefold() for folder in folders)
    taken = {folder for folder, count in shared.items() if count == 1}
    for label, folder in enumerate(folders):
        if shared[folder.casefold()] > 1:
            folders[label] = f"{folder}-{label}"
            while folders[label].casefold() in taken:
                folders[label] += "_"
            taken.add(folders[label].casefold())
    return tuple(folders)


def folder_style(class_names: tuple[str, ...] | None, layout: str) -> str:
    """The style of a new dataset's folders: "unicode" if that gives other names than "ascii", which is the default."""
    if layout != "class" or class_names is None:
        return ASCII_FOLDERS
    same = class_folders(class_names, UNICODE_FOLDERS) == class_folders(class_names)
    return ASCII_FOLDERS if same else UNICODE_FOLDERS


def _unicode_folder(class_name: str) -> str:
    # Letters, marks (vowels of many scripts) and digits; format characters, such as joiners, are invisible.
    folded = unicodedata.normalize("NFC", class_name.lower())
    kept = "".join(
        character if character in "-._" or unicodedata.category(character)[0] in "LMN" else " "
        for character in folded
        if unicodedata.category(character) != "Cf"
    )
    safe = re.sub(r"[ _]+", "_", kept).strip("._")[:_FOLDER_LETTERS].strip("._")
    return f"{IMAGES}/{safe or 'class'}"


def _script_folder(class_name: str) -> str:
    safe = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", class_name.lower())).strip("._")
    return f"{IMAGES}/{safe[:_FOLDER_LETTERS] or 'class'}"


def class_folder(class_name: str) -> str:
    """Folder of a class's images, by its name only: `images/t-shirt_top` for "T-shirt/top"; valid everywhere."""
    safe = re.sub(r"[^a-z0-9.-]+", "_", class_name.lower()).strip("._")
    return f"{IMAGES}/{safe or 'class'}"
