"""Pact files of consumers, verified against a dependent service of the stage.

By pact-python, whose verifier is a library of machine code: it runs in a process of its own. Only files of the checkout
are read; brokers and URLs are not asked. States of the provider are not set up: the service begins with what its
command gave it, and the outcome names the states that the pacts speak of.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from crossfade.domain.errors import Invalid, Unavailable
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.domain.pipeline.results import together
from crossfade.gates.apart import apart
from crossfade.gates.figures import listed, mapping, parsed, text
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

REQUEST_SECONDS: Final = 10
SECONDS: Final = 300.0
"""For one file with all its interactions."""
MOST_SHOWN: Final = 50
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:
    """The outcome for pact files. Raises Invalid for one that cannot be read, Unavailable without pact-python."""
    place = context.places.get(gate.provider)
    if place is None:
        raise Invalid(f"{name}: provider", gate.provider, ", ".join(context.places) or "a service of the stage")
    url = loopback(place.url)
    outcomes = []
    for file in report.files:
        question = {
            "path": file.path,
            "pact": file.content.decode("utf-8", "replace"),
            "provider": gate.provider,
            "url": url,
            "allow": list(gate.allow),
            "least": gate.least,
        }
        outcomes.append(apart("pact", question, seconds=SECONDS))
    return together(outcomes, "pacts")


def answer(question: Mapping[str, Any]) -> Outcome:
    """The outcome for ``{path, pact, provider, url, allow, least}``: ``pact`` is a file's text, ``url`` the provider's.

    Raises Invalid for what is no pact of HTTP interactions, Unavailable when pact-python is not installed.
    """
    path = question["path"]
    pact = _pact(path, question["pact"])
    try:
        from pact import Verifier  # noqa: PLC0415 - an extra, and only for the child process
    except ImportError as error:
        hint = 'install it with `pip install "crossfade[pact]"`'
        raise Unavailable(f"Pact files cannot be verified: {error}", hint=hint) from None
    with tempfile.TemporaryDirectory(prefix="crossfade-pact-") as folder:
        file = Path(folder) / "pact.json"
        file.write_text(json.dumps(pact), encoding="utf-8")
        verifier = Verifier(pact["provider"]["name"], host="127.0.0.1")
        verifier.add_transport(url=question["url"]).add_source(file)
        verifier.follow_redirects(follow=False)
        verifier.set_coloured_output(enabled=False).set_request_timeout(REQUEST_SECONDS * 1000)
        try:
            verifier.verify()
        except RuntimeError:
            pass  # it only says that something failed: what, is in the results
        results = verifier.results
    return _outcome(question, pact, results)


def _pact(path: str, content: str) -> dict[str, Any]:
    """A pact with only HTTP interactions. Raises Invalid."""
    pact = mapping(path, parsed(path, content.encode()))
    for side in ("consumer", "provider"):
        text(f"{path}: {side}.name", mapping(f"{path}: {side}", pact.get(side)).get("name"))
    if pact.get("messages"):
        raise Invalid(f"{path}: messages", "messages", "interactions over HTTP")
    for at, raw in enumerate(listed(f"{path}: interactions", pact.get("interactions", []))):
        interaction = mapping(f"{path}: interactions.{at}", raw)
        text(f"{path}: interactions.{at}.description", interaction.get("description"))
        kind = interaction.get("type", "Synchronous/HTTP")
        if kind != "Synchronous/HTTP":
            raise Invalid(f"{path}: interactions.{at}.type", kind, "Synchronous/HTTP")
        asked = mapping(f"{path}: interactions.{at}.request", interaction.get("request")).get("path", "/")
        # It is put behind the provider's address: `@elsewhere` there would be another host.
        if not (isinstance(asked, str) and asked.startswith("/")):
            raise Invalid(f"{path}: interactions.{at}.request.path", asked, "a path that begins with /")
    # A plugin would be looked up, and started, by the verifier.
    if "plugins" in mapping(f"{path}: metadata", pact.get("metadata", {})):
        raise Invalid(f"{path}: metadata.plugins", pact["metadata"]["plugins"], "a pact without plugins")
    return dict(pact)


def _outcome(question: Mapping[str, Any], pact: Mapping[str, Any], results: Mapping[str, Any]) -> Outcome:
    path, provider, consumer = question["path"], question["provider"], pact["consumer"]["name"]
    asked = results.get("interactionResults", [])
    states = sorted({str(state) for one in asked for state in one.get("providerStates", [])})
    note = [f"states that {provider} was not put into: {', '.join(states)[:300]}"] if states else []
    wanted = len(pact.get("interactions", []))
    broken = [one for one in asked if one.get("result") != "OK"]
    allow = set(question["allow"])
    failed = [
        one for one in broken if allow.isdisjoint({one.get("description"), f"{consumer}: {one.get('description')}"})
    ]
    numbers = {"interactions": len(asked), "failed": len(failed), "allowed": len(broken) - len(failed)}
    if not asked or len(asked) < max(wanted, question["least"]):
        sentence = f"{path}: {len(asked)} interactions of {consumer} were verified; "
        sentence += f"it has {wanted}, and at least {question['least']} are wanted"
        lines = [" ".join(str(line).split())[:300] for line in results.get("output", []) if str(line).strip()]
        return Outcome(False, sentence, "no-data", tuple(lines[:20]), numbers)
    if not failed and (broken or results.get("result") is True):
        aside = f" but {len(broken)}, which are allowed" if broken else ""
        sentence = f"{path}: {provider} keeps all {len(asked)} interactions with {consumer}{aside}"
        return Outcome(True, sentence, details=tuple(note), numbers=numbers)
    details = [
        f"{consumer}: {' '.join(str(one.get('description')).split())[:200]}: {line}"
        for one in failed
        for line in _differences(one.get("mismatch"))
    ]
    more = [f"and {len(details) - MOST_SHOWN} more"] if len(details) > MOST_SHOWN else []
    first = details[0] if details else "the verifier says that it failed, and not why"
    sentence = f"{path}: {provider} does not keep {len(failed)} of {len(asked)} interactions: {first}"
    return Outcome(False, sentence, details=(*details[:MOST_SHOWN], *more, *note), numbers=numbers)


def _differences(mismatch: object) -> list[str]:
    """What is unlike in an interaction: ``$[0].price: Expected '9.50' (String) to be the same type as 9.5 (Decimal)``."""
    if not isinstance(mismatch, dict):
        return ["it failed"]
    found = []
    for one in mismatch.get("mismatches") or []:
        where = one.get("path") or one.get("key") or one.get("type", "")
        said = one.get("mismatch") or f"expected {one.get('expected')}, got {one.get('actual')}"
        found.append(" ".join(f"{where}: {said}".split())[:400])
    return found or [" ".join(str(mismatch.get("message") or mismatch.get("type") or "it failed").split())[:400]]


def loopback(url: str) -> str:
    """The address of a provider as the verifier is told it. Raises Invalid for one that is not on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in LOOPBACK or parts.port is None:
        raise Invalid("provider", url, "http://127.0.0.1:PORT")
    return f"http://127.0.0.1:{parts.port}{parts.path.rstrip('/')}"
