"""Pacing: the intervals at which a slow subscription is given what it is owed, where the newest is what counts.

A flush that is not out when the next one would begin makes the interval longer by ``pacing.factor``, beginning with
``pacing.first``, up to ``pacing.max``. One that was out in the time of the step below makes it shorter again. So the
interval finds the time that the reader needs for one flush: it is never far from the newest, and never asked for more
than it can take. After :data:`CALM` flushes in a row within the first interval it is given everything as it comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from rt.config import Pacing

CALM: Final = 4
"""Flushes in a row that must have been out in time until one is not slow any more."""

Step = Literal["up", "down"]


class Pace:
    """Of one subscription that is behind. ``step`` 0 is no waiting. All times are those of the loop's clock."""

    __slots__ = ("_began", "_calm", "_judged", "due", "step")

    def __init__(self, now: float) -> None:
        self.step = 0
        self.due = 0.0  # when the next flush may begin
        self._began = now
        self._judged = False
        self._calm = 0

    def flush(self, now: float) -> None:
        """A flush begins."""
        self._began = now
        self._judged = False

    def judge(self, now: float, pacing: Pacing) -> Step | None:
        """The flush (or the block, before the first) is out by ``now``: when is the next one due? Whether the interval
        was changed by it. To be asked as often as one likes."""
        if self._judged:
            return None
        self._judged = True
        before, took = self.step, now - self._began
        if took > max(wait(pacing, self.step), pacing.first):
            self._calm = 0
            self.step += wait(pacing, self.step + 1) > wait(pacing, self.step)
        elif self.step > 1:
            self.step -= took <= wait(pacing, self.step - 1)
        elif self.step:
            self._calm += 1
            self.step = 0 if self._calm >= CALM else 1
        self.due = self._began + wait(pacing, self.step)
        if self.step == before:
            return None
        return "up" if self.step > before else "down"


def wait(pacing: Pacing, step: int) -> float:
    """Seconds from the beginning of a flush to that of the next, at this step."""
    if not step:
        return 0.0
    return float(min(pacing.first * pacing.factor ** min(step - 1, 64), pacing.max))
