"""The build hook: puts the dashboard's assets in place, from npm's packages, as `package-lock.json` pins them.

The files go to `src/crossfade/web/static/vendor/`, which git ignores and the wheel carries. What is there already and
comes from this lock is left alone, so that a rebuild needs no network. An editable build is a developer's: it also brings
what only the tests load, to `build/assets/`, and the packages for Node that they ask the server with, whole, to
`build/node/`. Why there is no Node in this: docs/decisions/0010-assets.md.

`npm_config_registry` names another registry, as it does for npm.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

REGISTRY = "https://registry.npmjs.org"
ENVIRONMENT = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
LARGEST = 20 * 1024**2
"""Bytes of a package."""
VENDOR = Path("src/crossfade/web/static/vendor")
FOR_TESTS = Path("build/assets")
NODE_LOCK = Path("tests/sdks/node/package-lock.json")
NODE = Path("build/node")

FILES = {
    "htmx.org": {"package/dist/htmx.min.js": "htmx.min.js", "package/LICENSE": "htmx.LICENSE"},
    "uplot": {
        "package/dist/uPlot.iife.min.js": "uplot.min.js",
        "package/dist/uPlot.min.css": "uplot.min.css",
        "package/LICENSE": "uplot.LICENSE",
    },
    "axe-core": {"package/axe.min.js": "axe.min.js"},
}


class AssetsFailed(Exception):
    """What is missing or wrong, and what to do about it."""


class AssetsHook(BuildHookInterface[Any]):
    """Called by hatchling before it builds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Bring the assets. Raises AssetsFailed."""
        bring(Path(self.root), for_tests=version == "editable")
        if version == "editable":
            bring_packages(Path(self.root))
        build_data["artifacts"].append(f"/{VENDOR}/*")


def bring(root: Path, *, for_tests: bool) -> None:
    """Put in place what is not there yet. Raises AssetsFailed."""
    locked = json.loads((root / "package-lock.json").read_text())["packages"]
    for name, files in FILES.items():
        facts = locked[f"node_modules/{name}"]
        dev = bool(facts.get("dev"))
        if dev and not for_tests:
            continue
        folder = root / (FOR_TESTS if dev else VENDOR)
        stamp = folder / f"{name}.lock"
        if (
            stamp.exists()
            and stamp.read_text() == facts["integrity"]
            and all((folder / f).exists() for f in files.values())
        ):
            continue
        content = unpack(name, fetch(name, facts["version"], facts["integrity"]), files)
        folder.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        for file, data in content.items():
            (folder / file).write_bytes(data)
        stamp.write_text(facts["integrity"])


def bring_packages(root: Path) -> None:
    """Lay out the packages of the tests' own lock as Node looks for them. Raises AssetsFailed.

    No script of a package is run: npm would run them, and none of these needs it.
    """
    lock = root / NODE_LOCK
    if not lock.exists():
        return  # a source distribution without its tests
    stamp = root / NODE / "package-lock.json"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    shutil.rmtree(root / NODE, ignore_errors=True)
    for place, facts in json.loads(lock.read_text())["packages"].items():
        if place:
            name = place.rpartition("node_modules/")[2]
            unpack_whole(name, fetch(name, facts["version"], facts["integrity"]), root / NODE / place)
    shutil.copyfile(lock, stamp)  # last: a layout that was broken off is made anew


def fetch(name: str, version: str, integrity: str) -> bytes:
    """A package as the registry has it. Raises AssetsFailed, also when it is not the one that the lock means."""
    base = next((os.environ[name] for name in ENVIRONMENT if os.environ.get(name)), REGISTRY).rstrip("/")
    url = f"{base}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
    if not url.startswith(("https://", "http://")):
        raise AssetsFailed(f"npm_config_registry: {base!r} is not the address of a registry; allowed: http(s)://…")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - http(s), as was just seen
            content: bytes = answer.read(LARGEST + 1)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise AssetsFailed(
            f"The package {name} {version} cannot be fetched from {url}: {error}. Check the network, or name a "
            "registry that this machine reaches by npm_config_registry, and build again."
        ) from error
    algorithm, _, wanted = integrity.partition("-")
    if algorithm != "sha512" or base64.b64encode(hashlib.sha512(content).digest()).decode() != wanted:
        raise AssetsFailed(f"{url} is not the {name} {version} that package-lock.json names: it has another hash.")
    return content


def unpack(name: str, package: bytes, files: dict[str, str]) -> dict[str, bytes]:
    """The wanted files of a package, by the names that they get. Raises AssetsFailed."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        for place, file in files.items():
            try:
                member = archive.extractfile(place)
            except KeyError:
                member = None
            if member is None:
                raise AssetsFailed(f"{name} has no file {place} any more: correct FILES in hatch_build.py.")
            found[file] = member.read()
    return found


def unpack_whole(name: str, package: bytes, folder: Path) -> None:
    """Put all files of a package into ``folder``, without the folder that they are in. Raises AssetsFailed."""
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        for member in archive:
            inside = PurePosixPath(member.name).parts[1:]
            if ".." in inside:
                raise AssetsFailed(f"{name} has a file {member.name!r}, which leads out of its folder.")
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None and inside:
                path = folder.joinpath(*inside)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
