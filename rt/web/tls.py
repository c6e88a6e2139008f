"""TLS on the public doors: one certificate at a time, which may be exchanged while connections live.

A connection keeps what it began with; the next one gets what is there then.
"""

from __future__ import annotations

import logging
import ssl

from rt.config import Tls

log = logging.getLogger("rt.web")


class Certificate:
    """``context`` is for the next connection. OSError (ssl.SSLError is one) when the files cannot be used."""

    __slots__ = ("context",)

    def __init__(self, tls: Tls) -> None:
        self.context = made(tls)

    def reload(self, tls: Tls) -> None:
        """Read the files, which may be others, again; when that fails, everything stays as it is."""
        self.context = made(tls)


def made(tls: Tls) -> ssl.SSLContext:
    """A context for the server's side: TLS 1.2 or 1.3, the ciphers that Python holds for good, no renegotiation, no
    compression, HTTP/1.1 and nothing else."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


class _Handshakes(logging.Filter):
    """Tornado warns of each handshake that fails; anybody can make as many as they like. They are for who debugs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not (isinstance(record.msg, str) and record.msg.startswith("SSL Error on")):
            return True
        reason = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        # Its reason is a word of the library, never something that came.
        log.debug("a TLS handshake failed: %s", getattr(reason, "reason", None) or "unknown")
        return False


def quiet() -> None:
    """Have handshakes that fail cost one line at level debug each. Once is enough, and more is harmless."""
    logger = logging.getLogger("tornado.general")
    if not any(isinstance(one, _Handshakes) for one in logger.filters):
        logger.addFilter(_Handshakes())
