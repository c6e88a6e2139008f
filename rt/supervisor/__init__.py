"""The process above the workers: it holds the listening sockets, starts and watches workers and store, and owns no
message.

``supervisor`` is the whole, ``crew`` all the workers, ``seat`` the place of one, ``child`` one process on it,
``control`` what the two say to each other, ``listeners`` the sockets, ``notify`` the words for systemd, ``runtime``
files that live as long as the process, ``farewell`` how one is told to leave from outside,
``preflight`` what can be wrong with a good config on this machine, ``single`` a worker alone without a supervisor.
"""
