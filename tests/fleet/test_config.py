"""noisemill.toml: what it may say, and what is told of mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.common.errors import UsageError
from pipeline.fleet.config import FleetConfig, WorkersTable, load_fleet_config

ROOT = Path(__file__).parents[2]


def load(folder: Path, text: str) -> FleetConfig:
    (folder / "noisemill.toml").write_text(text)
    return load_fleet_config(folder / "noisemill.toml")


def test_one_generator_is_enough(tmp_path: Path) -> None:
    found = load(tmp_path, '[[workers]]\ngenerator = "fashion"\n')
    assert found.workers == (WorkersTable(generator="fashion"),)
    assert (found.redis, found.per_gpu, found.metrics_port, found.scheduler) == (None, 1, 0, False)


def test_all_that_there_is(tmp_path: Path) -> None:
    (tmp_path / "own.keras").touch()
    found = load(
        tmp_path,
        """
        redis = "redis://h:6379/1"
        output_roots = ["/data"]
        per_gpu = 2
        metrics_port = 9464
        log_level = "warning"
        log_format = "json"
        scheduler = true

        [s3]
        endpoint_url = "http://minio:9000"
        region = "us-east-1"

        [[workers]]
        generator = "own.keras"
        device = "gpu:1"
        output_roots = []

        [[workers]]
        generator = "s3://models/faces.keras"
        device = "cpu"
        count = 3
        threads = 2
        """,
    )
    own, faces = found.workers
    assert (own.generator, own.device, own.output_roots) == (str(tmp_path / "own.keras"), "gpu:1", ())
    assert (faces.generator, faces.count, faces.threads) == ("s3://models/faces.keras", 3, 2)
    assert faces.output_roots is None
    assert found.environment == {"AWS_ENDPOINT_URL": "http://minio:9000", "AWS_DEFAULT_REGION": "us-east-1"}
    assert (found.redis, found.per_gpu, found.scheduler) == ("redis://h:6379/1", 2, True)


def test_the_example_in_the_docs(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    found = load(tmp_path, example)
    assert [table.generator for table in found.workers] == ["fashion", "models/faces.keras"]


WORKERS = '[[workers]]\ngenerator = "fashion"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 'has no workers: write [[workers]] and generator = "fashion"'),
        ("workers = 3", "has no workers"),
        ("[workers]\ngenerator = 'x'", "has no workers"),
        ("[[workers]]\ndevice = 'cpu'", "[[workers]] 1: generator is missing"),
        ("x = [", "is not TOML: "),
        ("\udcff", "is not TOML: "),
        ("perr_gpu = 2\n" + WORKERS, "perr_gpu is unknown, did you mean per_gpu?"),
        ("colour = 2\n" + WORKERS, "colour is unknown, known are redis, output_roots"),
        ("per_gpu = 0\n" + WORKERS, "per_gpu = 0 is not a whole number from 1 to 64"),
        ("per_gpu = true\n" + WORKERS, "per_gpu = True is not a whole number"),
        ('metrics_port = "9464"\n' + WORKERS, "metrics_port = '9464' is not a whole number from 0 to 65535"),
        ("scheduler = 1\n" + WORKERS, "scheduler = 1 is not true or false"),
        ('output_roots = "/data"\n' + WORKERS, "output_roots = '/data' is not a list of text, such as [\"/data\"]"),
        ('log_format = "xml"\n' + WORKERS, 'log_format = \'xml\' is not "text" or "json"'),
        (WORKERS + 'device = "tpu"', '[[workers]] 1: device = \'tpu\' is not "auto", "cpu", "gpu" or "gpu:N"'),
        (WORKERS + WORKERS + "counts = 2", "[[workers]] 2: counts is unknown, did you mean count?"),
        (WORKERS + "count = 0", "count = 0 is not a whole number from 1 to 1024"),
        ("s3 = 3\n" + WORKERS, "[s3]: s3 is unknown, known are endpoint_url, region"),
        (WORKERS + "[s3]\nsecret_access_key = 'x'", "[s3]: secret_access_key is unknown"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "noisemill.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=re.escape(expected)) as raised:
        load_fleet_config(tmp_path / "noisemill.toml")
    assert str(tmp_path / "noisemill.toml") in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_fleet_config(tmp_path / "none.toml")
