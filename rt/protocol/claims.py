"""Claims: what a token says, once somebody has vouched for it. Unknown claims are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from rt.protocol.options import Options, Override, Terms, seconds, terms

_ABSENT = msgspec.Raw()
NO_SUBS: Mapping[str, Terms] = MappingProxyType({})
"""The server-side subscriptions of a token that asks for none."""


class Claims(msgspec.Struct, frozen=True, gc=False):
    """The claims of a token, of the right types but not judged: times, audience, issuer and purpose are as they came.

    ``sub`` is still JSON, because another claim may say who the user is.
    """

    sub: msgspec.Raw = _ABSENT
    exp: int | float | None = None
    nbf: int | float | None = None
    iat: int | float | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    expire_at: int | float | None = None
    channel: str | None = None
    client: str | None = None
    info: msgspec.Raw = _ABSENT
    b64info: str | None = None
    override: Override | None = None
    channels: list[str] | None = None
    subs: dict[str, Options] | None = None

    def audiences(self) -> list[str]:
        """Whom the token is for."""
        return [self.aud] if isinstance(self.aud, str) else self.aud or []

    def issued_at(self) -> float:
        """When the token was made, in seconds since 1970; 0 when it does not say."""
        return 0.0 if self.iat is None else seconds(self.iat)

    def ends_at(self) -> float | None:
        """When the right ends: ``expire_at`` where it is given (0 is never), else with the token; None is never."""
        moment = self.exp if self.expire_at is None else self.expire_at or None
        return None if moment is None else seconds(moment)

    def information(self) -> bytes:
        """``b64info``, else ``info``, as compact JSON; :class:`errors.Refused` (107) when it is none."""
        if not bytes(self.info) and not self.b64info:
            return b""
        return terms(Options(info=self.info, b64info=self.b64info or "")).info

    def subscriptions(self) -> Mapping[str, Terms]:
        """The server-side subscriptions by channel: those of ``subs``, else those of ``channels``, which have no terms.

        The names are not checked. :class:`errors.Refused` (107) for options that are not fit to be used.
        """
        if self.subs:
            return {channel: terms(options) for channel, options in self.subs.items()}
        return dict.fromkeys(self.channels, Terms()) if self.channels else NO_SUBS


class _Issuer(msgspec.Struct, frozen=True, gc=False):
    iss: str = ""


_claims = msgspec.json.Decoder(Claims).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode
_issuer = msgspec.json.Decoder(_Issuer).decode


def decode(body: bytes, user_claim: str) -> tuple[Claims, str]:
    """The claims and the user, whom the claim of that name says; empty where it is absent.

    ``ValueError`` for what is no JSON object or has a claim of the wrong type.
    """
    try:
        claims = _claims(body)
        user = claims.sub if user_claim == "sub" else _members(body).get(user_claim, _ABSENT)
        return claims, _text(user) if bytes(user) else ""
    except RecursionError:
        raise ValueError("nested too deeply") from None


def issuer(body: bytes) -> str:
    """What the claim ``iss`` says; empty where it is absent. ``ValueError`` as for :func:`decode`."""
    try:
        return _issuer(body).iss
    except RecursionError:
        raise ValueError("nested too deeply") from None
