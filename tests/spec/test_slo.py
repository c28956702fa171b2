"""Objectives, drills and proofs in `crossfade.yaml`: what they become, and what is refused and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from crossfade.domain.analysis.policy import Analysis, Source, SourceKind
from crossfade.domain.drill import DrillPlan, Fault, ProofPolicy
from crossfade.domain.errors import InvalidConfig
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.slo import Exhausted, Kind, Objective, OnBurn, Probe, SloPolicy
from crossfade.domain.values import DAY, Digest, EnvKey
from crossfade.spec.document import reference
from crossfade.spec.loader import parse
from crossfade.spec.models import Spec
from crossfade.store.sql import SqlStore

LEAST = """\
service: bookshop
run: {command: [./shop]}
health: [{name: it answers, path: /health}]
environments: {production: {}}
"""

TWO = LEAST.replace("{production: {}}", "{production: {}, staging: {port: 8081, %s}}")


def config(text: str, environment: str = "production") -> ReleaseConfig:
    return parse(LEAST + text).for_environment(environment)


def told(text: str) -> list[str]:
    """Key, what was found, and what is allowed, of each problem."""
    with pytest.raises(InvalidConfig) as caught:
        parse(text)
    return [f"{p.key}: found {p.found}; allowed: {p.allowed}" for p in caught.value.problems]


def objective(keys: str) -> list[str]:
    return told(LEAST + f"slo: {{objectives: [{{name: answers, target: 99%, {keys}}}]}}\n")


def test_without_a_word_nothing_is_promised_and_all_else_is_as_it_is_by_default() -> None:
    found = config("")
    assert (found.slo, found.drills, found.proofs) == (SloPolicy(), (), ProofPolicy())


def test_objectives_become_values() -> None:
    text = """\
slo:
  objectives:
    - {name: answers, target: 99.9%}
    - {name: fast, kind: latency, target: 99%, under: 300ms, window: 7d}
    - {name: paid, target: 99.5%, signal: api}
  sources:
    api: {kind: prometheus, url: "http://127.0.0.1:9090", requests: a, errors: b}
  watch: 0s
  on_burn: propose
  exhausted: warn
  probe: {every: 0s, path: /books, timeout: 1s}
