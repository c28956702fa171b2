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


@pytest.fixture
def packages(registry: Registry, tmp_path: Path) -> Path:
    """A checkout whose tests want two packages, one inside the other."""
    files = {"package/package.json": b"{}", "package/src/index.js": b"module.exports = 1;"}
    registry.packages |= {"@scope/whole": package(files), "inner": package({"other-root/index.js": b"2;"})}
    places = {"node_modules/@scope/whole": "@scope/whole", "node_modules/@scope/whole/node_modules/inner": "inner"}
    locked: dict[str, object] = {"": {"name": "wanted"}}
    for place, name in places.items():
        digest = base64.b64encode(hashlib.sha512(registry.packages[name]).digest()).decode()
        locked[place] = {"version": "1.0.0", "integrity": f"sha512-{digest}"}
    lock = tmp_path / hatch_build.NODE_LOCK
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps({"packages": locked}))
    return tmp_path


def test_whole_packages_are_laid_out_for_node_and_asked_for_once(registry: Registry, packages: Path) -> None:
    for _ in range(2):
        hatch_build.bring_packages(packages)
    whole = packages / hatch_build.NODE / "node_modules/@scope/whole"
    assert (whole / "src/index.js").read_text() == "module.exports = 1;"
    assert (whole / "node_modules/inner/index.js").read_text() == "2;"
    assert registry.asked == ["/@scope/whole/-/whole-1.0.0.tgz", "/inner/-/inner-1.0.0.tgz"]


def test_a_layout_that_was_broken_off_or_is_of_another_lock_is_made_anew(registry: Registry, packages: Path) -> None:
    content, registry.packages["inner"] = registry.packages["inner"], package({"other-root/index.js": b"steal();"})
    with pytest.raises(hatch_build.AssetsFailed, match=r"inner.*another hash"):
        hatch_build.bring_packages(packages)
    registry.packages["inner"] = content
    hatch_build.bring_packages(packages)
    stray = packages / hatch_build.NODE / "node_modules/stray.js"
    stray.touch()
    lock = packages / hatch_build.NODE_LOCK
    lock.write_text(lock.read_text() + "\n")
    hatch_build.bring_packages(packages)
    assert not stray.exists()


def test_a_package_cannot_write_outside_of_its_folder_and_its_links_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(hatch_build.AssetsFailed, match="leads out of its folder"):
        hatch_build.unpack_whole("evil", package({"package/../../evil.js": b"1;"}), tmp_path / "in")
    assert not (tmp_path / "evil.js").exists()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    hatch_build.unpack_whole("linked", out.getvalue(), tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_without_the_tests_there_is_nothing_to_lay_out(tmp_path: Path) -> None:
    hatch_build.bring_packages(tmp_path)
    assert not (tmp_path / "build").exists()


def test_the_lock_of_the_tests_own_packages_names_no_place_and_fits_what_is_wanted() -> None:
    lock = json.loads((ROOT / hatch_build.NODE_LOCK).read_text())["packages"]
    wanted = json.loads((ROOT / hatch_build.NODE_LOCK).with_name("package.json").read_text())
    assert lock[""]["dependencies"] == wanted["dependencies"]
    assert {f"node_modules/{name}" for name in wanted["dependencies"]} <= set(lock)
    for place, facts in lock.items():
        assert "resolved" not in facts
        assert not facts.get("hasInstallScript"), f"{place} would want a script run, and none is"
        assert not place or facts["integrity"].startswith("sha512-")


def test_the_wheel_carries_the_assets_and_nothing_of_the_tests(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    held = set(zipfile.ZipFile(built).namelist())
    assert {"crossfade/web/static/vendor/htmx.min.js", "crossfade/web/static/vendor/uplot.LICENSE"} <= held
    assert not any("axe" in name for name in held)
