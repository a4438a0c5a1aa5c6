"""How a worker's parent process starts, stops and ends, with a real Valkey; Celery and the child are stand-ins.

The processes themselves are in `tests/end_to_end` and `tests/faults`.
"""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals

from pipeline.common.errors import LedgerError, NoisemillError
from pipeline.common.settings import Settings
from pipeline.fleet.launch import RUN_FOLDER_VARIABLE, WORKER_ID_VARIABLE, WorkerConfig
from pipeline.generators import find_generator
from pipeline.jobs.broker import queue_name
from pipeline.jobs.ledger import Ledger
from tests.jobs.test_ledger import worker_info
from tests.servers import free_port
from workers.worker import main, parent
from workers.worker.identity import METRICS_FOLDER_VARIABLE
from workers.worker.reconciler import Reconciler
from workers.worker.webhook_caller import WebhookCaller


class CeleryWorker:
    """What main asks of Celery: a worker that starts, is told of signals, and has an exit code."""

    def __init__(self) -> None:
        #: What happens while it is up.
        self.while_up: Callable[[], None] = lambda: None
        self.options: dict[str, Any] = {}
        self.exitcode: int | None = None
        #: What its pool was told to do.
        self.told: list[str] = []
        self.pool = SimpleNamespace(
            fatal=None,
            serve=lambda *_: None,
            end_slice=lambda: self.told.append("end the slice"),
            terminate=lambda: self.told.append("terminate"),
        )

    def __call__(self, **options: Any) -> CeleryWorker:
        self.options = options
        return self

    def start(self) -> None:
        signals.worker_ready.send(sender=self)
        self.while_up()


