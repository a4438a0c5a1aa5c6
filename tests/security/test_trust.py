"""A generator that data alone names is not loaded; what looks at a stranger's model has few rights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator, find_named_by_data, remember
from tests.end_to_end.fleet import TINY

REFUSED = "is named by the data alone"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    for file in (Path(TINY), Path(TINY).with_suffix(".toml")):
        shutil.copy(file, tmp_path / "mine")
    return tmp_path / "mine" / "tiny.keras"


def test_what_is_built_in_is_trusted() -> None:
    assert find_named_by_data("fashion").name == "fashion"


def test_what_data_names_is_refused_until_the_user_names_it(model: Path, tmp_path: Path) -> None:
    reference = find_generator(str(model)).reference
    with pytest.raises(GeneratorError, match=REFUSED):
        find_named_by_data(reference)
    remember(find_generator(str(model)))
    assert find_named_by_data(reference).digest == find_generator(str(model)).digest
    # It is the content that is trusted, not the place.
    moved = (tmp_path / "mine").rename(tmp_path / "elsewhere") / model.name
    assert find_named_by_data(str(moved)).content == find_generator(str(moved)).content


def test_another_content_at_the_same_place_is_refused(model: Path) -> None:
    remember(find_generator(str(model)))
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(GeneratorError, match=REFUSED):
        find_named_by_data(str(model))


def test_the_users_word_counts(model: Path) -> None:
    assert find_named_by_data(str(model), trust=True).reference
    with pytest.raises(GeneratorError, match=REFUSED):  # For this once.
        find_named_by_data(str(model))
    assert find_named_by_data("s3://nowhere/x", generator=str(model)).reference == find_generator(str(model)).reference
    assert find_named_by_data(str(model)).reference


def test_nothing_is_fetched_from_where_data_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_url: str) -> Path:
        raise AssertionError("it was fetched")

    monkeypatch.setattr("pipeline.generators.catalogue.fetch", fetch)
    with pytest.raises(GeneratorError, match=REFUSED):
        find_named_by_data("s3://somebody/model")


_ATTEMPTS = """
import os, socket, sys
from pathlib import Path
from pipeline.common.rights import drop_rights
inside, outside, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
held = open(outside / "held", "w")
drop_rights(writable=[inside])
def attempt(what, act):
    try:
        act()
    except OSError as error:
        print(what, "refused")
    else:
        print(what, "done")
attempt("write inside", lambda: (inside / "new").write_text("x"))
attempt("write", lambda: (outside / "new").write_text("x"))
attempt("overwrite", lambda: (outside / "old").write_text("x"))
attempt("remove", lambda: (outside / "old").unlink())
attempt("folder", lambda: (outside / "folder").mkdir())
attempt("link", lambda: (outside / "link").symlink_to("/"))
attempt("shell", lambda: os.system(f"echo x > {outside}/shell 2>/dev/null") and None)
attempt("read", lambda: (outside / "old").read_text())
attempt("null", lambda: open(os.devnull, "w").write("x"))
attempt("held", lambda: held.write("x"))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", port)))
"""


def _landlock_version() -> int:
    import ctypes

    return int(ctypes.CDLL(None).syscall(444, None, 0, 1)) if sys.platform == "linux" else 0


@pytest.mark.skipif(_landlock_version() < 4, reason="this kernel has no Landlock of version 4")
def test_rights_that_are_dropped(tmp_path: Path) -> None:
    import socket

    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "old").write_text("old")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = [sys.executable, "-c", _ATTEMPTS, str(inside), str(outside), port]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    allowed = ("write inside", "read", "null", "held", "shell")
    assert told == {what: "done" if what in allowed else "refused" for what in told}
    assert len(told) == 11
    assert sorted(path.name for path in outside.iterdir()) == ["held", "old"]
    assert (outside / "old").read_text() == "old"