"""
    found = config(text)
    assert found.slo == SloPolicy(
        (
            Objective("answers", 0.999),
            Objective("fast", 0.99, Kind.LATENCY, 7 * DAY, 0.3),
            Objective("paid", 0.995, signal="api"),
        ),
        0.0,
        OnBurn.PROPOSE,
        Exhausted.WARN,
        Probe(0.0, "/books", 1.0),
    )
    api = Source("api", SourceKind.PROMETHEUS, "http://127.0.0.1:9090", "a", "b")
    # A source of objectives changes nothing of how a rollout is judged.
    assert found.analysis == Analysis(sources=(api,))


def test_drills_and_proofs_become_values() -> None:
    text = (
        'drills: [{name: weekly, schedule: " 0  4 * * 2 ", zone: Europe/Berlin, back: 2, hold: 0s, fault: latency}]\n'
    )
    found = config(text + "proofs: {every: 2h, in: production}\n")
    assert found.drills == (DrillPlan("weekly", "0 4 * * 2", "Europe/Berlin", 2, 0.0, Fault.LATENCY),)
    assert found.proofs == ProofPolicy(7200.0, "production")
    assert config("drills: [{name: by-hand}]\n").drills == (DrillPlan("by-hand"),)


def test_an_environment_overrides_each_of_them_as_a_whole() -> None:
    text = "slo: {objectives: [{name: a, target: 99%}], watch: 1h}\ndrills: [{name: weekly}]\nproofs: {every: 1h}\n"
    spec = parse(TWO % "slo: {exhausted: warn}, drills: [], proofs: {every: 0s}" + text)
    production, staging = spec.for_environment("production"), spec.for_environment("staging")
    assert (production.slo.watch, len(production.slo.objectives), len(production.drills)) == (3600.0, 1, 1)
    assert staging.slo == SloPolicy(exhausted=Exhausted.WARN)
    assert (staging.drills, staging.proofs.every) == ((), 0.0)
    same = parse(TWO % "" + text)
    assert same.for_environment("staging").slo == same.for_environment("production").slo


def test_what_the_reference_says_is_kept_by_the_ledger_as_it_was_said(tmp_path: Path) -> None:
    found = parse(reference()).for_environment("production")
    assert len(found.slo.objectives) == 3 and found.drills and found.proofs.where == "staging"
    assert [one.name for one in found.analysis.sources][-1] == "payments"
    store = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    try:
        key = EnvKey("bookshop", "production")
        written = store.add_release(key, Digest("sha256:" + "a" * 64), found, "", 1.0)
        assert store.release("bookshop", written.number).config == found
    finally:
        store.dispose()


def test_a_configuration_that_was_kept_before_there_were_objectives_can_still_be_read() -> None:
    kinds: TypeAdapter[ReleaseConfig] = TypeAdapter(ReleaseConfig)
    old = kinds.dump_python(ReleaseConfig(("./shop",)), mode="json")
    for key in ("slo", "drills", "proofs"):
        del old[key]
    assert kinds.validate_python(old) == ReleaseConfig(("./shop",))


@pytest.mark.parametrize("target", ["100%", "100.0%", " 100 % "])
def test_an_objective_of_100_percent_is_refused_because_it_leaves_no_budget(target: str) -> None:
    (said,) = told(LEAST + f"slo: {{objectives: [{{name: a, target: '{target}'}}]}}\n")
    assert said.startswith("slo.objectives[0].target: found ")
    assert said.endswith(
        "; allowed: at most 99.9999%: with 100% there is no error budget, and each failed request would be an alarm"
    )


@pytest.mark.parametrize("target", ["100.1%", "0.5%", "99.99999%", "0.999", "most"])
def test_a_target_is_a_share_that_can_be_missed(target: str) -> None:
    (said,) = told(LEAST + f"slo: {{objectives: [{{name: a, target: '{target}'}}]}}\n")
    assert said.endswith("; allowed: a percentage from 1% to 99.9999%")


def test_a_window_that_is_longer_than_history_is_refused_with_the_reason() -> None:
    assert objective("window: 90d") == [
        "slo.objectives[0].window: found '90d'; allowed: at most 35d: what was counted is kept so long"
    ]
    for window in ("59m", "30", "0s"):
        (said,) = objective(f"window: {window}")
        assert said.endswith("; allowed: a duration from 1h to 35d with a unit ms, s, m, h or d")


def test_latency_says_how_long_and_availability_does_not() -> None:
    assert objective("kind: latency") == [
        "slo.objectives[0].under: found nothing; allowed: required with kind: latency: how long a good answer may take"
    ]
    assert objective("under: 1s") == ["slo.objectives[0].under: found '1s'; allowed: only with kind: latency"]
    assert objective("kind: speed") == ["slo.objectives[0].kind: found 'speed'; allowed: availability or latency"]


def test_a_signal_is_a_source_that_counts_what_the_objective_is_about() -> None:
    wanted = "allowed: one of slo.sources, or of analysis.sources, that has requests and errors"
    assert objective("signal: api") == [f"slo.objectives[0].signal: found 'api'; {wanted}"]
    render = 'analysis: {sources: {api: {kind: prometheus, url: "http://h", histogram: render_bucket}}}\n'
    keys = "slo: {objectives: [{name: a, target: 99%%, signal: api, kind: %s}]}\n"
    assert told(LEAST + render + keys % "availability") == [f"slo.objectives[0].signal: found 'api'; {wanted}"]
    found = config(render + keys % "latency, under: 1s")
    assert found.slo.objectives == (Objective("a", 0.99, Kind.LATENCY, threshold=1.0, signal="api"),)
    rate = render.replace("histogram: render_bucket", "requests: a, errors: b")
    (said,) = told(LEAST + rate + keys % "latency, under: 1s")
    assert said.endswith("that has a histogram")


def test_a_signal_is_there_in_every_environment_that_counts_by_it() -> None:
    text = 'analysis: {sources: {api: {kind: prometheus, url: "http://h", requests: a, errors: b}}}\n'
    text += "slo: {objectives: [{name: a, target: 99%, signal: api}]}\n"
    assert parse(TWO % "" + text).for_environment("staging").slo.objectives
    assert told(TWO % "analysis: {strict: true}" + text) == [
        "slo.objectives[0].signal: found 'api'; "  # noqa: ISC004 - one sentence
        "allowed: one of slo.sources, or of analysis.sources of staging, that has requests and errors"
    ]


def test_sources_of_objectives_keep_the_rules_of_sources_and_have_names_of_their_own() -> None:
    api = 'sources: {api: {kind: prometheus, url: "http://h", requests: a, errors: b}}'
    assert told(LEAST + "slo: {sources: {api: {kind: prometheus, requests: a}}}\n") == [
        "slo.sources.api.url: found nothing; allowed: required with kind: prometheus: a URL",
        "slo.sources.api.requests: found requests; allowed: requests and errors together, "  # noqa: ISC004 - one sentence
        "or histogram, or value, or count, "
        "sum and sum_squares together",
    ]
    assert told(LEAST + f"slo: {{{api}}}\nanalysis: {{{api}}}\n") == [
        "slo.sources.api: found the name 'api'; allowed: a name that no source of analysis has"
    ]


def test_names_are_plain_and_each_is_there_once() -> None:
    assert told(LEAST + "slo: {objectives: [{name: a, target: 99%}, {name: a, target: 98%}]}\n") == [
        "slo.objectives[1].name: found 'a'; allowed: a name that no other here has"
    ]
    assert told(LEAST + "slo: {objectives: [{name: '@edge', target: 99%}]}\n") == [
        "slo.objectives[0].name: found '@edge'; allowed: a name without '@': names with it are Crossfade's own"
    ]
    assert told(LEAST + "drills: [{name: a}, {name: a}]\n") == [
        "drills[1].name: found 'a'; allowed: a name that no other here has"
    ]
    assert told(TWO % "drills: [{name: a}, {name: a}]" + "drills: [{name: a}]\n") == [
        "environments.staging.drills[1].name: found 'a'; allowed: a name that no other here has"
    ]


@pytest.mark.parametrize("line", ["hourly", "0 4 * *", "61 4 * * 2", "0 4 * * 2 *", "0 0 30 2 *", "", "x" * 200])
def test_a_line_of_cron_is_one_that_comes(line: str) -> None:
    (said,) = told(LEAST + f'drills: [{{name: a, schedule: "{line}"}}]\n')
    assert said.startswith("drills[0].schedule: found ")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("zone: Mars/Olympus", "drills[0].zone: found 'Mars/Olympus'; allowed: the name of a time zone, for example Europe/Berlin"),
        ("back: 0", "drills[0].back: found 0; allowed: a whole number from 1 to 10"),
        ("back: 11", "drills[0].back: found 11; allowed: a whole number from 1 to 10"),
        ("back: 6", "drills[0].back: found 6; allowed: at most rollback.window (5): releases beyond it are not kept"),
        ("hold: 2h", "drills[0].hold: found '2h'; allowed: a duration from 0s to 1h with a unit ms, s, m, h or d"),
        ("fault: fire", "drills[0].fault: found 'fire'; allowed: kill-replica, latency, errors or kill-control-plane"),
    ],
)  # fmt: skip
def test_a_drill_that_cannot_be_is_refused(keys: str, said: str) -> None:
    assert told(LEAST + f"drills: [{{name: a, {keys}}}]\n") == [said]


def test_a_drill_may_go_back_as_far_as_releases_are_kept() -> None:
    assert config("drills: [{name: a, back: 10}]\nrollback: {window: 10}\n").drills[0].back == 10


def test_releases_are_proven_in_an_environment_of_the_file() -> None:
    assert told(LEAST + "proofs: {in: staging}\n") == [
        "proofs.in: found 'staging'; allowed: one of the environments of this file: production"
    ]
    assert told(TWO % "proofs: {in: qa}") == [
        "environments.staging.proofs.in: found 'qa'; allowed: one of the environments of this file: production, staging"
    ]


def test_the_prober_asks_never_or_at_most_once_a_second() -> None:
    (said,) = told(LEAST + "slo: {probe: {every: 100ms}}\n")
    assert said.endswith("; allowed: 0s for never, or a duration from 1s to 1h with a unit ms, s, m, h or d")


def test_the_same_problem_is_told_once_whatever_the_number_of_environments() -> None:
    text = TWO % "" + "slo: {objectives: [{name: a, target: 99%, signal: api}]}\n"
    assert len(told(text)) == 1


def test_what_is_given_is_written_back_as_it_was() -> None:
    text = "slo: {objectives: [{name: a, target: 99.95%, window: 7d}]}\ndrills: []\nproofs: {in: production}\n"
    data = parse(LEAST + text).to_data()
    assert data["slo"] == {"objectives": [{"name": "a", "target": "99.95%", "window": "7d"}]}
    assert (data["drills"], data["proofs"]) == ([], {"in": "production"})
    assert Spec.from_data(data).for_environment("production") == config(text)
