"""What a certificate says of itself: whom it is for, and until when."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from rt.config.problem import shown

SOON = datetime.timedelta(days=14)
"""A certificate that ends sooner should have been renewed by now."""


class Certificate(NamedTuple):
    """``names`` are the hosts that it is for; times are in UTC, and those of the chain's narrowest certificate."""

    names: tuple[str, ...]
    begins: datetime.datetime
    ends: datetime.datetime

    @classmethod
    def read(cls, file: str) -> Certificate:
        """The first of the chain in ``file``, with the times in which the whole chain is valid. OSError when it cannot
        be read, ValueError when there is none in it."""
        chain = x509.load_pem_x509_certificates(Path(file).read_bytes())
        begins = max(one.not_valid_before_utc for one in chain)
        ends = min(one.not_valid_after_utc for one in chain)
        return cls(_names(chain[0]), begins, ends)

    def is_good(self, now: datetime.datetime) -> bool:
        """Whether clients accept it, as far as time goes."""
        return self.begins <= now <= self.ends

    def is_due(self, now: datetime.datetime) -> bool:
        """Whether somebody should see to its renewal."""
        return not self.is_good(now) or self.ends - now < SOON

    def told(self, now: datetime.datetime) -> str:
        """In words: "for localhost, until 2026-03-01 12:00 UTC, 89 days from now"."""
        whom = f"for {', '.join(self.names)}, " if self.names else ""
        if now < self.begins:
            return f"{whom}not valid before {_moment(self.begins)}"
        days = abs(self.ends - now).days
        when = f"{days} day{'' if days == 1 else 's'} {'from now' if now <= self.ends else 'ago'}"
        return f"{whom}{'until' if now <= self.ends else 'EXPIRED at'} {_moment(self.ends)}, {when}"


def _moment(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return tuple(shown(name) for name in [*hosts, *addresses])
