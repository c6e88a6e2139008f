"""TLS on the public doors: what is spoken, certificates that change while clients are connected, and what operators are
told."""

from __future__ import annotations

import asyncio
import datetime
import logging
import signal
import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import server as command_line
from rt.config import Tls
from rt.config.certificate import Certificate
from rt.web import tls
from tests import processes
from tests.certificates import HOUR, write_certificate
from tests.clients import Api, SdkClient
from tests.eventsource import EventSource
from tests.raw import upgrade
from tests.servers import Server
from tests.waiting import eventually_now

DAY = datetime.timedelta(days=1)
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)


def named(paths: tuple[str, str]) -> dict[str, str]:
    """As the config has them."""
    return {"cert_file": paths[0], "key_file": paths[1]}


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Server]:
    """A server with a certificate of its own, ``a``."""
    with Server({"server": {"tls": named(write_certificate(tmp_path, "a"))}}) as running:
        yield running


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose certificate stays."""
    with Server({"server": {"tls": named(write_certificate(tmp_path_factory.mktemp("tls")))}}) as running:
        eventually_now(lambda: "certificate for localhost" in running.log())
        yield running


def trusting(server: Server) -> ssl.SSLContext:
    """A client's context for the certificate that the config names now."""
    return ssl.create_default_context(cafile=server.config["server"]["tls"]["cert_file"])


def shown(server: Server, **options: Any) -> tuple[bytes, str | None, str | None]:
    """Of a new connection: the certificate, the version and the protocol; ssl.SSLError when there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(options.pop("protocols", ["h2", "http/1.1"]))
    if "version" in options:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = options["version"]
    with socket.create_connection(("127.0.0.1", server.port), 5) as plain, context.wrap_socket(plain) as sock:
        found = sock.getpeercert(binary_form=True)
        assert found is not None
        return found, sock.version(), sock.selected_alpn_protocol()


def der(file: str) -> bytes:
    """The certificate in a file, as a client gets it."""
    return ssl.PEM_cert_to_DER_cert(Path(file).read_text())


def reload(server: Server, said: str) -> None:
    """SIGHUP, until the log says so once more."""
    before = server.log().count(said)
    processes.kill(server.pid, signal.SIGHUP)
    eventually_now(lambda: server.log().count(said) > before, 10, said)


def test_versions_and_protocol(steady: Server) -> None:
    """TLS 1.2 and 1.3, HTTP/1.1; nothing older."""
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        assert shown(steady, version=version)[1:] == (name, "http/1.1")
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shown(steady, version=version)
    assert shown(steady, protocols=["h2"])[2] is None


def test_nobody_may_renegotiate(tmp_path: Path) -> None:
    """A handshake costs us more than them; compression gives secrets away."""
    context = tls.made(Tls(**named(write_certificate(tmp_path))))
    assert context.options & ssl.OP_NO_RENEGOTIATION and context.options & ssl.OP_NO_COMPRESSION
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_new_certificate_drops_nobody(secured: Server, tmp_path: Path, channel: str) -> None:
    """Same files, other content; then other files: each new connection gets the new one, also from a worker that is
    started later, and who is connected stays so and receives."""
    old = secured.config["server"]["tls"]["cert_file"]

    async def run() -> None:
        async with SdkClient(secured, trust=trusting(secured)) as client, EventSource(
            secured, [channel], trust=trusting(secured)
        ) as stream:  # fmt: skip
            await client.subscribe(channel)
            first = der(old)
            write_certificate(tmp_path, "a")
            await asyncio.to_thread(reload, secured, "config reloaded")
            second = der(old)
            assert first != second and {shown(secured)[0] for _ in range(8)} == {second}
            secured.write_config({"server": {"tls": named(write_certificate(tmp_path, "b"))}})
            await asyncio.to_thread(reload, secured, "config reloaded")
            third = der(secured.config["server"]["tls"]["cert_file"])
            assert {shown(secured)[0] for _ in range(8)} == {third}
            async with Api(secured, trusting(secured)) as api:
                await api.publish(channel, "after")
            assert await client.until(channel, 1) == await stream.until(channel, 1) == ["after"]
            node = secured.worker_of(stream.local_port)
            secured.kill_worker(next(pid for pid in secured.worker_pids() if pid != node))
            await asyncio.to_thread(secured.wait_workers)
            assert {shown(secured)[0] for _ in range(8)} == {third}

    asyncio.run(run())
    assert "certificate for localhost, until " in secured.log()


def test_a_bad_certificate_is_not_taken(secured: Server, tmp_path: Path) -> None:
    """P18: the mistake is logged with its place, and new connections get the old certificate as before."""
    files = [Path(file) for file in secured.config["server"]["tls"].values()]
    good, whole = der(str(files[0])), [file.read_bytes() for file in files]
    another = Path(write_certificate(tmp_path, "c")[1]).read_bytes()
    for cert, key in ((b"", whole[1]), (whole[0], another), (whole[0], b"")):
        files[0].write_bytes(cert)
        files[1].write_bytes(key)
        reload(secured, "config not reloaded, the old one stays")
        assert {shown(secured)[0] for _ in range(6)} == {good}
    files[1].unlink()
    reload(secured, "config not reloaded, the old one stays")
    assert f"{secured.config_file}:" in secured.log() and "server.tls.key_file: found a file that" in secured.log()
    assert {shown(secured)[0] for _ in range(6)} == {good}


def answered(port: int, data: bytes) -> bytes:
    """What comes back for these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(data)
        found = b""
        with suppress(ConnectionResetError):
            while part := sock.recv(4096):
                found += part
    return found


