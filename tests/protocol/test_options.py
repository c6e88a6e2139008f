"""What backends say of a subscription, and how it changes a namespace."""

from __future__ import annotations

import base64
import contextlib
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.config import Namespace
from rt.protocol import options
from rt.protocol.options import Flag, Override, Terms

YES, NO = Flag(True), Flag(False)
OPTIONS = msgspec.json.Decoder(options.Options)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
TERMS = st.builds(
    Terms,
    info=st.just(b"") | JSON.map(msgspec.json.encode),
    data=st.just(b"") | JSON.map(msgspec.json.encode),
    override=st.none() | st.builds(Override, *[st.none() | st.builds(Flag, st.booleans())] * 5),
    expire_at=st.none() | st.floats(0, 2**53, allow_nan=False),
)


def packed(text: str) -> str:
    """A text in base64."""
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("said", "terms"),
    [
        ("{}", Terms()),
        ('{"info":{"a":1},"data":"x"}', Terms(b'{"a":1}', b'"x"')),
        ('{"info":null,"data":null,"override":null,"expire_at":null}', Terms()),
        ('{"info":{\n"a":\r1}}', Terms(b'{"a":1}')),
        ('{"info":0,"data":""}', Terms(b"0", b'""')),
        (f'{{"b64info":"{packed("[1]")}","b64data":"{packed("2")}"}}', Terms(b"[1]", b"2")),
        (f'{{"info":1,"b64info":"{packed("[1]")}"}}', Terms(b"[1]")),
        ('{"info":1,"b64info":""}', Terms(b"1")),
        ('{"expire_at":1700000000}', Terms(expire_at=1700000000.0)),
        ('{"expire_at":0}', Terms()),
        ('{"expire_at":-5}', Terms(expire_at=-5.0)),
        ('{"expire_at":1e300}', Terms(expire_at=float(2**53))),
        (f'{{"expire_at":{10**30}}}', Terms(expire_at=float(2**53))),
        ('{"override":{}}', Terms(override=Override())),
        ('{"override":{"presence":{"value":false},"new":1}}', Terms(override=Override(presence=NO))),
        ('{"later":1,"recover_since":{"offset":3,"epoch":"x"}}', Terms()),
    ],
)
def test_terms(said: str, terms: Terms) -> None:
    """Absent, null and zero are nothing; base64 wins; no time is too large."""
    assert options.terms(OPTIONS.decode(said)) == terms


@pytest.mark.parametrize(
    "said",
    [
        '{"b64info":"!"}',
        '{"b64info":"YQ"}',
        '{"b64data":"w6"}',
        '{"b64data":"\u00e9"}',
        f'{{"b64data":"{packed("{")}"}}',
        f'{{"b64info":"{packed("")}="}}',
        '{"info":' + "[" * 200 + "]" * 200 + "}",
        '{"data":[1e999]}',
    ],
)
def test_terms_that_are_none(said: str) -> None:
    """What is not base64, or not JSON that can be handed on, is a bad request."""
    with pytest.raises(errors.Refused) as refused:
        options.terms(OPTIONS.decode(said))
    assert refused.value.error == errors.BAD_REQUEST


@pytest.mark.parametrize("said", ['{"override":{"presence":true}}', '{"override":{"presence":{}}}', '{"info":}', "[]"])
def test_options_of_wrong_types(said: str) -> None:
    """An override says ``{"value": ...}``, nothing shorter."""
    with pytest.raises(ValueError):
        OPTIONS.decode(said)


@given(TERMS)
def test_terms_come_back_from_the_store(terms: Terms) -> None:
    """What was written is what is read, in one line."""
    data = options.encode(terms)
    assert b"\n" not in data
    assert options.decode(data) == terms


def test_stored_terms() -> None:
    """Nothing said is an empty object; a field of a later release is ignored."""
    assert options.encode(Terms()) == b"{}"
    assert options.encode(Terms(b"1", b"", Override(join_leave=YES), 5.5)) == (
        b'{"info":1,"override":{"join_leave":{"value":true}},"expire_at":5.5}'
    )
    assert options.decode(b'{"later":[1],"data":[]}') == Terms(data=b"[]")


@given(st.binary(max_size=60))
def test_any_bytes_are_terms_or_a_value_error(data: bytes) -> None:
    """Nonsense in the store is a ValueError and nothing else."""
    with contextlib.suppress(ValueError):
        assert isinstance(options.decode(data), Terms)


def test_terms_nested_without_end() -> None:
    """Deep nesting in the store is a ValueError too."""
    with pytest.raises(ValueError):
        options.decode(b'{"later":' + b"[" * 100_000)


BARE = Namespace(name="a", force_recovery=False)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        (Override(), {}),
        (Override(presence=NO, join_leave=NO, force_push_join_leave=NO, force_recovery=NO, force_positioning=NO), {}),
        (Override(presence=YES), {"presence": True}),
        (Override(join_leave=YES, presence=NO), {"join_leave": True}),
        (Override(force_push_join_leave=YES), {"force_push_join_leave": True}),
        (
            Override(force_recovery=YES, force_positioning=YES),
            {"force_recovery": True, "force_positioning": True},
        ),
    ],
)
def test_override(override: Override, changed: dict[str, bool]) -> None:
    """What is said and different is changed, all else stays; where nothing changes it is the same object."""
    over = override.over(BARE)
    assert msgspec.structs.asdict(over) == msgspec.structs.asdict(BARE) | changed
    assert (over is BARE) == (not changed)


def test_override_switches_off() -> None:
    """A setting can be taken away as well as given."""
    namespace = Namespace(name="a", presence=True, join_leave=True, force_recovery=True)
    over = Override(presence=NO, force_recovery=NO).over(namespace)
    assert (over.presence, over.join_leave, over.force_recovery, over.name) == (False, True, False, "a")


@pytest.mark.parametrize(("recovery", "positioning"), list(itertools.product([None, YES, NO], repeat=2)))
def test_override_without_history(recovery: Flag | None, positioning: Flag | None) -> None:
    """Where nothing is kept nothing can be recovered, whatever a backend says."""
    namespace = Namespace(name="a", history_size=0)
    assert Override(force_recovery=recovery, force_positioning=positioning).over(namespace) is namespace
