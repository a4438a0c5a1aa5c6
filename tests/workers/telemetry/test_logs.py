"""Log lines: readable as text, one object a line as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from workers.telemetry.logs import about, set_up_logging


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("noisemill")
    before = root.level, root.handlers[:], own.level
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    own.setLevel(before[2])


def test_json_lines_carry_what_they_are_about(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json", worker="host-1")
    log = logging.getLogger("noisemill")
    log.info("shard %d\nis \u201edone\u201c", 3, extra=about("tiny-1", 3, 2))
    log.debug("not wanted")
    logging.getLogger("celery").info("nor this")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    done, failed = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (done["worker"], done["job"], done["shard"], done["attempt"]) == ("host-1", "tiny-1", 3, 2)
    assert (done["level"], done["message"]) == ("info", "shard 3\nis \u201edone\u201c")
    assert "exception" not in done
    assert failed["exception"].endswith("ValueError: why")
    assert "job" not in failed


def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("warning")
    logging.getLogger("noisemill").info("not wanted")
    logging.getLogger("noisemill").warning("job %s waits", "tiny-1", extra=about("tiny-1"))
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(" WARNING job tiny-1 waits")
