"""The rows of the table, group by group. Each group starts what it needs and can be measured alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.figures import Figure, Refused
from bench.loading import SMALLEST, Load, Opened, subscribers, unhurried
from bench.measuring import Bench, Seen
from bench.others import PEERS
from bench.targets import SECRET, Rt, Unavailable
from tests.tokens import connection_token

DOORS = {"sdk": "WebSocket", "ws": "/ws", "sse": "SSE"}
BARS = {1: 1.5, 8: 0.45, 32: 0.15}  # of a fan-out, in floors, by publications in flight
MISSED = 20
CHANNELS, EACH, RATE = 300, 50, 900  # 45,000 deliveries per second to 15,000 subscribers
LATEST_MS = 20.0
PING = 25.0


def fan_out(bench: Bench) -> None:
    """Every door and number of subscribers, and one of them without a history."""
    for size in bench.sizes:
        if "sdk" in bench.options.doors and size == (5000 if 5000 in bench.sizes else bench.sizes[-1]):
            one_fan_out(bench, "sdk", size, prefix="volatile:")
        for door in bench.options.doors:
            one_fan_out(bench, door, size)
    bench.measure_floor(bench.sizes[0])
    bench.measure_stock("write_message")


def one_fan_out(bench: Bench, door: str, size: int, prefix: str = "bench:") -> None:
    """The floor, then one server of its own: the publications in flight."""
    bench.measure_floor(size)
    history = prefix == "bench:"
    name = f"{DOORS[door]}, {size:,} subscribers{'' if history else ', no history'}"

    def act(load: Load, publishers: int, figure: Figure) -> None:
        bench.published(figure, load, publishers, "deliveries")
        bench.compare(figure, bench.floors.get((size, SMALLEST)), "floor")
        ask_beside(bench, figure, door=door, subs=size, in_flight=publishers, history=history)

    try:
        with Rt() as target:
            with subscribers(bench.load, target, door, 200, prefix=prefix) as (load, _):
                load.warm(1)
            with subscribers(bench.load, target, door, size, prefix=prefix) as (load, opened):
                bench.measure(
                    f"{name}: connect and subscribe", partial(connect_seen, bench, size, opened), "connect",
                    door=door, subs=size, history=history, token=False,
                )  # fmt: skip
                load.warm(bench.flights[0])
                for publishers in bench.flights:
                    bench.measure(
                        f"{name}, {publishers} in flight", partial(act, load, publishers), "fan-out",
                        bar=BARS.get(publishers), door=door, subs=size, in_flight=publishers, history=history,
                    )  # fmt: skip
    except (Refused, Unavailable) as error:
        bench.skip(name, error, "fan-out", door=door, subs=size, history=history)


def ask_beside(bench: Bench, figure: Figure, **at: Any) -> None:
    """What is asked of a fan-out beside others: another door, no history, more subscribers cost hardly more."""
    others = {
        "× WebSocket": ({**at, "door": "sdk"}, 1.15),
        "× no history": ({**at, "history": False}, 1.1),
        "× the floor's growth": ({**at, "subs": bench.sizes[0]}, 1.2),
    }
    for name, (other, most) in others.items():
        times = bench.times(figure, bench.taken("fan-out", **other)) if other != at else None
        if times is not None:
            figure.asked[name] = [times, most]


def connect_seen(bench: Bench, size: int, opened: Opened, figure: Figure) -> None:
    """What the subscribers of a fan-out cost on their way in."""
    unhurried(opened)
    figure.cpu_us = opened.cpu / size * 1e6
    figure.more = {"rss_bytes_per_connection": round(opened.rss / size)}
    figure.asked["KB RSS each"] = [opened.rss / size / 1000, 4]
    bench.compare(figure, bench.stock.get("handshake"), "stock handshake")


def publish(bench: Bench) -> None:
    """From the HTTP API over the store, to one subscriber of each of many channels, in several ways of asking."""
    bench.measure_stock("POST")
    for channels in bench.options.channels:
        with_channels(bench, channels)


def with_channels(bench: Bench, channels: int) -> None:
    """Publications to so many channels; with 2,000 also batches, broadcasts, and channels that nobody hears."""
    ways: list[tuple[str, dict[str, Any], float | None]] = [("publish", {}, 0.4)]
    if channels == 2000:
        ways += [
            ("batch", {"kind": "batch", "group": 100}, 0.12),
            ("parallel", {"kind": "parallel", "group": 100}, 0.12),
            ("broadcast", {"kind": "broadcast", "group": 100}, None),
        ]
    names = {
        "publish": "publish",
        "batch": "batch of 100, per publication",
        "parallel": "batch of 100 side by side, per publication",
        "broadcast": "broadcast to 100, per channel",
    }

    def act(load: Load, publishers: int, how: dict[str, Any], figure: Figure) -> None:
        load.ask(f"run {publishers} 0.3 0 {how.get('kind', 'publish')} {how.get('group', 1)} 0")
        bench.published(figure, load, publishers, "publications", **how)
        bench.compare(figure, bench.stock.get("POST"), "stock POST")
        fewest = bench.taken("publish", way="publish", channels=min(bench.options.channels), heard=True)
        if not how and (times := bench.times(figure, fewest)) is not None:
            figure.beside[f"with {min(bench.options.channels):,} channels"] = times

    for heard in (True, False) if channels == 2000 else (True,):
        subs = channels if heard else 0
        try:
            with Rt() as target, subscribers(bench.load, target, "sdk", subs, channels=channels) as (load, _):
                for way, how, bar in ways:
                    publishers = 32 if way == "publish" else 4
                    name = f"{names[way]}, {channels:,} channels, {'one subscriber each' if heard else 'nobody there'}"
                    bench.measure(
                        f"{name}, {publishers} in flight", partial(act, load, publishers, how), "publish",
                        bar=bar if heard == (way == "publish") else None, way=way, channels=channels, heard=heard,
                    )  # fmt: skip
        except (Refused, Unavailable) as error:
            bench.skip(f"publish, {channels:,} channels", error, "publish", channels=channels, heard=heard)


def connect(bench: Bench) -> None:
    """Handshake, a token of its own for each, and a subscription to a live channel."""
    size = min(bench.sizes[-1], 5000)
    bench.measure_stock("handshake")
    tokens = bench.folder / "tokens"
    tokens.write_text("".join(connection_token(f"user{n}", key=SECRET) + "\n" for n in range(size)))

    def act(figure: Figure) -> None:
        bench.connected(figure, Rt, "sdk", size, tokens=tokens)
        figure.asked["KB RSS each"] = [figure.more["rss_bytes_per_connection"] / 1000, 4]
        bench.compare(figure, bench.stock.get("handshake"), "stock handshake")

    bench.measure(
        f"connect, JWT and subscribe, {size:,} WebSocket", act, "connect",
        bar=0.25, door="sdk", subs=size, history=True, token=True,
    )  # fmt: skip


def storm(bench: Bench) -> None:
    """All come back at once with the same position, and each is given what it missed."""
    size = min(bench.sizes[-1], 5000)
    if "handshake" not in bench.stock:
        bench.measure_stock("handshake")

    def take() -> tuple[float, Seen]:
        with Rt() as target:
            with subscribers(bench.load, target, "sdk", 200) as (load, _):
                load.warm(1)
                first = target.api("publish", {"channel": "bench:0", "data": {}})
                for number in range(MISSED):
                    target.api("publish", {"channel": "bench:0", "data": {"t": f"{number:016x}"}})
            reads = target.metric("rt_store_reads_total")
            back = {"epoch": first["epoch"], "since": first["offset"], "concurrent": 500}
            with subscribers(bench.load, target, "sdk", size, **back) as (_, opened):
                unhurried(opened)
                given = opened.seen["recovered"]
                if given != size * MISSED:
                    raise Refused(f"{given} of {size * MISSED} missed publications were given back")
                reads = target.metric("rt_store_reads_total") - reads
                return opened.cpu / size * 1e6, {**opened.seen, "reads": int(reads)}

    def act(figure: Figure) -> None:
        figure.cpu_us, seen = bench.repeated(take)
        figure.more = {
            "store_reads": seen["reads"],
            "said": f"all back in {seen['seconds']:.2f} s",
        }
        figure.asked["reads of the store"] = [seen["reads"], 10]
        bench.compare(figure, bench.stock.get("handshake"), "stock handshake")

    bench.measure(f"recovery storm, {size:,} x {MISSED} missed", act, "storm", bar=0.35, subs=size, missed=MISSED)


def inbound(bench: Bench) -> None:
    """Frames of clients: a command that nobody answers, and a publish (the store's CPU is not the worker's)."""
    bench.measure_stock("frame")

    def act(kind: str, most: float, figure: Figure) -> None:
        with Rt() as target, subscribers(bench.load, target, "sdk", 500, channels=500) as (load, _):
            bench.framed(figure, load, kind)
        bench.compare(figure, bench.stock.get("frame"), "stock on_message")
        figure.asked["µs"] = [figure.cpu_us or 0.0, most]

    bench.measure("inbound frame, no answer", partial(act, "send", 8), "inbound", kind="send")
    bench.measure("inbound client publish, with its answer", partial(act, "publish", 25), "inbound", kind="publish")


def idle(bench: Bench) -> None:
    """Connections that only answer pings, one in 25 s."""
    size, seconds = bench.options.idle_subs, bench.options.idle_seconds

    def act(figure: Figure) -> None:
        with Rt() as target, subscribers(bench.load, target, "sdk", size) as (load, _):
            seen, used = load.ask(f"idle {seconds}")
        if seen["pings"] < 0.9 * size * seconds / PING:
            raise Refused(f"only {seen['pings']} pings came")
        figure.cpu_us = used / seen["pings"] * 1e6
        figure.more = {"pings": seen["pings"], "said": "per ping"}
        figure.asked["% of a core"] = [used / seen["seconds"] * 100, 3]

    bench.measure(f"{size:,} idle connections, pings every {PING:g} s", act, "idle", subs=size)


def workers(bench: Bench) -> None:
    """Two workers against one, on the same core."""
    size, flights = min(bench.sizes[-1], 5000), bench.flights[:2]

    def act(count: int, publishers: int, figure: Figure) -> None:
        with Rt(count) as target, subscribers(bench.load, target, "sdk", size) as (load, _):
            load.warm(publishers)
            bench.published(figure, load, publishers, "deliveries")
        one = bench.taken("workers", workers=1, subs=size, in_flight=publishers) or Figure("")
        if count > 1:
            bench.compare(figure, one.cpu_us, "one worker")

    for publishers in flights:
        for count in (1, 2):
            name = f"{count} worker{'s' * (count > 1)}, {size:,} subscribers, {publishers} in flight"
            bench.measure(
                name, partial(act, count, publishers), "workers",
                bar=1.1 if count > 1 else None, workers=count, subs=size, in_flight=publishers,
            )  # fmt: skip


def rate(bench: Bench) -> None:
    """45,000 deliveries per second to 15,000 subscribers, due at fixed times: what a server at ease shows."""
    subs, asked = CHANNELS * EACH, RATE

    def act(figure: Figure) -> None:
        with Rt() as target, subscribers(bench.load, target, "sdk", subs, channels=CHANNELS) as (load, _):
            load.warm(8)
            bench.published(figure, load, 32, "deliveries", rate=asked)
        figure.asked["ms p99"] = [figure.more["latency_us"]["p99"] / 1000, LATEST_MS]

    bench.measure(f"{asked * EACH:,} deliveries/s, {CHANNELS} channels of {EACH}", act, "rate", subs=subs)


def growth(bench: Bench) -> None:
    """Larger messages, beside floors of the same size."""
    size = bench.sizes[0]

    def act(load: Load, publishers: int, frame: int, figure: Figure) -> None:
        bench.published(figure, load, publishers, "deliveries")
        bench.compare(figure, bench.floors.get((size, frame)), "floor")

    for frame in bench.options.bytes:
        bench.measure_floor(size, frame)
        # What is left for padding: the head of a larger frame has two bytes more.
        pad = frame - SMALLEST + 10 - (2 if frame > 127 else 0)
        try:
            with Rt() as target:
                options: dict[str, Any] = {"prefix": "volatile:", "pad": pad}
                with subscribers(bench.load, target, "sdk", size, **options) as (load, _):
                    load.warm(1)
                    for publishers in bench.flights[:2]:
                        bench.measure(
                            f"{frame:,} bytes, {size:,} subscribers, {publishers} in flight",
                            partial(act, load, publishers, frame), "growth",
                            bytes=frame, subs=size, in_flight=publishers,
                        )  # fmt: skip
        except (Refused, Unavailable) as error:
            bench.skip(f"{frame:,} bytes", error, "growth", bytes=frame)


def churn(bench: Bench) -> None:
    """Connections that come and go: the memory after the first tenth and after the last."""
    count, size = bench.options.churn, 500

    def act(figure: Figure) -> None:
        with Rt() as target, subscribers(bench.load, target, "sdk", size) as (load, _):
            load.ask(f"churn {count // 10}")
            before = target.rss()
            seen, used = load.ask(f"churn {count - count // 10}")
            grown = target.rss() - before
        figure.cpu_us = used / seen["connects"] * 1e6
        figure.more = {
            "per_second": round(seen["connects"] / seen["seconds"]),
            "rss_grown": grown,
            "said": f"memory {grown / 2**20:+.1f} MiB from {count // 10:,} connects to {count:,}",
        }

    bench.measure(f"{count:,} connects, {size} at a time", act, "churn", connects=count)


def peers(bench: Bench) -> None:
    """Other servers, as far as they are installed: the same fan-out, without a store on any of them."""
    size = bench.sizes[0]
    bench.measure_floor(size)
    for name, make in PEERS.items():

        def act(make: Callable[[], Any], publishers: int, figure: Figure) -> None:
            with make() as target, subscribers(bench.load, target, target.door, size) as (load, _):
                load.warm(1)
                bench.published(figure, load, publishers, "deliveries")
            bench.compare(figure, bench.floors.get((size, SMALLEST)), "floor")

        for publishers in bench.flights[:2]:
            bench.measure(
                f"peer {name}, {size:,} subscribers, {publishers} in flight", partial(act, make, publishers), "peers",
                peer=name, subs=size, in_flight=publishers,
            )  # fmt: skip


ROWS: dict[str, Callable[[Bench], None]] = {
    "connect": connect,
    "fan-out": fan_out,
    "publish": publish,
    "storm": storm,
    "inbound": inbound,
    "idle": idle,
    "workers": workers,
    "rate": rate,
    "growth": growth,
    "churn": churn,
    "peers": peers,
}
