"""Where the token goes, and where it does not."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
import trustme
from singer_sdk.exceptions import ConfigValidationError, FatalAPIError

from tap_homele.tap import TapHomele
from tests.sandbox import Sandbox, faults
from tests.singer import clean_environment, config_for, sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Serve

LIST = "GET /api/v2/crm/customers"
UNVERIFIED = f"{LIST} was not sent: the certificate of the server cannot be verified"
NEEDS_A_CA = (
    "certificate. If a proxy of your company has a certificate of its own, add its CA "
    "to the file that REQUESTS_CA_BUNDLE names."
)
HOST = "crm.acme.example"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return str(file)


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Sandbox]:
    """Serve a sandbox with https, for this machine and for the host of a company."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", HOST).configure_cert(context)
    with Sandbox.with_customers(5).serve(ssl_context=context) as sandbox:
        yield sandbox


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy for https, which leads every host to one port of this machine."""

    def __init__(self, port: int, status: str = "200 OK") -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.port = port
        self.status = status
        self.asked: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


class _Tunnel(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.server.asked.append(self.request.recv(65536))
        self.request.sendall(f"HTTP/1.1 {self.server.status}\r\n\r\n".encode())
        if not self.server.status.startswith("200"):
            return
        with socket.create_connection(("127.0.0.1", self.server.port)) as onward:
            back = threading.Thread(target=_pump, args=(onward, self.request))
            back.start()
            _pump(self.request, onward)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


# The right host, and no other.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_gets_no_token(serve: Serve, status: int) -> None:
    sandbox, other = serve(5), serve(5)
    location = f"{other.api_url}/customers"
    sandbox.fail(faults.html(status, Location=location), times=math.inf)

    with pytest.raises(FatalAPIError, match="redirect"):
        sync(sandbox)

    assert len(sandbox.requests) == 1
    assert other.requests == []


def test_a_certificate_that_cannot_be_verified_is_refused(
    secure: Sandbox, waited: list[float]
) -> None:
    with pytest.raises(FatalAPIError) as error:
        sync(secure, api_url=f"https://127.0.0.1:{secure.port}", filter_query="Sara")

    # The SDK's structured log tells of it, also after "from None".
    context = error.value.__context__
    while context:
        assert str(context) == str(error.value)
        context = context.__context__
    assert str(error.value) == f"{UNVERIFIED}: unable to get local issuer {NEEDS_A_CA}"
    assert secure.requests == []
    assert waited == []


@pytest.mark.parametrize(
    ("host", "days", "ends"),
    [
        (
            "127.0.0.1",
            (-9, -2),
            (
                "certificate has expired. Check the clock of this machine; else the "
                "server needs a new one."
            ),
        ),
        (
            "127.0.0.1",
            (2, 9),
            "certificate is not yet valid. Check the clock of this machine.",
        ),
        (
            HOST,
            (-9, 9),
            (
                "IP address mismatch, certificate is not valid for '127.0.0.1'. Check "
                "the setting api_url."
            ),
        ),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(  # noqa: PLR0913, PLR0917
    authority: trustme.CA,
    bundle: str,
    monkeypatch: pytest.MonkeyPatch,
    waited: list[float],
    host: str,
    days: tuple[int, int],
    ends: str,
) -> None:
    """Although its CA is known: REQUESTS_CA_BUNDLE would be no help."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    begins, expires = (datetime.now(timezone.utc) + timedelta(days=n) for n in days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, not_before=begins, not_after=expires).configure_cert(
        context
    )
    with (
        Sandbox.with_customers(5).serve(ssl_context=context) as sandbox,
        pytest.raises(FatalAPIError) as error,
    ):
        sync(sandbox, api_url=f"https://127.0.0.1:{sandbox.port}")

    assert str(error.value) == f"{UNVERIFIED}: {ends}"
    assert waited == []


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_ca_bundle_of_the_environment_is_used(
    secure: Sandbox, bundle: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, bundle)

    output = sync(secure, api_url=f"https://127.0.0.1:{secure.port}")

    assert len(output.ids) == 5


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        (
            "REQUESTS_CA_BUNDLE",
            "/no/such.pem",
            (
                "Could not find a suitable TLS CA certificate bundle, invalid path: "
                "/no/such.pem"
            ),
        ),
        # It needs a package that is not installed.
        ("ALL_PROXY", "socks5h://me:hush@127.0.0.1:9", "InvalidSchema"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(  # noqa: PLR0913, PLR0917
    secure: Sandbox,
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    reason: str,
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(FatalAPIError) as error:
        sync(secure, api_url=f"https://127.0.0.1:{secure.port}")

    assert str(error.value) == (
        f"{LIST} could not be sent: {reason}. Check the environment variables "
        "HTTPS_PROXY, ALL_PROXY (a SOCKS proxy needs the package PySocks) and "
        "REQUESTS_CA_BUNDLE."
    )
    assert waited == []


@pytest.mark.parametrize(
    "setting", ["verify", "verify_ssl", "ssl_verify", "insecure", "disable_ssl"]
)
def test_no_setting_switches_the_verification_off(setting: str) -> None:
    with pytest.raises(ConfigValidationError) as error:
        TapHomele(config={"auth_token": "1|abc", setting: False})

    assert f"'{setting}': there is no such setting." in error.value.errors[0]


def test_a_proxy_of_the_environment_is_used_and_sees_no_token(
    secure: Sandbox, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)

    with Proxy(secure.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        output = sync(secure, api_url=f"https://{HOST}")

    assert len(output.ids) == 5
    assert secure.requests[0].headers["Authorization"] == "Bearer 1|sandbox"
    assert proxy.asked
    for asked in proxy.asked:
        assert asked.startswith(f"CONNECT {HOST}:443 ".encode())
        assert b"sandbox" not in asked


def test_no_proxy_of_the_environment_is_minded(
    secure: Sandbox, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    with Proxy(secure.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        output = sync(secure, api_url=f"https://127.0.0.1:{secure.port}")

    assert len(output.ids) == 5
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("status", "requests", "begins"),
    [
        ("407 Who are you", 1, f"{LIST} was not sent: the proxy refused it (407). "),
        ("403 No", 1, f"{LIST} was not sent: the proxy refused it (403). "),
        (
            "502 Bad Gateway",
            8,
            f"{LIST} failed: the proxy did not let it through (502). Giving up",
        ),
    ],
)
def test_a_proxy_that_refuses_is_tried_again_if_that_may_help(  # noqa: PLR0913, PLR0917
    secure: Sandbox,
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    requests: int,
    begins: str,
) -> None:
    with Proxy(secure.port, status) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:hush@"))
        with pytest.raises(FatalAPIError) as error:
            sync(secure, api_url=f"https://{HOST}")

    assert str(error.value).startswith(begins)
    assert "hush" not in str(error.value)
    assert len(waited) == requests - 1
    assert len(proxy.asked) == requests


@pytest.mark.parametrize(
    "url", ["http://", "ftp://me:hush@proxy", "http://me:hush@[", "socks5://me:hush@p"]
)
def test_a_proxy_that_cannot_be_one_is_not_shown(
    secure: Sandbox, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)

    with pytest.raises(FatalAPIError) as error:
        sync(secure, api_url=f"https://{HOST}")

    assert str(error.value).startswith(f"{LIST} could not be sent: Invalid")
    assert "HTTPS_PROXY" in str(error.value)
    assert "hush" not in str(error.value)


def test_what_stays_on_this_machine_goes_through_no_proxy(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There http is allowed, and a proxy would read the token."""
    sandbox = serve(5)

    with Proxy(sandbox.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        output = sync(sandbox)

    assert len(output.ids) == 5
    assert proxy.asked == []


def test_a_netrc_does_not_take_the_place_of_the_token(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(file))
    sandbox = serve(5)

    sync(sandbox)

    assert sandbox.requests[0].headers["Authorization"] == "Bearer 1|sandbox"


# What comes out.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--about"], {}),
        (["--about", "--format=json"], {}),
        (["--discover"], {}),
        (["--help"], {}),
        (["--test"], {}),
        ([], {}),
        ([], {"auth_token": "1|marked token"}),
        ([], {"auth_token": ["1|marked"]}),
        ([], {"auth_tokken": "1|marked"}),
        ([], {"api_url": "https://me:1|marked@crm.acme.example"}),
        (["--test"], {"auth_token": {"token": "1|marked"}}),
    ],
)
def test_no_option_shows_the_token(
    serve: Serve, tmp_path: Path, options: list[str], problem: dict[str, object]
) -> None:
    config = config_for(serve(5)) | {"auth_token": "1|marked"} | problem
    (tmp_path / "config.json").write_text(json.dumps(config))

    result = subprocess.run(
        [sys.executable, "-m", "tap_homele", "--config", "config.json", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment() | {"LOGLEVEL": "DEBUG"},
    )

    assert result.stdout + result.stderr
    assert "marked" not in result.stdout + result.stderr
