"""The password of the console, the cookies that stand for it, and how often one may guess."""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest import mock

import pytest

from rt.web.admin_login import ADDRESSES, GUESSES, LIFE, LONGEST, PAUSE, Login

PASSWORD = "a-password-of-the-tests"
HERE = "192.0.2.1"


@pytest.fixture
def login() -> Login:
    """A console with the password of the tests."""
    return Login(PASSWORD, 9000)


@pytest.fixture
def clock() -> Iterator[mock.Mock]:
    """A clock that stands until it is set."""
    with mock.patch("rt.web.admin_login.time.monotonic", return_value=1000.0) as monotonic:
        yield monotonic


def test_the_right_password_is_admitted_and_no_other(login: Login) -> None:
    """Neither a part of it, nor what is longer than any password, nor what is no text."""
    assert login.admit(PASSWORD, HERE) == 0.0
    for index, wrong in enumerate(("", PASSWORD[:-1], PASSWORD + "x", PASSWORD.upper(), "\ud800", "x" * (LONGEST + 1))):
        assert login.admit(wrong, f"192.0.2.{index + 10}") is None


def test_guesses_are_limited_by_address(login: Login, clock: mock.Mock) -> None:
    """After some wrong ones even the right one must wait, from that address and only from there; then it may come."""
    for _ in range(GUESSES):
        assert login.admit("wrong", HERE) is None
    assert login.admit(PASSWORD, HERE) == pytest.approx(PAUSE)
    assert login.admit(PASSWORD, "192.0.2.2") == 0.0
    clock.return_value += PAUSE + 0.01
    assert login.admit(PASSWORD, HERE) == 0.0


def test_a_network_of_ipv6_guesses_as_one(login: Login, clock: mock.Mock) -> None:
    """Who has one of its addresses has all of them."""
    for number in range(GUESSES):
        assert login.admit("wrong", f"2001:db8::{number + 1:x}") is None
    assert login.admit("wrong", "2001:db8::ffff")
    assert login.admit("wrong", "2001:db8:0:1::1") is None


def test_the_right_password_costs_nothing(login: Login, clock: mock.Mock) -> None:
    """A script may send it as often as it likes."""
    assert [login.admit(PASSWORD, HERE) for _ in range(100)] == [0.0] * 100


def test_addresses_that_guess_are_bounded(login: Login, clock: mock.Mock) -> None:
    """However many there are, it is remembered of so many only."""
    for number in range(ADDRESSES + 500):
        login.admit("wrong", f"10.0.{number >> 8}.{number & 255}")
    assert len(login._guesses) <= ADDRESSES


def test_a_cookie_is_good_for_its_time_on_every_worker(login: Login) -> None:
    """It is known where the password is the same, and nowhere else; it ends."""
    cookie = login.cookie()
    assert Login(PASSWORD, 9000).ends(cookie) == pytest.approx(time.time() + LIFE, abs=2)
    assert Login(PASSWORD + "x", 9000).ends(cookie) == 0.0
    with mock.patch("rt.web.admin_login.time.time", return_value=time.time() + LIFE + 1):
        assert login.ends(cookie) == 0.0


@pytest.mark.parametrize(
    "forged", ["", ".", "..", "9999999999.x.y", "9999999999.x.", "nan.x.y", "é.x.y", "\ud800", "a" * 9000]
)
def test_a_forged_cookie_is_none(login: Login, forged: str) -> None:
    """Whatever it is, nobody is signed in by it."""
    assert login.ends(forged) == 0.0


def test_a_cookie_cannot_be_prolonged_or_be_its_own_proof(login: Login) -> None:
    """The signature is over the end; a proof belongs to one cookie, and is no signature of a cookie."""
    end, nonce, signature = login.cookie().split(".")
    assert login.ends(f"{int(end) + 1}.{nonce}.{signature}") == 0.0
    one, other = login.cookie(), login.cookie()
    assert login.proves(login.proof(one), one)
    assert not login.proves(login.proof(one), other) and not login.proves("", one)
    assert not login.proves(signature, f"{end}.{nonce}") and not login.proves("\ud800é", one)


def test_cookies_of_two_ports_do_not_meet() -> None:
    """Two servers on one host: browsers do not tell ports apart, so their names do."""
    assert Login(PASSWORD, 9000).name != Login(PASSWORD, 9001).name
