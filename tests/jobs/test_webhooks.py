"""Webhooks: taken once, signed, tried again; a real Valkey and a real HTTP server. And `--on-done`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from pipeline.common.errors import UsageError
from pipeline.common.settings import Settings
from pipeline.jobs.ledger import Ledger, NewJob, QueueOptions
from pipeline.jobs.webhooks import Call, Webhooks, check_webhook, run_on_done, send, shown_webhook, webhook_secret
from tests.making import make_spec
from tests.schedules.receiver import receiver
from workers.worker.webhook_caller import WebhookCaller


@pytest.fixture(autouse=True)
def _no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOISEMILL_WEBHOOK_SECRET", "NOISEMILL_WEBHOOK_SECRET_FILE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def webhooks(settings: Settings) -> Webhooks:
    return Webhooks(settings)


@pytest.fixture
def now() -> list[float]:
    """The time that callers go by, in seconds; for tests to move."""
    return [0.0]


@pytest.fixture
def caller(webhooks: Webhooks, now: list[float]) -> WebhookCaller:
    return WebhookCaller(webhooks, 0.1, clock=lambda: now[0])


def end_job(ledger: Ledger, url: str, name: str = "tiny-1") -> None:
    """A job with a webhook, cancelled at once."""
    spec = make_spec(count=40, shard_size=10)
    ledger.enter(
        NewJob(job_id=name, spec=spec, destination="/data/x", queue=QueueOptions(webhook=url, schedule="nightly"))
    )
    ledger.cancel(name)


def a_call(url: str, tries: int = 1) -> Call:
    return Call(id="tiny-1@1764000000000", url=url, body=b'{"a": 1}', tries=tries, ended_at=1764000000.0)


def make_due(settings: Settings) -> None:
    """Lets the time pass until all calls are due again."""
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as raw:
        key = f"{settings.key_prefix}:webhooks:due"
        for call in raw.zrange(key, 0, -1):
            raw.zadd(key, {call: 0})


def test_what_is_sent(ledger: Ledger, caller: WebhookCaller) -> None:
    with receiver() as hooks:
        end_job(ledger, f"{hooks.url}/done?x=1")
        assert caller.call_due() == 1
        assert caller.call_due() == 0
    [request] = hooks.received
    assert (request.path, request.headers["content-type"]) == ("/done?x=1", "application/json")
    document = json.loads(request.body)
    job = ledger.job("tiny-1")
    assert (document["type"], document["data"]["state"], document["data"]["job"]) == (
        "job.cancelled", "cancelled", "tiny-1",
    )  # fmt: skip
    data = document["data"]
    assert (data["destination"], data["schedule"], data["count"], data["shards"]) == ("/data/x", "nightly", 40, 4)
    assert (data["samples_done"], data["error"], data["running_at"]) == (0, None, None)
    assert (data["queued_at"], data["ended_at"]) == (job.queued_at, job.ended_at)
    assert "webhook" not in data
    assert "webhook-signature" not in request.headers


def test_calls_are_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as hooks:
        assert send(a_call(hooks.url), b"geheim") is None
    [request] = hooks.received
    signed = ".".join([request.headers["webhook-id"], request.headers["webhook-timestamp"], request.body.decode()])
    expected = base64.b64encode(hmac.new(b"geheim", signed.encode(), hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60


def test_a_call_that_fails_is_made_again_under_the_same_id(
    ledger: Ledger, caller: WebhookCaller, now: list[float], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with receiver(500, 404, 302) as hooks, caplog.at_level(logging.INFO, "noisemill"):
        end_job(ledger, hooks.url.replace("http://", "http://user:geheim@") + "/token-123")
        for tries in range(1, 4):
            assert caller.call_due() == 1
            assert caller.call_due() == 0, "a call that failed has to wait"
            assert len(hooks.received) == tries
            make_due(settings)
            now[0] += 60
        assert caller.call_due() == 1
        make_due(settings)
        assert caller.call_due() == 0
    assert len({request.headers["webhook-id"] for request in hooks.received}) == 1
    assert len({request.body for request in hooks.received}) == 1
    assert {request.path for request in hooks.received} == {"/token-123"}, "a redirect is not followed"
    assert {request.headers["authorization"] for request in hooks.received} == {
        "Basic " + base64.b64encode(b"user:geheim").decode()
    }
    for pause, status in (("1 s", 500), ("2 s", 404), ("4 s", 302)):
        assert f"again in {pause}: it responded with {status}" in caplog.text
    assert "geheim" not in caplog.text
    assert "token-123" not in caplog.text


def test_pauses_grow_and_end(webhooks: Webhooks, ledger: Ledger, settings: Settings) -> None:
    end_job(ledger, "http://127.0.0.1:1/")
    call = webhooks.take()
    assert call is not None
    pauses = [webhooks.put_off(Call(**{**vars(call), "tries": tries})) for tries in (1, 2, 5, 11, 500)]
    assert pauses == [1, 2, 16, 600, 600]
    assert webhooks.put_off(Call(**{**vars(call), "ended_at": time.time() - 25 * 3600})) is None
    make_due(settings)
    assert webhooks.take() is None


def test_a_call_is_one_workers_until_it_has_died(webhooks: Webhooks, ledger: Ledger, settings: Settings) -> None:
    end_job(ledger, "http://127.0.0.1:1/")
    first = webhooks.take()
    assert first is not None
    assert webhooks.take() is None
    make_due(settings)
    again = webhooks.take()
    assert again is not None
    assert (again.id, again.tries) == (first.id, 2)


def test_many_workers_make_each_call_once(ledger: Ledger, settings: Settings) -> None:
    with receiver() as hooks:
        for number in range(20):
            end_job(ledger, hooks.url, f"tiny-{number}")
        callers = [WebhookCaller(Webhooks(settings), 0.05) for _ in range(4)]
        for caller in callers:
            caller.start()
        deadline = time.monotonic() + 30
        while len(hooks.received) < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        for caller in callers:
            caller.stop()
    assert len({request.headers["webhook-id"] for request in hooks.received}) == len(hooks.received) == 20


@pytest.mark.parametrize("url", ["http://127.0.0.1:{free}/", "https://127.0.0.1:{plain}/", "http://host.invalid/"])
def test_receivers_that_are_not_there(url: str) -> None:
    with receiver() as hooks, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        free, plain = closed.getsockname()[1], hooks.url.rpartition(":")[2]
        reason = send(a_call(url.format(free=free, plain=plain)), None)
    assert reason
    assert "\n" not in reason
    assert hooks.received == []


def test_a_receiver_that_talks_no_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.jobs.webhooks._DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for text in (b"hello\r\n\r\n", b""):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    if text:
                        connection.sendall(text)
                    else:
                        time.sleep(1)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert [bool(send(a_call(url), None)) for _ in range(2)] == [True, True]
        thread.join()


@contextmanager
def odd_receiver() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server: /drip sends its header a byte at a time for ever, /flood sends megabytes, all else is fine.

    Gives its URL and the paths that were asked for.
    """
    paths: list[str] = []
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            path = connection.recv(65536).decode().split(" ")[1]
            paths.append(path)
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while path == "/drip" and not over.wait(0.05):
                connection.sendall(b"a")
            while path == "/flood" and not over.is_set():
                connection.sendall(b"a: " + b"a" * 60000 + b"\r\n")
            connection.sendall(b"Content-Length: 1000000000000\r\n\r\n" + b"a" * 1000)

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", paths
        over.set()


