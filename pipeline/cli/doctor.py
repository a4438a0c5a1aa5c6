"""Doctor: what works, what does not, and what to do about it.

Imports inside the functions keep numpy, redis and Celery out of `--help`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click

from pipeline.cli.options import examples, json_option, redis_option
from pipeline.cli.output import print_json
from pipeline.errors import LedgerError, NoisemillError
from pipeline.generators import builtin_names, find_generator
from pipeline.settings import Settings, load_settings
from pipeline.stores import open_store

#: Where what a check says begins on its line.
_INDENT = 17


@click.command("doctor", epilog=examples("noisemill doctor s3://bucket/clothes"))
@click.argument("destination", metavar="[DEST]", required=False)
@redis_option
@json_option
def doctor_command(destination: str | None, redis_url: str | None, as_json: bool) -> None:
    """Check Redis, devices, generators and, where DEST is given, storage.

    Exit code 1 where one does not work; what is unwise but works is a warning.
    """
    settings = load_settings(redis_url=redis_url)
    checks: dict[str, Callable[[], str]] = {
        "redis": lambda: _redis(settings),
        "workers": lambda: _workers(settings),
        "schedules": lambda: _schedules(settings),
        "devices": _devices,
        "generators": _generators,
    }
    if destination is not None:
        checks["storage"] = lambda: _storage(destination)
    results: list[dict[str, Any]] = []
    for name, check in checks.items():
        try:
            results.append({"check": name, "works": True, "says": check()})
        except NoisemillError as error:
            results.append({"check": name, "works": False, "says": str(error)})
        results[-1]["warnings"] = _advice(settings) if name == "redis" and results[-1]["works"] else []
        if not as_json:
            _print_check(**results[-1])
    if as_json:
        print_json(results)
    if not all(result["works"] for result in results):
        raise click.exceptions.Exit(1)


def _print_check(check: str, works: bool, says: str, warnings: list[str]) -> None:
    mark = "ok  " if works else "FAIL"
    says = "\n".join([says, *(f"WARNING: {warning}" for warning in warnings)])
    click.echo(f"{mark} {check + ':':<12}" + says.replace("\n", "\n" + " " * _INDENT))


def _redis(settings: Settings) -> str:
    from pipeline.ledger import Ledger
    from pipeline.redis_connection import redacted

    try:
        version = Ledger(settings).ping()
    except LedgerError as error:
        raise LedgerError(f"{error}\nQueued jobs and workers need it, 'noisemill generate' does not.") from error
    return f"{version} at {redacted(settings.redis_url)}"


def _schedules(settings: Settings) -> str:
    from pipeline.schedule_book import ScheduleBook

    book = ScheduleBook(settings)
    try:
        schedules, scheduler = book.schedules(), book.scheduler()
    except LedgerError as error:
        raise LedgerError("not known while Redis does not work") from error
    if not schedules:
        return "none"
    if scheduler is None:
        raise LedgerError(f"{len(schedules)}, but no scheduler is up: start one with 'noisemill scheduler'")
    return f"{len(schedules)}, carried out by {scheduler}"


def _advice(settings: Settings) -> list[str]:
    from pipeline.ledger import Ledger
    from pipeline.server_advice import advice

    return advice(settings.redis_url, Ledger(settings).server_info())


def _workers(settings: Settings) -> str:
    from pipeline.ledger import Ledger

    try:
        found = Ledger(settings).workers()
    except NoisemillError as error:
        raise LedgerError("not known while Redis does not work") from error
    return f"{len(found)} up" + "".join(f", {worker.generator} on {worker.device}" for worker in found[:5])


def _devices() -> str:
    if not shutil.which("nvidia-smi"):
        return "no NVIDIA GPU (nvidia-smi is absent): workers use the CPU"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    return listed.stdout.strip() or "nvidia-smi lists no GPU: workers use the CPU"


def _generators() -> str:
    names = builtin_names()
    for name in names:
        find_generator(name)
    return f"built in: {', '.join(names)}; python {sys.version.split()[0]}"


def _storage(destination: str) -> str:
    store = open_store(destination)
    place = store.url
    while not place.startswith("s3://") and not os.path.lexists(place):
        place = os.path.dirname(place)  # A check makes no folders.
    open_store(place).check_writable()
    return f"{store.url} can be written"
