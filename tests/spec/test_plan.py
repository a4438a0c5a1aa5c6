"""The plan of a dataset, and the names of its files."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spec.plan import (
    UNICODE_FOLDERS,
    Plan,
    Shard,
    class_folder,
    class_folders,
    default_shard_size,
    folder_style,
    receipt_index,
    receipt_name,
    sample_stem,
    shard_name,
)


@given(count=st.integers(1, 5000), shard_size=st.integers(1, 6000))
def test_shards_hold_every_sample_once_in_order(count: int, shard_size: int) -> None:
    plan = Plan(count=count, shard_size=shard_size)
    shards = list(plan)
    assert len(shards) == len(plan)
    assert [shard.index for shard in shards] == list(range(len(plan)))
    assert [i for shard in shards for i in range(shard.first, shard.first + shard.count)] == list(range(count))
    assert all(shard.count == shard_size for shard in shards[:-1])
    assert 1 <= shards[-1].count <= shard_size


def test_the_largest_plan_is_exact() -> None:
    plan = Plan(count=10**12 - 1, shard_size=10**4 + 7)
    last = plan[len(plan) - 1]
    assert last.first + last.count == 10**12 - 1


@pytest.mark.parametrize("index", [-1, 4, 10**9])
def test_there_is_no_other_shard(index: int) -> None:
    with pytest.raises(IndexError, match="of 4"):
        Plan(count=100, shard_size=30)[index]


def test_the_last_shard_holds_what_is_left() -> None:
    assert Plan(count=100, shard_size=30)[3] == Shard(index=3, first=90, count=10)


def test_names_sort_as_their_numbers() -> None:
    assert shard_name(7, ".npy") == "shards/00000007.npy"
    assert shard_name(7, "") == "shards/00000007"
    assert receipt_name(12) == "receipts/00000012.json"
    assert sample_stem(123) == "000000000123"
    assert sorted(map(sample_stem, (10**11, 9, 10))) == [sample_stem(number) for number in (9, 10, 10**11)]


@given(st.integers(0, 10**8 - 1))
def test_a_receipts_name_tells_its_shard(index: int) -> None:
    assert receipt_index(receipt_name(index)) == index


@pytest.mark.parametrize("name", ["receipts/1.json", "receipts/00000001.json~", "shards/00000001.json", "receipts/x"])
def test_other_names_are_no_receipts(name: str) -> None:
    assert receipt_index(name) is None


@pytest.mark.parametrize(("sample_bytes", "size"), [
    (1, 8192), (28 * 28 * 4, 8192), (8192, 8192), (8193, 4096), (3 * 1024 * 1024 * 4, 4), (2**40, 1), (0, 8192),
])  # fmt: skip
def test_the_default_shard_has_about_64_mib(sample_bytes: int, size: int) -> None:
    assert default_shard_size(sample_bytes) == size


@pytest.mark.parametrize(("name", "folder"), [
    ("T-shirt/top", "images/t-shirt_top"), ("../../etc", "images/etc"), ("..", "images/class"), ("", "images/class"),
    ("a\\b:c", "images/a_b_c"), ("9", "images/9"), (".hidden", "images/hidden"),
])  # fmt: skip
def test_class_folders_are_safe_names(name: str, folder: str) -> None:
    assert class_folder(name) == folder


@pytest.mark.parametrize(("names", "folders"), [
    (("T-shirt/top", "Trouser"), ("t-shirt_top", "trouser")), (("dog", "猫"), ("dog", "class")),
    (("猫", "犬", "dog"), ("猫", "犬", "dog")), (("Ärger", "ärger"), ("ärger-0", "ärger-1")),
    (("C++", "C", "c-0", "c-1"), ("c-0_", "c-1_", "c-0", "c-1")), (("!", "?"), ("class-0", "class-1")),
    (("caf\u0065\u0301", "cafè"), ("cafe", "caf")), (("a" * 300 + "!", "a" * 300), ("a" * 50 + "-0", "a" * 50 + "-1")),
])  # fmt: skip
def test_classes_have_folders_of_their_own(names: tuple[str, ...], folders: tuple[str, ...]) -> None:
    assert class_folders(names) == tuple(f"images/{folder}" for folder in folders)


@pytest.mark.parametrize(("names", "folders"), [
    (("dog", "猫"), ("dog", "猫")), (("T-shirt/top", "été"), ("t-shirt_top", "été")),
    (("हिन्दी", "Ελλάς", "عربي"), ("हिन्दी", "ελλάς", "عربي")), (("e\u0301", "Ä"), ("\u00e9", "ä")),
    (("Straße", "STRASSE"), ("straße-0", "strasse-1")), (("İ", "i̇"), ("i̇-0", "i̇-1")),
    (("क\u200dष", "a\u202eb"), ("कष", "ab")), (("🎉", "../..", "猫 犬"), ("class-0", "class-1", "猫_犬")),
    (("猫" * 60,), ("猫" * 50,)), (("x" * 49 + "._y",), ("x" * 49,)),
])  # fmt: skip
def test_new_folders_keep_the_letters_of_every_script(names: tuple[str, ...], folders: tuple[str, ...]) -> None:
    found = class_folders(names, UNICODE_FOLDERS)
    assert found == tuple(f"images/{folder}" for folder in folders)
    assert all(len(folder.encode()) < 240 and unicodedata.is_normalized("NFC", folder) for folder in found)


def test_names_of_ascii_have_the_folders_that_they_always_had() -> None:
    assert folder_style(("T-shirt/top", "C++", "C"), "class") == "ascii"
    assert folder_style(("dog", "猫"), "class") == "unicode"
    assert folder_style(("dog", "猫"), "flat") == folder_style(None, "class") == "ascii"
