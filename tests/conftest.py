"""What tests of every package share: a private Valkey, settings with keys of the test's own, and an S3 server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from pipeline.common.settings import Settings
from pipeline.jobs.ledger import Ledger
from tests.servers import S3Server, Valkey, s3_or_skip

# On a busy machine, any example may take long; the time-out of a test is for what hangs.
hypothesis.settings.register_profile("noisemill", deadline=None)
hypothesis.settings.load_profile("noisemill")


#: Files, and single tests of others, that start many processes and take most of the time: `make test` leaves them to
#: `make test-all`.
LONG = {
    "benchmarks/test_benchmarks.py", "client/recipes/test_reproduce.py", "client/test_stream.py",
    "compat/readers/test_keras.py",
    "datasets/evaluation/test_figures.py",
    "end_to_end/test_containers.py", "end_to_end/test_extend.py", "end_to_end/test_kills.py",
    "end_to_end/test_metrics.py", "end_to_end/test_mixed_fleets.py", "end_to_end/test_names.py",
    "examples/test_examples.py", "faults/test_chaos.py", "faults/test_poison.py", "faults/test_redis.py",
    "faults/test_stores_s3.py", "frame/test_wheel.py", "generators/test_best_of.py",
    "generators/test_checkpoint.py", "generators/test_denoisers.py",
    "generators/test_inputs.py", "generators/test_interpreted.py", "generators/test_jax_export.py",
    "generators/test_reproducible.py", "generators/test_sampling.py", "generators/test_trusted_code.py",
    "security/test_surroundings.py",
    "ui/test_browser.py", "ui/test_playground.py",
    "end_to_end/test_generate.py::test_a_generator_that_does_not_load_is_one_line",
    "end_to_end/test_generate.py::test_straight_to_s3",
    "end_to_end/test_generate.py::test_two_at_once_make_one_dataset",
    "end_to_end/test_generate.py::test_under_nohup_it_outlives_its_terminal",
    "end_to_end/test_up.py::test_what_the_file_names_comes_up_and_goes_down",
    "generators/test_judges.py::test_a_judge_in_onnx_or_a_saved_model",
    "generators/test_keras.py::test_a_range_that_nobody_tells_is_measured_and_offered",
    "generators/test_saved_model.py::test_what_reaches_out_is_refused_wherever_it_is",
}  # fmt: skip
#: The same for tests that CI leaves to `make slow`: others like them are in `make test-all`.
SLOW = {
    "deploy/test_compose_runs.py", "training/test_flow.py", "training/test_recipe.py",
    "end_to_end/test_generate.py::test_a_second_ctrl_c_does_not_wait_for_the_batch",
    "end_to_end/test_generate.py::test_in_fewer_bits",
    "end_to_end/test_generate.py::test_killed_it_leaves_no_process",
    "end_to_end/test_kills.py::test_a_lone_worker_is_killed_and_another_goes_on",
    "end_to_end/test_kills.py::test_a_worker_that_slept_past_its_lease_does_no_harm",
    "end_to_end/test_kills.py::test_the_child_is_killed_and_its_parent_starts_another",
    "end_to_end/test_mixed_fleets.py::test_a_rolling_update_of_a_generator",
    "end_to_end/test_mixed_fleets.py::test_a_worker_that_sees_the_destination_elsewhere_refuses_it",
    "end_to_end/test_mixed_fleets.py::test_no_worker_s_clock_matters",
    "end_to_end/test_queued.py::test_a_job_begins_while_the_one_before_is_finished",
    "end_to_end/test_queued.py::test_a_worker_leaves_no_temporary_file",
    "end_to_end/test_queued.py::test_priorities_hold",
    "end_to_end/test_queued.py::test_two_versions_under_one_name_do_not_mix",
    "examples/test_examples.py::test_augment_a_small_set", "examples/test_examples.py::test_diffusion",
    "examples/test_examples.py::test_the_article", "examples/test_examples.py::test_train_on_a_stream",
    "faults/test_poison.py::test_a_generator_that_crashed_once_while_it_loaded_is_loaded_again",
    "faults/test_poison.py::test_what_nobody_foresaw_fails_the_job_once",
    "faults/test_redis.py::test_generate_whose_private_valkey_dies_says_how_to_go_on",
    "generators/test_denoisers.py::test_a_job_of_many_shards_and_workers_makes_the_same_samples",
    "generators/test_interpreted.py::test_a_dataset_is_made_and_made_again",
    "generators/test_interpreted.py::test_a_file_that_was_cut_off",
    "generators/test_keras.py::test_matrices_are_grey_images",
    "generators/test_reproducible.py::test_what_cannot_be_the_same_is_not_called_different",
    "generators/test_saved_model.py::test_a_fixed_batch", "schedules/test_scheduler_metrics.py",
}  # fmt: skip
#: Folders of tests that need no process and no TensorFlow, and fixtures by which those in them that do are known.
QUICK = ("common", "fleet", "formats", "jobs", "spec", "workers")
NOT_QUICK = {"s3", "plain_s3", "fleet", "lone_fleet", "here", "s3_environment", "redis_server"}
NOT_QUICK_FILES = (
    "test_ledger_at_once", "test_ledger_losses", "test_ledger_model", "test_precision", "test_webhooks",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is long and what is quick; what is long goes first, or one core would wait for it in the end."""
    root = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(root) if item.path.is_relative_to(root) else item.path
        names = {path.as_posix(), f"{path.as_posix()}::{getattr(item, 'originalname', '')}"}
        if names & LONG:
            item.add_marker("long")
        if names & SLOW:
            item.add_marker("slow")
        fixtures = set(getattr(item, "fixturenames", ()))
        if path.parts[0] in QUICK and path.stem not in NOT_QUICK_FILES and not fixtures & NOT_QUICK:
            item.add_marker("quick")
    items.sort(key=lambda item: not (item.get_closest_marker("long") or item.path.parent.name == "end_to_end"))


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A running Valkey on a Unix socket. Without one, tests skip; where CI is set they fail."""
    try:
        server = Valkey().__enter__()
    except (RuntimeError, ImportError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield server
    server.__exit__(None, None, None)


@pytest.fixture
def settings(valkey: Valkey, tmp_path: Path) -> Settings:
    """Settings of one test: its own keys on the shared Valkey, its own cache, leases that last 30 s."""
    return Settings(redis_url=valkey.url, key_prefix=f"test-{uuid.uuid4().hex[:8]}", cache_dir=tmp_path / "cache")


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    """An empty ledger."""
    return Ledger(settings)


@pytest.fixture
def raw(settings: Settings) -> Iterator[redis.Redis]:
    """The server itself: what the ledger stores there; also a way to let time pass for one lease."""
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="session")
def plain_s3() -> Iterator[S3Server]:
    """A running S3 server, of which this process's environment says nothing."""
    with s3_or_skip() as server:
        yield server


@pytest.fixture(scope="module")
def s3(plain_s3: S3Server) -> Iterator[S3Server]:
    """A running S3 server; this process's environment says how to reach it, and no profile or file of the user's."""
    settings = {**plain_s3.environment, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        yield plain_s3
