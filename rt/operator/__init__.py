"""Looking into a running server from the command line of its machine, by its internal port.

``door`` speaks to the port, ``status`` and ``looks`` are the commands, ``shown`` writes tables, and ``commands`` is
what ``server.py`` adds to its own. Nothing here runs in the server.
"""
