"""One run of the bench: rounds, yardsticks, and the figures that come of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.figures import Figure, Overloaded, Refused, median, row
from bench.loading import SMALLEST, Load, build, subscribers, unhurried
from bench.targets import Floor, Stock, Target, Unavailable

HERE = Path(__file__).resolve().parent
SPARE_ROUNDS = 3
Act = Callable[[Figure], None]
Seen = dict[str, Any]


class Bench:
    """What all rows share. A yardstick is measured anew before what it is for: a shared machine is another one minutes
    later."""

    def __init__(self, folder: Path, options: Namespace) -> None:
        self.options = options
        self.folder = folder
        self.sizes: list[int] = sorted(options.subs)
        self.flights: list[int] = options.in_flight
        self.load = build(HERE / "load.c", folder)
        self.floor = build(HERE / "floor.c", folder)
        self.floors: dict[tuple[int, int], float] = {}  # by subscribers and bytes
        self.stock: dict[str, float] = {}
        self.figures: list[Figure] = []

    def measure(self, what: str, act: Act, group: str, bar: float | None = None, **at: Any) -> Figure:
        """Take one figure; when it cannot be true it says why instead."""
        figure = Figure(what, group, at, bar=bar)
        try:
            act(figure)
        except (Refused, Unavailable) as error:
            figure = Figure(what, group, at, bar=bar, refused=str(error) or "no reason was given")
        self.figures.append(figure)
        print(row(figure), flush=True)
        return figure

    def skip(self, what: str, error: Exception, group: str, **at: Any) -> None:
        """A row without a figure, for a reason that was found before it was begun."""

        def refuse(_: Figure) -> None:
            raise Refused(str(error))

        self.measure(what, refuse, group, **at)

    def taken(self, group: str, **at: Any) -> Figure | None:
        """An earlier figure of this run."""
        return next((figure for figure in self.figures if figure.group == group and figure.at == at), None)

    def repeated(self, take: Callable[[], tuple[float, Seen]]) -> tuple[float, Seen]:
        """The round with the median cost. A round in which the load had no time is taken again, some times."""
        runs: list[tuple[float, Seen]] = []
        refused = 0
        while len(runs) < self.options.rounds:
            try:
                runs.append(take())
            except Overloaded:
                refused += 1
                if refused > SPARE_ROUNDS:
                    raise
        return median(runs)

    def rounds(self, load: Load, act: Callable[[], tuple[Seen, float]], unit: str) -> tuple[float, Seen]:
        """Microseconds of server CPU per ``unit`` in the median round, and what the load saw of it."""

        def take() -> tuple[float, Seen]:
            load.quiet()
            seen, used = act()
            return used / seen[unit] * 1e6, seen

        return self.repeated(take)

    def published(self, figure: Figure, load: Load, publishers: int, unit: str, **how: Any) -> None:
        """CPU per ``unit`` of what is published over so many connections."""
        act = partial(load.run, publishers, self.options.seconds, **how)
        figure.cpu_us, seen = self.rounds(load, act, unit)
        figure.more = {
            "per_second": round(seen[unit] / seen["seconds"]),
            "latency_us": seen["latency_us"],
            "load_busy": seen["load_busy"],
        }
        if seen["deliveries"]:
            figure.more["wire_bytes_per_delivery"] = round(seen["bytes"] / seen["deliveries"], 1)

    def connected(self, figure: Figure, target: Callable[[], Target], door: str, size: int, **options: Any) -> None:
        """CPU and memory per connection. Each round has a server of its own that has seen some connections before."""

        def take() -> tuple[float, Seen]:
            with target() as server:
                with subscribers(self.load, server, door, 200) as (load, _):
                    load.warm(1)
                with subscribers(self.load, server, door, size, **options) as (_, opened):
                    unhurried(opened)
                    return opened.cpu / size * 1e6, {**opened.seen, "rss": opened.rss}

        figure.cpu_us, seen = self.repeated(take)
        figure.more = {
            "rss_bytes_per_connection": round(seen["rss"] / size),
            "load_busy": seen["load_busy"],
            "per_second": round(size / seen["seconds"]),
        }

    def compare(self, figure: Figure, yardstick: float | None, name: str) -> None:
        """Put it beside a yardstick, where there is one."""
        if figure.cpu_us is not None and yardstick:
            figure.ratio, figure.yardstick = figure.cpu_us / yardstick, name

    def times(self, figure: Figure, other: Figure | None) -> float | None:
        """How many times ``other`` it costs: by their ratios where both have one, for these know the hour's machine."""
        if other is None or figure.cpu_us is None or not other.cpu_us:
            return None
        if figure.ratio is not None and other.ratio is not None and figure.yardstick == other.yardstick:
            return figure.ratio / other.ratio
        return figure.cpu_us / other.cpu_us

    def measure_floor(self, size: int, frame: int = SMALLEST) -> None:
        """One send() per delivery, to so many subscribers."""
        self.floors.pop((size, frame), None)  # without a new one there is no ratio

        def act(figure: Figure) -> None:
            with Floor(self.floor, frame) as target, subscribers(self.load, target, "raw", size) as (load, _):
                load.warm(1)
                self.published(figure, load, 1, "deliveries")
            assert figure.cpu_us is not None
            self.floors[size, frame] = figure.cpu_us

        name = f"floor, {size:,} subscribers" + (f", {frame:,} bytes" if frame != SMALLEST else "")
        self.measure(name, act, "floor", subs=size, bytes=frame)

    def measure_stock(self, what: str) -> None:
        """One of the costs of stock Tornado: a handshake, a POST, a delivery or a frame."""
        self.stock.pop(what, None)
        acts = {
            "handshake": ("handshake and one write_message", self._handshakes),
            "POST": ("JSON POST that does nothing", self._posts),
            "write_message": (f"write_message to {self.sizes[0]:,}, 1 in flight", self._writes),
            "frame": ("on_message that does nothing", self._frames),
        }
        name, act = acts[what]
        cost = self.measure(f"stock Tornado: {name}", act, "stock", of=what).cpu_us
        if cost is not None:
            self.stock[what] = cost

    def _handshakes(self, figure: Figure) -> None:
        self.connected(figure, Stock, "ws", min(self.sizes[-1], 5000))

    def _posts(self, figure: Figure) -> None:
        with Stock() as target, subscribers(self.load, target, "ws", 0) as (load, _):
            load.warm(32)
            self.published(figure, load, 32, "publications")

    def _writes(self, figure: Figure) -> None:
        size = self.sizes[0]
        with Stock() as target, subscribers(self.load, target, "ws", size) as (load, _):
            load.warm(1)
            self.published(figure, load, 1, "deliveries")
        self.compare(figure, self.floors.get((size, SMALLEST)), "floor")

    def _frames(self, figure: Figure) -> None:
        with Stock() as target, subscribers(self.load, target, "ws", 500) as (load, _):
            self.framed(figure, load, "send")

    def framed(self, figure: Figure, load: Load, kind: str) -> None:
        """CPU per frame that clients send."""
        act = partial(load.ask, f"frames {kind} {self.options.seconds}")
        figure.cpu_us, seen = self.rounds(load, act, "frames")
        figure.more = {"per_second": round(seen["frames"] / seen["seconds"]), "load_busy": seen["load_busy"]}
