"""Other servers of this field, as their documentation shows them: whoever is installed is measured beside us.

``make peers`` installs those of npm and PyPI under bench/peers; nchan comes from Debian (libnginx-mod-nchan). Each
takes a POST and writes it to everybody who is connected, on one core, with nothing stored.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bench.targets import LOAD_CORE, SERVER_CORE, Target, Unavailable, children, free_port, pin

PEERS_FOLDER = Path(__file__).resolve().parent / "peers"
PYTHON = PEERS_FOLDER / ".venv" / "bin" / "python"
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

NGINX = """
daemon off; pid nginx.pid; error_log stderr crit; worker_processes 1; worker_rlimit_nofile 100000;
load_module {module};
events {{ worker_connections 90000; }}
http {{
  access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi; client_body_in_single_buffer on; keepalive_requests 100000000;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /ws {{ nchan_subscriber websocket; nchan_channel_id bench; nchan_subscriber_first_message newest; }}
    location = /api/publish {{ nchan_publisher http; nchan_channel_id bench; nchan_store_messages off; }}
  }}
}}
"""


class Peer(Target):
    """A server of somebody else. ``door`` is how the load subscribes to it."""

    door = "ws"


class Script(Peer):
    """One of the small servers in bench/peers."""

    def __init__(self, name: str, script: str, needs: Path, interpreter: str, door: str = "ws") -> None:
        super().__init__()
        self.name, self.door = name, door
        self.script, self.needs, self.interpreter = PEERS_FOLDER / script, needs, interpreter
        self.publish_port = free_port()

    def command(self) -> list[str]:
        if not self.needs.exists() or not shutil.which(self.interpreter):
            raise Unavailable(f"{self.name} is not installed (make peers)")
        return [self.interpreter, str(self.script), str(self.port), str(self.publish_port)]


class Nchan(Peer):
    """nginx with nchan: its one worker on the server's core."""

    name, door = "nchan", "nchan"

    def command(self) -> list[str]:
        if not shutil.which("nginx") or not NCHAN_MODULE.exists():
            raise Unavailable("nchan is not installed (Debian: libnginx-mod-nchan)")
        folder = Path(self.folder.name)
        (folder / "nginx.conf").write_text(NGINX.format(module=NCHAN_MODULE, port=self.port))
        return ["nginx", "-p", str(folder), "-c", "nginx.conf"]

    def settle(self) -> None:
        assert self.process is not None
        pin(self.process.pid, LOAD_CORE)
        self.pids = children(self.process.pid)
        for pid in self.pids:
            pin(pid, SERVER_CORE)


def _node(name: str, package: str, script: str, door: str = "ws") -> Callable[[], Peer]:
    return lambda: Script(name, script, PEERS_FOLDER / "node_modules" / package, "node", door)


def _python(name: str, script: str, door: str = "ws") -> Callable[[], Peer]:
    return lambda: Script(name, script, PYTHON, str(PYTHON), door)


PEERS: dict[str, Callable[[], Peer]] = {
    "npm ws": _node("npm ws", "ws", "ws.js"),
    "npm socket.io": _node("npm socket.io", "socket.io", "socketio.js", "sio"),
    "PyPI websockets": _python("PyPI websockets", "with_websockets.py"),
    "PyPI python-socketio": _python("PyPI python-socketio", "with_socketio.py", "sio"),
    "nchan": Nchan,
}
