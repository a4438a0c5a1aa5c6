"""Who may use the page: hosts, token, origin, headers."""

from __future__ import annotations

import pytest

from pipeline.ui.guard import is_loopback
from tests.ui.conftest import OWN, Open

TOKEN = "a-token-of-many-characters"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "::1", "[::1]", "127.0.0.2"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org", ""])
def test_other_hosts(host):
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:1", "[::1]:8765", "localhost"])
def test_a_local_page_is_served_under_local_names(page: Open, host):
    assert page().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8765", "127.0.0.1.evil.example", "", "evil.example/127.0.0.1", "[::1"])
def test_dns_rebinding(page: Open, host):
    for path in ("/", "/api/state", "/static/main.js"):
        response = page().get(path, headers={"host": host})
        assert response.status_code == 421
        assert "this machine only" in response.json()["error"]


def test_every_response_has_the_headers(page: Open):
    client = page()
    for path in ("/", "/static/ui.css", "/api/state", "/nothing", "/api/datasets/x"):
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {policy[f"{what}-src"] for what in ("script", "style", "img", "connect")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    assert client.get("/api/state").headers["cache-control"] == "no-store"
    assert "max-age" not in client.get("/api/datasets/x/picture?index=1").headers["cache-control"]


def test_the_page_asks_for_nothing_from_elsewhere(page: Open):
    client = page()
    names = ("main.js", "dom.js", "fleet.js", "datasets.js", "playground.js", "ui.css")
    texts = [client.get("/").text, *(client.get(f"/static/{name}").text for name in names)]
    for text in texts:
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in text
        assert "<script>" not in text
        assert " style=" not in text


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/app.py"])
def test_other_files_are_not_served(page: Open, path):
    assert page().get(path).status_code == 404


def test_without_the_token_nothing_is_told(page: Open):
    client = page(token=TOKEN, local_only=False)
    for path in ("/", "/static/main.js", "/api/state", "/api/datasets", f"/api/state?token={TOKEN}x", "/?token="):
        assert client.get(path).status_code == 401
    for header in (f"Bearer {TOKEN}x", "Bearer ", "Bearer é", f"Basic {TOKEN}"):
        assert client.get("/api/state", headers=[(b"authorization", header.encode())]).status_code == 401
    assert client.post("/api/jobs/x/cancel", headers=OWN).status_code == 401
    for cookie in (TOKEN, "", "\x00", '"'):
        assert client.get("/api/state", headers={"cookie": f"noisemill-ui-8765={cookie}"}).status_code == 401


def test_the_token_is_changed_for_a_cookie(page: Open):
    client = page(token=TOKEN, local_only=False)
    first = client.get(f"/?token={TOKEN}")
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200
    assert client.get("http://127.0.0.2:8765/api/state").status_code == 401  # The cookie is another host's.
    client.cookies.clear()
    assert client.get("/api/state").status_code == 401
    assert client.get("/api/state", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-noisemill": None},
    ],
)
def test_other_sites_change_nothing(page: Open, changes):
    headers = {name: value for name, value in {**OWN, **changes}.items() if value is not None}
    client = page(allow_control=True)
    assert client.post("/api/jobs/x-1/cancel", headers=headers).status_code == 403
    assert client.post("/api/generators/fashion/draw", headers=headers, json={}).status_code == 403
    assert client.post("/api/jobs/x-1/cancel", headers=OWN).status_code == 404


def test_other_methods_are_refused(page: Open):
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert page().request(method, "/api/state").status_code == 405
