"""The dashboard's assets are what the lock says, or nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import hatch_build

ROOT = Path(__file__).parents[2]


def package(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


PACKAGES = {
    name: package({place: f"{name} {file}".encode() for place, file in files.items()})
    for name, files in hatch_build.FILES.items()
}


class Registry:
    """npm's registry, on this machine; ``asked`` are the paths it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.packages = dict(PACKAGES)
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                body = registry.packages.get(self.path.split("/-/")[0].strip("/"), b"")
                self.send_response(200 if body else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    made = Registry()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("npm_config_registry", made.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    locked = {
        f"node_modules/{name}": {
            "version": "1.0.0",
            "integrity": "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode(),
            **({"dev": True} if name == "axe-core" else {}),
        }
        for name, content in PACKAGES.items()
    }
    (tmp_path / "package-lock.json").write_text(json.dumps({"packages": locked}))
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"} if folder.exists() else set()


def test_the_files_of_the_lock_are_put_in_place_and_asked_for_once(registry: Registry, checkout: Path) -> None:
    for _ in range(2):
        hatch_build.bring(checkout, for_tests=False)
    vendor = checkout / hatch_build.VENDOR
    assert (vendor / "htmx.min.js").read_text() == "htmx.org htmx.min.js"
    assert names(vendor) == {"htmx.min.js", "htmx.LICENSE", "uplot.min.js", "uplot.min.css", "uplot.LICENSE"}
    assert sorted(registry.asked) == ["/htmx.org/-/htmx.org-1.0.0.tgz", "/uplot/-/uplot-1.0.0.tgz"]


def test_what_only_tests_load_is_not_where_the_wheel_takes_from(registry: Registry, checkout: Path) -> None:
    hatch_build.bring(checkout, for_tests=True)
    assert names(checkout / hatch_build.FOR_TESTS) == {"axe.min.js"}
    assert "axe.min.js" not in names(checkout / hatch_build.VENDOR)


def test_a_file_that_was_removed_comes_back(registry: Registry, checkout: Path) -> None:
    hatch_build.bring(checkout, for_tests=False)
    (checkout / hatch_build.VENDOR / "uplot.min.js").unlink()
    hatch_build.bring(checkout, for_tests=False)
    assert (checkout / hatch_build.VENDOR / "uplot.min.js").exists()


def test_a_package_that_is_not_the_locked_one_is_refused_and_nothing_of_it_is_kept(
    registry: Registry, checkout: Path
) -> None:
    registry.packages["uplot"] = package({"package/dist/uPlot.iife.min.js": b"steal()"})
    with pytest.raises(hatch_build.AssetsFailed, match=r"uplot.*another hash"):
        hatch_build.bring(checkout, for_tests=False)
    assert "uplot.min.js" not in names(checkout / hatch_build.VENDOR)


def test_a_registry_that_has_it_not_is_named_with_what_to_do(registry: Registry, checkout: Path) -> None:
    registry.packages.clear()
    with pytest.raises(hatch_build.AssetsFailed, match=rf"{registry.url}/htmx.org/.*404.*npm_config_registry"):
        hatch_build.bring(checkout, for_tests=False)


def test_only_the_web_is_a_registry(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(hatch_build.AssetsFailed, match="not the address of a registry"):
        hatch_build.bring(checkout, for_tests=False)


def test_a_package_without_the_file_says_where_that_is_named() -> None:
    with pytest.raises(hatch_build.AssetsFailed, match=r"uplot has no file package/x.*hatch_build.py"):
        hatch_build.unpack("uplot", PACKAGES["uplot"], {"package/x": "x"})


def test_the_lock_names_no_place_and_fits_what_is_wanted() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    wanted = json.loads((ROOT / "package.json").read_text())
    assert {f"node_modules/{name}" for name in hatch_build.FILES} | {""} == set(lock)
    assert {"dependencies": lock[""]["dependencies"], "devDependencies": lock[""]["devDependencies"]} == {
        key: wanted[key] for key in ("dependencies", "devDependencies")
    }
    assert not any("resolved" in facts for facts in lock.values())


def test_the_wheel_carries_the_assets_and_nothing_of_the_tests(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    held = set(zipfile.ZipFile(built).namelist())
    assert {"crossfade/web/static/vendor/htmx.min.js", "crossfade/web/static/vendor/uplot.LICENSE"} <= held
    assert not any("axe" in name for name in held)
