"""The lock files: what pyproject.toml asks for, pinned, hashed, the same in all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
RUN = PROJECT["project"]["dependencies"] + GROUPS["build"]
ASKED = {
    "run": RUN,
    "dev": RUN + GROUPS["dev"],
    "bench": RUN + EXTRAS["bench"],
    "lock": GROUPS["build"] + GROUPS["lock"],
}
LOCKS = sorted(ASKED)


def entries(lock: str) -> dict[str, tuple[Requirement, int]]:
    """Name → (pinned requirement, how many hashes)."""
    found: dict[str, tuple[Requirement, int]] = {}
    text = re.sub(r"^\s*#.*$", "", (ROOT / "locks" / f"{lock}.txt").read_text(), flags=re.MULTILINE)
    for logical in text.replace("\\\n", " ").splitlines():
        if logical.strip():
            requirement, *hashes = logical.split("--hash=")
            found[canonicalize_name(Requirement(requirement).name)] = (Requirement(requirement), len(hashes))
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes)
    return found


def version(requirement: Requirement) -> str:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return pin.version


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_all_that_pyproject_asks_for_at_an_allowed_version(lock: str) -> None:
    held = entries(lock)
    missing = []
    for line in ASKED[lock]:
        asked = Requirement(line)
        pinned = held.get(canonicalize_name(asked.name))
        if pinned is None or not asked.specifier.contains(version(pinned[0]), prereleases=True):
            missing.append(line)
    assert not missing, f"locks/{lock}.txt is older than pyproject.toml; run: make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_is_pinned_and_has_a_hash(lock: str) -> None:
    for name, (requirement, hashes) in entries(lock).items():
        assert version(requirement), name
        assert hashes, name
        assert requirement.url is None, name


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place_to_fetch_from(lock: str) -> None:
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-", text.replace("    --hash", ""), re.MULTILINE), "no option but hashes"


def test_the_locks_agree_so_that_one_environment_can_hold_them_all() -> None:
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, (requirement, _) in entries(lock).items():
            versions.setdefault(name, set()).add(version(requirement))
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("wider", ["dev", "bench"])
def test_whoever_has_a_wider_lock_has_all_that_running_needs(wider: str) -> None:
    held = entries(wider)
    for name, (requirement, _) in entries("run").items():
        assert name in held, name
        assert requirement.marker is None or held[name][0].marker == requirement.marker, name