def test_a_receiver_that_drips_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.jobs.webhooks._DEADLINE_S", 0.5)
    with odd_receiver() as (url, _):
        assert send(a_call(f"{url}/drip"), None) == "no response within 0.5 s"
        assert send(a_call(f"{url}/fine"), None) is None


def test_headers_are_bounded_and_the_body_is_not_read() -> None:
    with odd_receiver() as (url, _):
        assert send(a_call(f"{url}/flood"), None) == "got more than 100 headers"
        assert send(a_call(f"{url}/large"), None) is None


def test_a_slow_receiver_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger, webhooks: Webhooks, settings: Settings
) -> None:
    monkeypatch.setattr("pipeline.jobs.webhooks._DEADLINE_S", 60.0)
    with odd_receiver() as (slow, _), receiver() as hooks:
        end_job(ledger, f"{slow}/drip", "tiny-1")
        end_job(ledger, f"{slow}/fine", "tiny-2")
        end_job(ledger, hooks.url, "tiny-3")
        caller = WebhookCaller(webhooks, 0.05)
        caller.start()
        deadline = time.monotonic() + 30
        while not hooks.received and time.monotonic() < deadline:
            time.sleep(0.02)
        caller.stop()
    assert [json.loads(request.body)["data"]["job"] for request in hooks.received] == ["tiny-3"]


