"""The names of things in the store: one prefix, the tenant, and everything of a channel under the channel's hash
tag."""

from __future__ import annotations


class Keys:
    """Names under ``<prefix>:<tenant>:``. Neither a tenant nor a channel may hold a brace, or the hash tag would be cut
    short."""

    __slots__ = ("_root",)

    def __init__(self, prefix: str, tenant: str) -> None:
        if any(character in prefix + tenant for character in "{}"):
            raise ValueError("neither prefix nor tenant may hold a brace")
        self._root = f"{prefix}:{tenant}:"

    def channel(self, channel: str) -> str:
        """The channel's pub/sub, and the beginning of its keys. ValueError for a name with a brace in it."""
        if "{" in channel or "}" in channel:
            raise ValueError("a channel's name may not hold a brace")
        return f"{self._root}{{{channel}}}"

    def probe(self, worker: str) -> str:
        """The pub/sub of a worker's probe; no channel has this name, whatever a client asks for."""
        return f"{self._root}probe:{{{worker}}}"

    @property
    def control(self) -> str:
        """The pub/sub of what workers say to all workers, and the beginning of the keys of its stream."""
        return f"{self._root}control:{{all}}"

    def answers(self, worker: str) -> str:
        """The pub/sub of a worker's own, where the others answer it."""
        return f"{self._root}answers:{{{worker}}}"

    def session(self, user: str) -> str:
        """What outlives the connections of a user. Whatever the user's name holds, no other user has this key."""
        return f"{self._root}session:{{{user}}}"

    @property
    def sessions(self) -> str:
        """There as long as any user may have a session."""
        return f"{self._root}sessions"

    def quota(self, rule: str, subject: str) -> str:
        """The bucket of a subject of a rule that all workers share. ``rule`` has no brace and no colon at its end, so
        that whatever the subject is, no other has this key."""
        return f"{self._root}quota:{{{rule}:{subject}}}"

    def worker(self, worker: str) -> str:
        """What a worker says about itself."""
        return f"{self._root}worker:{worker}"

    @property
    def workers(self) -> str:
        """The set of workers that ever said something and were not yet found gone."""
        return f"{self._root}workers"
