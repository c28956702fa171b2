"""reference.yaml is example, schema and documentation at once: it has every key, and says of each what is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from crossfade.spec.document import descriptions, notes, page, reference
from crossfade.spec.loader import parse
from crossfade.spec.models import Spec
from crossfade.spec.shape import Shape, shape_of
from crossfade.spec.tree import read

MANUAL = Path(__file__).parents[2] / "docs" / "reference" / "crossfade-yaml.md"


def owned() -> list[tuple[str, str, Shape]]:
    """Every key of every kind of mapping: class, key, shape."""
    found = {}
    for _, shape in shape_of(Spec).walk():
        for owner in (shape, *shape.variants.values()):
            if owner.model is not None:
                for key, place in owner.keys.items():
                    found[(owner.model.__name__, key)] = place
    return [(model, key, place) for (model, key), place in found.items()]


def in_reference() -> set[tuple[str, str]]:
    """The same, of the keys that reference.yaml has."""
    tree = read(reference())
    root = shape_of(Spec)
    found = set()
    for path in tree.lines:
        if path and isinstance(path[-1], str):
            around = root.at(path[:-1], tree.data)
            data = tree.data
            for step in path[:-1]:
                data = data[step]
            assert around is not None
            inside = around.inside(data)
            if inside.model is not None:
                found |= {(c.__name__, path[-1]) for c in inside.model.__mro__}
    return found


def test_the_reference_is_valid() -> None:
    spec = parse(reference(), "reference.yaml")
    assert spec.service == "bookshop"
    assert list(spec.environments) == ["production", "staging"]


def test_every_key_of_the_models_is_in_the_reference_and_every_key_of_the_reference_is_in_the_models() -> None:
    there = in_reference()
    # A check of a flow has the keys of a health check, which the reference shows once.
    shown_elsewhere = {("FlowCheckPart", key) for _, key in there if ("CheckPart", key) in there}
    # Each strategy shows its own keys; kind, limits and what is in them are the same in both.
    missing = {(model, key) for model, key, _ in owned()} - there - shown_elsewhere
    assert missing == set()
    tree = read(reference())
    keys = [path for path in tree.lines if path and isinstance(path[-1], str)]
    assert [path for path in keys if shape_of(Spec).at(path, tree.data) is None] == []


def test_every_key_has_a_comment_that_says_whether_it_is_required_and_what_is_allowed() -> None:
    said = descriptions()
    by_name = {(model.__name__, key): note for (model, key), note in said.items()}
    for model, key, place in owned():
        note = by_name.get((model, key)) or by_name.get((model.replace("FlowCheck", "Check"), key))
        assert note is not None, f"{model}.{key} has no comment"
        assert note.meaning.endswith((".", "?")), f"{model}.{key}: {note.meaning!r}"
        assert note.required or note.default, f"{model}.{key} says neither Required nor Default"
        if (model, key) not in {("CanaryPart", "kind"), ("BlueGreenPart", "kind")}:
            assert note.required == place.required, f"{model}.{key}: required is {place.required}"
        if place.scalar is not None:
            assert note.allowed == place.allowed, f"{model}.{key} allows something else than the reference says"
        elif note.allowed:
            assert note.allowed == place.allowed or key == "kind", f"{model}.{key}: {place.allowed}"
        if place.each is not None and not place.listed and model != "Spec":
            assert by_name[
                (model.replace("FlowCheck", "Check") if key != "capture" else model, f"{key}.*")
            ].allowed == (place.each.allowed)


def test_every_default_in_the_comments_is_the_default_in_the_models() -> None:
    said = {(model.__name__, key): note for (model, key), note in descriptions().items()}
    checked = 0
    for model, key, place in owned():
        note = said.get((model, key))
        quoted = re.fullmatch(r"`(.+)`", note.default) if note else None
        if quoted is None:
            continue
        if key == "kind":
            assert place.default in (None, quoted[1])  # a canary says its kind
        elif place.scalar is None:
            assert place.default == type(place.default)(), f"{model}.{key} is not empty by default"
        else:
            written = read(f"value: {quoted[1]}").data["value"]
            assert place.scalar.read(written) == place.default, f"{model}.{key}: {quoted[1]} is not {place.default}"
        checked += 1
    assert checked > 20


def test_the_manual_page_is_the_one_that_the_reference_makes() -> None:
    assert MANUAL.read_text(encoding="utf-8") == page(), (
        "run: python -m crossfade.spec.document > docs/reference/crossfade-yaml.md"
    )


def test_the_manual_page_has_a_row_for_every_commented_key() -> None:
    text = page()
    for path in notes(reference()):
        if len(path) > 1:
            assert f"| `{'.'.join(path).replace('.[]', '[]')}` |" in text
        else:
            assert f"\n## {path[0]}\n" in text


@pytest.mark.timeout(60)
def test_the_command_that_makes_the_manual_page_prints_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crossfade.spec.document"], capture_output=True, check=True, timeout=50
    )
    assert done.stdout.decode() == page()
