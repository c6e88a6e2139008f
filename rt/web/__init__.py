"""The doors: sockets, headers, HTTP. What comes in is handed on, what goes out is written; policies live elsewhere."""
