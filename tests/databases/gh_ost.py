#!/usr/bin/env python3
"""A stand-in for gh-ost, which is in no package registry: its documented command line, its socket, its files, its tables.

It copies in parts and swaps, but follows no binary log: nobody may write while it works.
"""

from __future__ import annotations

import configparser
import os
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pymysql

FLAGS = {one.removeprefix("--").partition("=")[0]: one.partition("=")[2] for one in sys.argv[1:]}
STATE: dict[str, Any] = {"throttled": "", "postpone": True, "done": 0, "total": 0, "copied": False}
HOLD = Path(os.environ["GH_OST_HOLDS_HALFWAY"]) if "GH_OST_HOLDS_HALFWAY" in os.environ else None
"""While this file is there the copy goes no further than its half, so that a test need not be faster than it."""
HELP = "Copy: {done}/{total} {share:.1f}%; Applied: 0; Backlog: 0/1000; Time: 1s(total), 1s(copy); streamer: bin.000001:4; Lag: 0.01s, HeartbeatLag: 0.01s, State: {state}; ETA: {eta}\n"


class Commands(socketserver.StreamRequestHandler):
    """The interactive commands that are used of it."""

    def handle(self) -> None:
        said = self.rfile.readline().decode().strip()
        if said == "throttle":
            STATE["throttled"] = "throttled, commanded by user"
        elif said == "no-throttle":
            STATE["throttled"] = ""
        elif said == "unpostpone":
            STATE["postpone"] = False
        elif said != "sup":
            self.wfile.write(f"unknown command: {said}\n".encode())
            return
        done, total = STATE["done"], STATE["total"]
        state = STATE["throttled"] or ("postponing cut-over" if STATE["copied"] else "migrating")
        text = HELP.format(
            done=done,
            total=total,
            share=100 * done / total if total else 100.0,
            state=state,
            eta="due" if STATE["copied"] else "N/A" if STATE["throttled"] else "1s",
        )
        self.wfile.write(text.encode())


def connected() -> Any:
    read = configparser.ConfigParser(interpolation=None)
    read.read(FLAGS["conf"])
    user, password = (
        read["client"][one][1:-1].replace('\\"', '"').replace("\\\\", "\\") for one in ("user", "password")
    )
    return pymysql.connect(
        host=FLAGS["host"],
        port=int(FLAGS["port"]),
        user=user,
        password=password,
        database=FLAGS["database"],
        autocommit=True,
    )


def panicking() -> None:
    while not Path(FLAGS["panic-flag-file"]).exists():
        time.sleep(0.02)
    os._exit(1)


def main() -> None:
    assert "execute" in FLAGS and "allow-on-master" in FLAGS and "skip-metadata-lock-check" in FLAGS
    assert FLAGS["conf"] and not {"password", "user"} & set(FLAGS)
    threading.Thread(target=panicking, daemon=True).start()
    server = socketserver.ThreadingUnixStreamServer(FLAGS["serve-socket-file"], Commands)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    table = FLAGS["table"]
    stem = FLAGS["force-table-names"]
    new, log, old = f"_{stem}_gho", f"_{stem}_ghc", f"_{stem}_del"
    with connected() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {log} (id int PRIMARY KEY)")
        cursor.execute(f"CREATE TABLE {new} LIKE {table}")
        try:
            cursor.execute(f"ALTER TABLE {new} {FLAGS['alter']}")
        except pymysql.MySQLError as error:
            print(f"FATAL {error}", file=sys.stderr)
            sys.exit(1)
        cursor.execute(f"SELECT id FROM {table} ORDER BY id")  # noqa: S608 - a test's own table
        keys = [one[0] for one in cursor.fetchall()]
        shared: list[str] = []
        for one in (table, new):
            cursor.execute(f"SHOW COLUMNS FROM {one}")
            found = [row[0] for row in cursor.fetchall()]
            shared = [name for name in found if one == table or name in shared]
        names = ", ".join(shared)
        STATE["total"] = len(keys)
        while STATE["done"] < len(keys):
            held = HOLD is not None and HOLD.exists() and 2 * STATE["done"] >= len(keys)
            if STATE["throttled"] or held:
                time.sleep(0.02)
                continue
            part = keys[STATE["done"] : STATE["done"] + 10]
            cursor.execute(
                f"INSERT IGNORE INTO {new} ({names}) SELECT {names} FROM {table} WHERE id BETWEEN {part[0]} AND {part[-1]}"  # noqa: S608 - a test's own table
            )
            STATE["done"] = STATE["done"] + len(part)
            time.sleep(0.02)
        STATE["copied"] = True
        while STATE["postpone"] and Path(FLAGS["postpone-cut-over-flag-file"]).exists():
            time.sleep(0.02)
        cursor.execute(f"RENAME TABLE {table} TO {old}, {new} TO {table}")
        cursor.execute(f"DROP TABLE {log}")
    print("# Done")


main()
