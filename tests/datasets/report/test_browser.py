"""The report in a real browser: it draws, its console is silent, it asks nobody for anything.

Debian's `chromium`; without one, these tests skip. To look at it:
`python -m tests.datasets.report.test_browser DEST OUT.png`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.report import gather_findings, page
from tests.making import make_dataset, make_spec

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browse(place: Path, picture: Path, *, width: int = 1200, height: int = 2400, dark: bool = False) -> list[str]:
    """Draws a page into a picture; answers what its console said."""
    browser = next(found for name in _BROWSERS if (found := shutil.which(name)))
    # Root has no sandbox, and containers have little shared memory; neither matters to what is drawn.
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--proxy-server=127.0.0.1:9",
    ]
    flags += [f"--user-data-dir={picture.parent}/profile", f"--window-size={width},{height}", f"--screenshot={picture}"]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--enable-logging=stderr"]
    done = subprocess.run(
        [browser, *flags, place.as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


pytestmark = pytest.mark.skipif(not any(map(shutil.which, _BROWSERS)), reason="no chromium: apt install chromium")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small dataset of many shards."""
    folder = tmp_path_factory.mktemp("browser")
    make_dataset(folder / "d", make_spec(count=400, shard_size=10))
    (folder / "report.html").write_text(page(gather_findings(Dataset(folder / "d"))))
    return folder / "report.html"


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (400, False)])
def test_it_draws_in_silence(drawn: Path, tmp_path: Path, width: int, dark: bool) -> None:
    assert browse(drawn, tmp_path / "page.png", width=width, dark=dark) == []
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert pixels.shape == (2400, width)
    paper = np.median(pixels)
    assert paper < 60 if dark else paper > 200
    # Something is drawn all the way down, and nothing runs over the right edge.
    assert (pixels[:2000] != paper).reshape(20, -1).any(axis=1).all()
    assert (np.abs(pixels[:, -8:].astype(int) - paper) < 12).all()


def test_a_request_would_be_told(drawn: Path, tmp_path: Path) -> None:
    """The other test could not fail if the browser said nothing of pictures and scripts from elsewhere."""
    text = drawn.read_text()
    added = '<img src="http://127.0.0.1:9/x.png"><script>1</script></main>'
    (tmp_path / "bad.html").write_text(text.replace("</main>", added))
    told = browse(tmp_path / "bad.html", tmp_path / "page.png")
    assert len(told) >= 2
    assert any("Content Security Policy" in line for line in told)


if __name__ == "__main__":
    target = Path(sys.argv[2]).absolute()
    source = target.with_suffix(".html")
    source.write_text(page(gather_findings(Dataset(sys.argv[1]))))
    print(browse(source, target, height=4000))
