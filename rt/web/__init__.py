"""The doors: sockets, headers and HTTP. What comes in is handed on, what goes out is written; nothing is decided here."""
