"""Takes pictures of the dashboard while the bookshop is deployed under load: `make screenshots`.

    python tools/screenshots.py [--out docs/images] [--all FOLDER]

The README's picture goes to `--out`, small enough to be kept in the repository; with `--all`, a set of pictures (light,
dark, on a phone, of a release that fails) goes to that folder, which is not kept. Everything runs on this machine, in a
folder of its own that is gone at the end. Wants Debian's Chromium, as the browser tests do.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from rich.console import Console

from crossfade.cli import demo
from crossfade.cli.client import Client
from crossfade.domain.errors import CrossfadeError

ROOT: Final = Path(__file__).resolve().parents[1]
LARGEST: Final = 150_000
"""Bytes of a picture that is kept in the repository."""
PATIENCE: Final = 120.0
"""Seconds for any one thing to come about."""
STEP: Final = 15
"""Seconds of a step: longer than the demo's own, so that there is something to be seen in it."""
SEEN: Final = 9.0
"""Seconds of the second step that are in the picture."""
VIEWPORT: Final = ViewportSize(width=1240, height=840)
PHONE: Final = ViewportSize(width=390, height=844)


def main() -> int:
    """0 when all pictures were taken and the kept one is small enough."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="where the README's picture goes")
    parser.add_argument("--all", type=Path, default=None, help="a folder for all other pictures")
    given = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        sys.stderr.write("chromium is not installed: tools/setup.py dev --debian brings it\n")
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    if given.all is not None:
        given.all.mkdir(parents=True, exist_ok=True)
    with playing() as client, sync_playwright() as playwright:
        # Chromium has no sandbox of its own when it is run by root; it loads our pages only.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            return take(browser, client, given.out, given.all)
        finally:
            browser.close()


@contextmanager
def playing() -> Iterator[Client]:
    """The demo, played in the background; a client of its server."""
    demo.CANARY["steps"] = [{"weight": share, "duration": f"{STEP}s"} for share in ("5%", "25%", "50%")]
    stage = demo.Stage(Console(quiet=True), 120)
    # As a daemon, since an act that is cut off would wait for a server that has gone.
    threading.Thread(target=_play, args=(stage,), daemon=True).start()
    try:
        yield _when(lambda: _client(stage.state))
    finally:
        stage.close()


def _play(stage: demo.Stage) -> None:
    try:
        stage.play()
    except (CrossfadeError, OSError) as error:
        sys.stderr.write(f"the demo ended: {error}\n")


def _client(state: Path) -> Client | None:
    try:
        client = Client.of(state)
        client.environments()
    except (CrossfadeError, OSError):
        return None
    return client


def take(browser: Browser, client: Client, out: Path, rest: Path | None) -> int:
    """The README's picture in the second step of the canary, the others around it. 1 when the first is too large."""
    context = browser.new_context(viewport=VIEWPORT, color_scheme="light", device_scale_factor=1)
    page = context.new_page()
    page.goto(str(client.new_link("admin", "ada")["url"]))
    canary = _rollout(client, "v2")
    page.goto(f"{client.url}/rollouts/{canary}")
    _when(lambda: client.rollout(canary)["step"] >= 1)
    time.sleep(SEEN)
    picture = out / "rollout.png"
    page.screenshot(path=picture)
    if rest is not None:
        _others(browser, client, page, canary, rest)
    size = picture.stat().st_size
    sys.stdout.write(f"{picture}: {size:,} bytes\n")
    if size > LARGEST:
        sys.stderr.write(f"more than the {LARGEST:,} bytes that the repository keeps\n")
        return 1
    return 0


def _others(browser: Browser, client: Client, page: Page, canary: int, folder: Path) -> None:
    looks: tuple[tuple[str, dict[str, Any]], ...] = (
        ("rollout-dark", {"viewport": VIEWPORT, "color_scheme": "dark"}),
        ("rollout-phone", {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 2}),
    )
    for name, options in looks:
        other = browser.new_context(**options)
        one = other.new_page()
        one.goto(str(client.new_link("viewer", "guest")["url"]))
        one.goto(f"{client.url}/rollouts/{canary}")
        one.locator("[data-chart=rps] .uplot").wait_for()
        one.screenshot(path=folder / f"{name}.png", full_page=True)
        other.close()
    for name, place in (("glance", "/"), ("environment", "/environments/bookshop/production"), ("audit", "/audit")):
        page.goto(f"{client.url}{place}")
        page.screenshot(path=folder / f"{name}.png")
    bad = _rollout(client, "v3")
    page.goto(f"{client.url}/rollouts/{bad}")
    _when(lambda: client.rollout(bad)["ended"])
    time.sleep(1)
    page.screenshot(path=folder / "rollout-failed.png", full_page=True)


def _rollout(client: Client, label: str) -> int:
    """The number of the rollout of the release of that label, once it is under way."""

    def found() -> int | None:
        for row in client.releases("bookshop/production") if client.environments() else []:
            if row["label"] == label:
                begun = [r for r in client.rollouts() if r["candidate"] == row["release"]]
                return int(begun[0]["id"]) if begun else None
        return None

    return int(_when(found))


def _when(condition: Any) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:.0f} s in vain")
        time.sleep(0.1)
    return found


if __name__ == "__main__":
    sys.exit(main())
