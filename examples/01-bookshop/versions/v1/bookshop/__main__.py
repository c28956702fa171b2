"""``python3 -m bookshop``: serve the shop on ``$HOST:$PORT`` with the database ``$DATABASE``, until SIGTERM.

The database is made and filled by whoever comes first; any number of processes may share it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from bookshop import assembly
from bookshop.server import Server
from bookshop.version import VERSION


def database() -> Path:
    """Where the data is: outside of the program's own folder, as every version shares it."""
    named = os.environ.get("DATABASE")
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "bookshop" / "bookshop.db"


async def serve() -> None:
    store = assembly.make_store(database())
    shop = assembly.make_shop(store)
    server = Server(shop.answer, headers=(("X-Bookshop-Version", VERSION),))
    host = os.environ.get("HOST", "127.0.0.1")
    port = await server.listen(host, assembly.listening_port(int(os.environ.get("PORT", "8000"))))
    print(f"bookshop {VERSION} at http://{host}:{port}, process {os.getpid()}", flush=True)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await stopping.wait()
    # First nobody new comes in, then the streams say goodbye, then what is under way is finished.
    server.close()
    shop.close()
    await server.finished(patience=8)
    store.close()
    print(f"bookshop {VERSION} has closed", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(serve())
    except OSError as error:
        sys.exit(f"bookshop: {error}")
