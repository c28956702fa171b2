"""Findings of migrations as SARIF 2.1.0, for the gate of that name, and for editors and forges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossfade.ports.databases import Finding


def sarif(findings: Sequence[Finding]) -> dict[str, Any]:
    """One run for each tool that found something; one of ours without results when nothing was found."""
    tools = list(dict.fromkeys(["crossfade", *(one.tool for one in findings)]))
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [_run(tool, [one for one in findings if one.tool == tool]) for tool in tools],
    }


def _run(tool: str, findings: Sequence[Finding]) -> dict[str, Any]:
    rules = list(dict.fromkeys(one.rule for one in findings))
    return {
        "tool": {"driver": {"name": tool, "rules": [{"id": rule} for rule in rules]}},
        "results": [
            {
                "ruleId": one.rule,
                "ruleIndex": rules.index(one.rule),
                "level": one.severity,
                "message": {"text": f"{one.sentence} {one.hint}".strip()},
                "locations": [_location(one)],
            }
            for one in findings
        ],
    }


def _location(one: Finding) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": one.file}}
    if one.line:
        place["region"] = {"startLine": one.line}
    return {"physicalLocation": place}