def test_plain_text_on_the_tls_port_is_no_news(steady: Server) -> None:
    """It is hung up on at once, as is whoever sends nonsense or leaves in the middle; none of it is worth a line."""
    quiet = len(steady.log())
    for data in (upgrade("/connection/websocket"), b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 600, HELLO[:5] + b"\xff" * 600):
        assert b"HTTP/1.1" not in answered(steady.port, data)
    socket.create_connection(("127.0.0.1", steady.port)).close()
    assert shown(steady)
    assert steady.log()[quiet:] == ""


def test_tls_on_the_plain_port_is_no_news(server: Server) -> None:
    """It is answered 400 at once, which a TLS client takes for the end."""
    quiet = len(server.log())
    assert answered(server.port, HELLO).startswith(b"HTTP/1.1 400 ")
    with pytest.raises(ssl.SSLError):
        shown(server)
    assert "TLS" not in server.log()[quiet:]


def test_a_failed_handshake_is_one_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    """Tornado's warning becomes a line of ours without anything of the peer; other warnings pass."""
    tls.quiet()
    tls.quiet()
    error = ssl.SSLError(1, "[SSL: HTTP_REQUEST] http request (_ssl.c:1006)")
    error.reason = "HTTP_REQUEST"
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("tornado.general").warning("SSL Error on %s %s: %s", 7, ("192.0.2.1", 4), error)
        logging.getLogger("tornado.general").warning("something else")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.DEBUG, "a TLS handshake failed: HTTP_REQUEST"),
        (logging.WARNING, "something else"),
    ]


@pytest.mark.parametrize(
    ("begins", "ends", "status", "said"),
    [
        (-HOUR, 90 * DAY + HOUR, 0, "a certificate for localhost, until "),
        (-HOUR, 90 * DAY + HOUR, 0, ", 90 days from now\n"),
        (-9 * DAY, -2 * DAY - HOUR, 1, ", 2 days ago\n"),
        (-9 * DAY, -2 * DAY - HOUR, 1, "EXPIRED at "),
        (DAY, 2 * DAY, 1, "not valid before "),
    ],
)
def test_check_tells_until_when(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    begins: datetime.timedelta,
    ends: datetime.timedelta,
    status: int,
    said: str,
) -> None:
    """``server.py check`` reads the certificate: status 1 when clients would not accept it now."""
    cert, key = write_certificate(tmp_path, begins=begins, ends=ends)
    file = tmp_path / "rt.yaml"
    file.write_text(f"server: {{tls: {{cert_file: {cert}, key_file: {key}}}}}\n")
    assert command_line.main(["check", str(file)]) == status
    out, err = capsys.readouterr()
    assert said in (err if status else out)


def test_the_chain_ends_with_its_first(tmp_path: Path) -> None:
    """An intermediate certificate that ends sooner is what counts; and what ends soon is due."""
    now = datetime.datetime.now(datetime.UTC)
    first, _ = write_certificate(tmp_path, "first", ends=90 * DAY)
    second, _ = write_certificate(tmp_path, "second", ends=3 * DAY)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(Path(first).read_bytes() + Path(second).read_bytes())
    found, alone = Certificate.read(str(chain)), Certificate.read(first)
    assert (found.ends - now).days == 2 and found.is_good(now) and found.is_due(now)
    assert not alone.is_due(now)