class Child:
    """What main asks of a child."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.configured: list[WorkerConfig] = []
        self.ended = False
        self.configure = self.configured.append

    def __call__(self, environment: dict[str, str]) -> Child:
        self.environment = environment
        return self

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True


@pytest.fixture
def celery(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[CeleryWorker]:
    worker = CeleryWorker()
    monkeypatch.setattr(
        parent, "celery_app", lambda _: SimpleNamespace(Worker=worker, task=lambda **_: lambda task: task)
    )
    monkeypatch.setattr(parent, "register_transport", lambda: None)
    monkeypatch.setattr(main, "set_up_logging", lambda *_, **__: None)
    for name in (WORKER_ID_VARIABLE, RUN_FOLDER_VARIABLE):
        monkeypatch.setenv(name, "")  # To be as it was after the test.
    monkeypatch.setenv("NOISEMILL_KEY_PREFIX", settings.key_prefix)
    before = signal.getsignal(signal.SIGHUP)
    yield worker
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    """The child that main starts."""
    found = Child()
    monkeypatch.setattr(main, "ChildProcess", found)
    return found


def config(settings: Settings, **other: Any) -> WorkerConfig:
    return WorkerConfig(generator="article-28", redis_url=settings.redis_url, **other)


def test_it_takes_the_wakeups_of_its_generator_and_ends_with_celerys_exit_code(
    celery: CeleryWorker, settings: Settings, child: Child
) -> None:
    celery.exitcode = 3
    seen: dict[str, Any] = {}

    def while_up() -> None:
        seen.update(id=os.environ[WORKER_ID_VARIABLE], folder=Path(os.environ[RUN_FOLDER_VARIABLE]))
        assert seen["folder"].is_dir()

    celery.while_up = while_up
    assert main.run(config(settings)) == 3
    assert celery.options["queues"] == [queue_name(find_generator("article-28").digest)]
    assert celery.options["hostname"] == seen["id"]
    assert not seen["folder"].exists(), "its temporary folder goes with it"
    assert child.configured == [config(settings)]
    assert child.environment[WORKER_ID_VARIABLE] == seen["id"]
    assert child.ended


def test_a_worker_can_be_started_before_its_job_is_known(
    celery: CeleryWorker, settings: Settings, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = WorkerConfig(generator="", redis_url="")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(asdict(config(settings))) + "\n"))
    assert main.run(early) == 0
    assert child.configured == [config(settings)]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main.run(early) == 0
    assert child.configured == [config(settings)], "without a job it ends"
    assert child.ended


def test_only_the_child_writes_metrics(celery: CeleryWorker, settings: Settings, child: Child) -> None:
    main.run(config(settings, metrics_port=free_port()))
    assert Path(child.environment[METRICS_FOLDER_VARIABLE]) == Path(child.environment[RUN_FOLDER_VARIABLE])
    assert METRICS_FOLDER_VARIABLE not in os.environ


def test_it_is_no_longer_listed_when_it_has_ended(celery: CeleryWorker, settings: Settings, ledger: Ledger) -> None:
    celery.while_up = lambda: _announce(ledger)
    assert main.run(config(settings)) == 0
    assert ledger.workers() == []


def test_why_the_child_cannot_work_is_the_error(celery: CeleryWorker, settings: Settings, ledger: Ledger) -> None:
    def while_up() -> None:
        _announce(ledger)
        celery.pool.fatal = "it is too large"

    celery.while_up = while_up
    with pytest.raises(NoisemillError, match=r"^it is too large$"):
        main.run(config(settings))
    assert ledger.workers() == []


def test_an_error_of_celerys_stops_its_threads_and_takes_it_off_the_list(
    celery: CeleryWorker, settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []
    for kind in (Reconciler, WebhookCaller):

        def stop(self: Any, kind: Any = kind, really_stop: Any = kind.stop) -> None:
            really_stop(self)
            stopped.append(kind.__name__)

        monkeypatch.setattr(kind, "stop", stop)

    def while_up() -> None:
        _announce(ledger)
        raise OSError("no more processes")

    celery.while_up = while_up
    with pytest.raises(OSError, match="no more processes"):
        main.run(config(settings))
    assert stopped == ["Reconciler", "WebhookCaller"]
    assert ledger.workers() == []


def test_redis_away_at_the_end_changes_no_exit_code(
    celery: CeleryWorker, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def withdraw(*_: Any) -> None:
        raise LedgerError("Redis is away")

    monkeypatch.setattr(Ledger, "withdraw", withdraw)
    assert main.run(config(settings)) == 0
    assert "Redis is away" in caplog.text


def test_without_redis_it_does_not_start(celery: CeleryWorker, child: Child, tmp_path: Path) -> None:
    away = WorkerConfig(generator="article-28", redis_url=f"unix://{tmp_path}/none.sock")
    with pytest.raises(LedgerError, match=r"none\.sock"):
        main.run(away)
    assert celery.options == {}
    assert child.ended


def test_the_first_signal_ends_the_slice_and_the_second_everything(
    celery: CeleryWorker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ExitedAtOnce(BaseException):
        pass

    def exit_at_once(code: int) -> None:
        assert code == 1
        raise ExitedAtOnce

    monkeypatch.setattr("workers.worker.parent.os._exit", exit_at_once)
    folders: list[Path] = []

    def while_up() -> None:
        folders.append(Path(os.environ[RUN_FOLDER_VARIABLE]))
        signals.worker_shutting_down.send(sender=celery)
        assert celery.told == ["end the slice"]
        assert folders[0].exists()
        signals.worker_shutting_down.send(sender=celery)

    celery.while_up = while_up
    with pytest.raises(ExitedAtOnce):
        main.run(config(settings))
    assert celery.told == ["end the slice", "terminate"]
    assert not folders[0].exists()


@pytest.mark.parametrize("ignored", [False, True], ids=["a terminal", "nohup"])
def test_a_hangup_stops_it_unless_it_was_ignored(celery: CeleryWorker, settings: Settings, ignored: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    handlers: list[Any] = []
    celery.while_up = lambda: handlers.append(signal.getsignal(signal.SIGHUP))
    main.run(config(settings))
    assert handlers == [signal.SIG_IGN if ignored else signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(("embedded", "signals_sent"), [(False, []), (True, [signal.SIGKILL])])
def test_only_a_private_worker_dies_with_its_client(
    celery: CeleryWorker,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    embedded: bool,
    signals_sent: list[signal.Signals],
) -> None:
    asked: list[signal.Signals] = []
    monkeypatch.setattr(main, "die_with_parent", asked.append)
    main.run(config(settings, embedded=embedded))
    assert asked == signals_sent


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_error_is_one_line_and_an_exit_code(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    log_format: str,
) -> None:
    def run(_: WorkerConfig) -> int:
        raise NoisemillError("it is too large")

    monkeypatch.setattr(main, "run", run)
    monkeypatch.setattr(main, "config_from_environment", lambda: config(settings, log_format=log_format))
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert [text for text in ("text", "json") if "it is too large" in {"text": printed, "json": caplog.text}[text]] == [
        log_format
    ]


def _announce(ledger: Ledger) -> None:
    """As its child does once it is up."""
    ledger.announce(replace(worker_info(), id=os.environ[WORKER_ID_VARIABLE]))
    assert [worker.id for worker in ledger.workers()] == [os.environ[WORKER_ID_VARIABLE]]
