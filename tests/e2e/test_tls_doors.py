"""Every door once over TLS, where the kernel does not do the writing for us."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.clients import Api, SdkClient, publish_all
from tests.doors import DOORS, enter, everything
from tests.raw import RawSocket, Shut, upgrade
from tests.servers import Server
from tests.waiting import eventually

LARGE = "x" * 500_000
"""More than one TLS record, and more than a socket takes at once."""


def certificate(folder: Path) -> dict[str, str]:
    """A certificate for localhost that signs itself, and its key; as the config names them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = {"cert_file": folder / "cert.pem", "key_file": folder / "key.pem"}
    files["cert_file"].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    files["key_file"].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return {name: str(path) for name, path in files.items()}


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, ssl.SSLContext]]:
    """A server with TLS, and a context that trusts it."""
    files = certificate(tmp_path_factory.mktemp("tls"))
    with Server({"server": {"tls": files}}) as running:
        yield running, ssl.create_default_context(cafile=files["cert_file"])


@pytest.mark.parametrize("door", DOORS)
def test_publish_receive_recover(secure: tuple[Server, ssl.SSLContext], channel: str, door: str) -> None:
    """Small and large publications arrive in order, and what is missed is recovered."""
    server, trust = secure

    async def run() -> None:
        async with Api(server, trust) as api:
            first = await enter(door, server, [channel], trust=trust)
            sent = await publish_all(lambda payload: api.publish(channel, payload), 3)
            await api.publish(channel, LARGE)
            assert await first.until(channel, 4) == [*sent, LARGE]
            await first.close()
            await api.publish(channel, "missed")
            second = await enter(door, server, [channel], previous=first, trust=trust)
            await api.publish(channel, "last")
            await second.until(channel, 2)
            assert everything([first, second], channel) == [*sent, LARGE, "missed", "last"]
            await second.close()

    asyncio.run(run())


@pytest.mark.parametrize("door", DOORS)
def test_a_reader_that_stops_and_comes_back(secure: tuple[Server, ssl.SSLContext], channel: str, door: str) -> None:
    """What waits for it is bounded over TLS too, and nothing of it is lost."""
    server, trust = secure
    payloads = [{"n": number, "text": "x" * 20_000} for number in range(150)]

    async def run() -> None:
        async with Api(server, trust) as api:
            slow = await enter(door, server, [channel], trust=trust, receive_buffer=4096)
            slow.pause()
            for payload in payloads:
                await api.publish(channel, payload)
            slow.resume()
            assert await slow.until(channel, len(payloads), timeout=30) == payloads
            await slow.close()

    asyncio.run(run())


def test_a_client_publishes(secure: tuple[Server, ssl.SSLContext], channel: str) -> None:
    """Commands come in over TLS as they do without."""
    server, trust = secure

    async def run() -> None:
        async with SdkClient(server, trust=trust) as client:
            await client.subscribe(channel)
            await client.publish(channel, "x" * 60_000)
            assert await client.until(channel, 1) == ["x" * 60_000]
            await client.abort()
        await eventually(lambda: server.metric("rt_connections") == 0)

    asyncio.run(run())


def test_plain_text_to_the_tls_port(secure: tuple[Server, ssl.SSLContext]) -> None:
    """It is hung up on, and the next good client gets in."""
    server, trust = secure

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.send(upgrade("/connection/websocket"))
            with pytest.raises((Shut, ValueError, IndexError)):
                await raw.head()
        async with SdkClient(server, trust=trust):
            pass

    asyncio.run(run())
