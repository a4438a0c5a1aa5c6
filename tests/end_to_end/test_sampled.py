"""Samples of a denoiser by a stochastic sampler, made in every way: each pass draws noise, the same for each sample."""

from __future__ import annotations

import pytest

from tests.end_to_end.fleet import Fleet
from tests.end_to_end.ways import WAYS, check_same, made
from tests.generators.denoiser import write_flow
from tests.servers import S3Server

SAMPLER = ("--sampler", "ddpm", "--steps", "6", "--guidance", "1.5")


@pytest.mark.slow
def test_the_same_samples_whatever_the_way(lone_fleet: Fleet, s3: S3Server) -> None:
    model = lone_fleet.folder / "flow"
    write_flow(model)
    for _ in range(2):
        lone_fleet.start_worker(str(model))
    reference = made(lone_fleet, str(model), "reference", "--count", "600", "--seed", "11", *SAMPLER)
    for name, arguments in WAYS:
        destination = s3.destination() if name.startswith("s3") else name
        dataset = made(lone_fleet, str(model), destination, "--count", "600", "--seed", "11", *SAMPLER, *arguments)
        check_same(dataset, reference)
        checked = lone_fleet.run("verify", dataset.url, "--recompute", "20")
        assert checked.returncode == 0, (name, checked.stdout, checked.stderr)