def test_calls_to_a_receiver_that_failed_wait_together(
    monkeypatch: pytest.MonkeyPatch,
    ledger: Ledger,
    webhooks: Webhooks,
    caller: WebhookCaller,
    now: list[float],
    settings: Settings,
) -> None:
    monkeypatch.setattr("pipeline.jobs.webhooks._DEADLINE_S", 0.3)
    with odd_receiver() as (url, paths):
        end_job(ledger, f"{url}/drip", "tiny-1")
        end_job(ledger, f"{url}/fine", "tiny-2")
        assert caller.call_due() == 2
        assert paths == ["/drip"], "the second call of the receiver is put off with the first"
        make_due(settings)
        assert caller.call_due() == 0
        now[0] = 1.0
        make_due(settings)
        assert caller.call_due() == 2
        assert paths == ["/drip", "/fine", "/drip"], "what was tried least comes first; what was put off is no try"


@pytest.mark.parametrize("url", ["http://h/x", "https://user:pw@h:8443/x?y=1", "http://127.0.0.1", "https://[::1]:1/"])
def test_urls(url: str) -> None:
    assert check_webhook(url) == url


@pytest.mark.parametrize(
    "url",
    ["", "h/x", "ftp://h/x", "file:///etc/passwd", "gopher://h", "http://", "http:///x", "http://h:0/", "http://h:99999/",
     "http://h:x/", "http://h/a b", "http://h/\n", "http://h/\u00fc", "http://[::1/", "javascript:alert(1)",
     "http://h\\@evil/", "http://h/" + "x" * 2000],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"^webhook .* cannot be called: give http://HOST/PATH"):
        check_webhook(url)


def test_an_error_shows_no_credentials() -> None:
    with pytest.raises(UsageError) as caught:
        check_webhook("ftp://user:geheim@host/token-123")
    assert "geheim" not in str(caught.value)
    assert "token-123" not in str(caught.value)
    assert shown_webhook("https://user:geheim@host:8443/token-123?key=4") == "https://host:8443/..."


def test_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert webhook_secret() is None
    monkeypatch.setenv("NOISEMILL_WEBHOOK_SECRET", "geheim")
    assert webhook_secret() == b"geheim"
    monkeypatch.setenv("NOISEMILL_WEBHOOK_SECRET", "whsec_" + base64.b64encode(b"\x00\x01").decode())
    assert webhook_secret() == b"\x00\x01"
    monkeypatch.setenv("NOISEMILL_WEBHOOK_SECRET", "whsec_*")
    with pytest.raises(UsageError, match="is not base64"):
        webhook_secret()
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("NOISEMILL_WEBHOOK_SECRET_FILE", str(tmp_path / "secret"))
    assert webhook_secret() == b"from a file"
    monkeypatch.setenv("NOISEMILL_WEBHOOK_SECRET_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="nowhere cannot be read"):
        webhook_secret()


def test_on_done_knows_what_happened(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = tmp_path / "told"
    command = (
        f'echo "$NOISEMILL_STATE $NOISEMILL_DESTINATION $NOISEMILL_COUNT $NOISEMILL_ERROR" > {told}; echo seen; exit 3'
    )
    assert run_on_done(command, state="failed", destination="/d x", count=7, error="why; not") == 3
    assert told.read_text() == "failed /d x 7 why; not\n"
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "seen\n")


def test_a_job_that_is_queued_keeps_its_webhook(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    from pipeline.datasets.destination import prepare
    from pipeline.jobs.queueing import enqueue

    spec = make_spec(count=40, shard_size=10)
    prepare(spec, tmp_path / "out", [])
    first = enqueue(spec, str(tmp_path / "out"), ledger, QueueOptions(webhook="http://one/"))
    again = enqueue(spec, str(tmp_path / "out"), ledger, QueueOptions(webhook="http://two/"))
    assert first.warning != again.warning == "it was queued before: its webhook stays the same"
    ledger.cancel(first.id)
    call = Webhooks(settings).take()
    assert call is not None
    assert call.url == "http://one/"
