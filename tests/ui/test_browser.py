"""The page in a real Chromium: a job watched to its end, one cancelled by a click, 1e6 samples leafed through.

Without a Chromium (Debian's package `chromium`) these tests are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.end_to_end.fleet import TINY, Fleet, environment
from tests.making import StandIn, make_dataset, make_spec
from tests.servers import Valkey

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

WAIT_MS = 300_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Containers run as root, and have a small /dev/shm.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"], timeout=WAIT_MS
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1e6 samples of 4 classes."""
    spec = make_spec(count=10**6, shard_size=2**16, dtype="uint8", labels="random")
    return make_dataset(tmp_path_factory.mktemp("million") / "million", spec, engine=StandIn(batch=2**14))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(folder, environment(valkey.url, "ui", tmp_path_factory.mktemp("cache")))
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def address(fleet: Fleet, million: Path) -> Iterator[str]:
    """Of a page that may cancel."""
    command = [sys.executable, "-m", "pipeline.cli", "ui", str(million), "--port", "0", "--allow-control"]
    with subprocess.Popen(
        command, env=fleet.environment, cwd=fleet.folder, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()
        assert process.wait(600) == 0


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that asks nothing from elsewhere, and logs no error."""
    # Without animations, which a browser without a GPU draws on the CPU.
    context = browser.new_context(viewport={"width": 1100, "height": 800}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []
    assert {url.split("/")[2] for url in asked} == {page.url.split("/")[2]}
    context.close()


def test_a_million_samples_are_leafed_through(page: Page, address: str):
    page.goto(f"{address}#/datasets")
    page.get_by_role("link", name="million").click()
    shown = page.locator(".pages")
    cells = shown.locator("button.cell")
    expect(cells).to_have_count(100)
    expect(shown).to_have_attribute("data-page", "0/")
    page.keyboard.press("ArrowRight")
    expect(shown).to_have_attribute("data-page", "1/")
    expect(cells.first).to_have_attribute("data-index", "100")
    page.keyboard.press("End")
    expect(cells.last).to_have_attribute("data-index", "999999")
    page.locator(".chip", has_text="star").click()
    expect(shown).to_have_attribute("data-page", "0/2")
    field = page.get_by_role("textbox", name="Page, now 1")
    field.fill("2000")
    field.press("Enter")
    expect(shown).to_have_attribute("data-page", "1999/2")
    expect(cells).to_have_count(100)
    index = cells.nth(5).get_attribute("data-index") or ""
    cells.nth(5).click()
    dialog = page.get_by_role("dialog", name="Sample")
    expect(dialog).to_contain_text("2, star")
    expect(dialog).to_contain_text(f"{int(index):,}")
    expect(dialog.locator(".near .cell")).to_have_count(8)
    page.keyboard.press("ArrowRight")
    expect(dialog).not_to_contain_text(f"Sample {int(index):,}")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(cells.nth(5)).to_be_focused()
    expect(shown).to_have_attribute("data-page", "1999/2")


def test_a_phone_needs_no_scrolling_sideways(page: Page, address: str):
    page.set_viewport_size({"width": 360, "height": 740})
    for view in ("", "workers", "schedules", "datasets", "playground"):
        page.goto(f"{address}#/{view}")
        expect(page.locator("#main")).not_to_be_empty()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_light_and_dark(page: Page, address: str):
    page.goto(address)
    colors = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colors.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colors[0] != colors[1]


def test_a_job_is_watched_and_another_cancelled(page: Page, address: str, fleet: Fleet):
    page.goto(address)
    expect(page.locator("#pulse")).to_have_text("live")
    expect(page.locator("#main")).to_contain_text("No jobs yet")
    watched = fleet.submit(TINY, "out", "--count", "20k", "--shard-size", "500")
    # The page shows it without being loaded again.
    row = page.locator(f"[data-key={watched}]")
    expect(row).to_contain_text("no worker")
    row.get_by_role("link").click()
    sheet = page.locator("[data-key=sheet]")
    expect(sheet.locator(".cell-open")).to_have_count(40)  # Ten of each class.
    fleet.start_worker(TINY, ready=False)
    expect(sheet.locator("button.cell").first).to_be_visible()
    expect(page.locator(".card-head .pill").first).to_have_text("done")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    expect(sheet.locator("button.cell")).to_have_count(40)
    expect(page.locator("[data-key=stages]")).to_contain_text("predict")
    cancelled = fleet.submit(TINY, "more", "--count", "500M", "--format", "null")
    page.goto(f"{address}#/jobs/{cancelled}")
    button = page.get_by_role("button", name="Cancel job")
    button.click()
    page.get_by_role("button", name="Really cancel?").click()
    expect(page.locator(".card-head .pill").first).to_have_text("cancelled")
    assert fleet.json("status", cancelled)["state"] == "cancelled"
