"""The guard: who has no token, comes from elsewhere, asks under a foreign name or sends too much is refused."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from web.conftest import BASE, TOKEN

PAGES = ["/", "/predictions", "/why", "/api/predictions", "/api/why?row=0", "/api/openapi.json", "/docs", "/nowhere"]


@pytest.mark.parametrize("path", PAGES)
def test_without_the_token_nothing_is_shown(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 401 and "terminal" in answer.json()["error"]
    if not path.startswith("/api"):
        page = stranger.get(path, headers={"Accept": "text/html"}).text
        assert page.count("<input name=token") == 1 and "<nav" not in page


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "\u00fc", "%00"])
def test_a_wrong_token_opens_nothing(stranger: TestClient, token: str) -> None:
    assert stranger.get("/predictions", params={"token": token}).status_code == 401
    for name, value in ((b"Authorization", f"Bearer {token}"), (b"Cookie", f"headwater-8765={token}")):
        assert stranger.get("/predictions", headers=[(name, value.encode())]).status_code == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(stranger: TestClient) -> None:
    answer = stranger.get(f"/predictions?which=wrong&token={TOKEN}&text=a%20b")
    assert answer.status_code == 303 and answer.headers["location"] == "/predictions?which=wrong&text=a+b"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Path=/" in cookie
    assert TOKEN not in answer.headers["location"]
    assert stranger.get("/predictions").status_code == 200  # the client keeps the cookie


def test_the_redirection_never_leads_to_another_host(stranger: TestClient) -> None:
    for path in (f"//evil.example/?token={TOKEN}", f"/\\evil.example/?token={TOKEN}"):
        answer = stranger.get(BASE + path)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/") and answer.headers["location"][1] not in "/\\"


def test_servers_at_two_ports_keep_their_own_cookies(stranger: TestClient) -> None:
    other = stranger.get(f"http://127.0.0.1:9000/predictions?token={TOKEN}")
    assert other.headers["set-cookie"].startswith("headwater-9000=")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "localhost.evil.example", "", "[", "a b"])
def test_a_foreign_name_is_refused_even_with_the_token(client: TestClient, host: str) -> None:
    answer = client.get("/predictions", headers={"Host": host})
    assert answer.status_code == 400 and "name" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost:8765", "LOCALHOST", "127.0.0.1", "[::1]:8765", "192.168.0.7:8765"])
def test_loopback_and_plain_addresses_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/predictions", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {},
    ],
)
def test_a_change_asked_for_from_elsewhere_is_refused(
    stranger: TestClient, method: str, headers: dict[str, str]
) -> None:
    stranger.cookies.set("headwater-8765", TOKEN)
    answer = stranger.request(method, "/predictions", headers=headers)
    assert answer.status_code == 403 and "own pages" in answer.json()["error"]


@pytest.mark.parametrize("headers", [{"Origin": BASE}, {"Sec-Fetch-Site": "same-origin"}])
def test_a_change_asked_for_by_our_own_pages_gets_through_to_the_routes(
    stranger: TestClient, headers: dict[str, str]
) -> None:
    stranger.cookies.set("headwater-8765", TOKEN)
    assert stranger.post("/predictions", headers=headers).status_code == 405


def test_a_body_over_the_limit_is_refused_stated_or_not(client: TestClient) -> None:
    assert client.post("/predictions", content=b"x" * ((1 << 20) + 1)).status_code == 413
    assert client.post("/predictions", headers={"Content-Length": "9" * 30}).status_code == 413
    assert client.post("/predictions", content=b"x" * 1000).status_code == 405


def test_no_file_but_ours_can_be_asked_for(client: TestClient) -> None:
    for path in (
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/....//app.py",
        "/static/%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/base.html.j2",
        "/static/base.css%00.js",
        "/static/..\\app.py",
    ):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "root:" not in answer.text and "import" not in answer.text


def test_our_own_styles_need_no_token_and_may_be_kept(stranger: TestClient) -> None:
    answer = stranger.get("/static/base.css")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert stranger.get("/health").json() == {"alive": True}


@pytest.mark.parametrize(
    "path",
    [
        "/predictions?at=0",
        "/predictions?at=x",
        "/predictions?which=some",
        "/predictions?sort=label",
        "/predictions?unknown=1",
        "/api/predictions?at=99999999999999999999",
        "/api/why",
        "/api/why?row=-1",
        "/api/why?row=1.5",
        "/api/why?row=100000",
        "/api/why?row=0&k=0",
        "/api/why?row=0&k=1000000",
        "/api/why?text=bread&label=nobody",
        "/why?row=abc",
        "/why?row=99999",
    ],
)
def test_what_cannot_be_meant_is_4xx_with_a_sentence_and_no_traceback(client: TestClient, path: str) -> None:
    for accept in ("application/json", "text/html"):
        answer = client.get(path, headers={"Accept": accept})
        assert answer.status_code == 422, answer.text
        assert "Traceback" not in answer.text
    if path.startswith("/api"):
        assert len(answer.json()["error"]) > 10


@pytest.fixture
def seen(client: TestClient) -> Iterator[list[tuple[str, dict[str, str]]]]:
    paths = ("/predictions", "/why", "/why?row=0", "/api/predictions", "/nowhere", "/static/base.css")
    yield [(path, dict(client.get(path, headers={"Accept": "text/html"}).headers)) for path in paths]


def test_every_answer_forbids_foreign_scripts_frames_and_guessing(seen: list[tuple[str, dict[str, str]]]) -> None:
    for path, headers in seen:
        policy = {part.split()[0]: part.split()[1:] for part in headers["content-security-policy"].split(";")}
        assert policy["default-src"] == ["'none'"], path
        assert policy["script-src"] == ["'self'"] and policy["frame-ancestors"] == ["'none'"], path
        assert policy["base-uri"] == ["'none'"], path
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert headers["cache-control"] == ("no-store" if "static" not in path else headers["cache-control"])
