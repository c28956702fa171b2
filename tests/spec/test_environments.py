"""What a release runs with in one environment: the service's keys, and what the environment overrides."""

from __future__ import annotations

import pytest

from crossfade.domain.errors import NotFound
from crossfade.domain.health import Expectation
from crossfade.domain.release import BlueGreen, Canary, Limits, ReleaseConfig, Step
from crossfade.domain.traffic import Sticky, StickyBy
from crossfade.domain.values import Weight
from crossfade.spec.document import reference
from crossfade.spec.loader import parse
from crossfade.spec.models import ALWAYS_IGNORED

LEAST = """\
service: bookshop
run: {command: ./shop --port $PORT}
health: [{name: it answers, path: /health}]
environments: {production: {}}
"""


def test_the_least_file_has_the_defaults_of_the_domain() -> None:
    config = parse(LEAST).for_environment("production")
    plain = ReleaseConfig(command=("./shop", "--port", "$PORT"))
    for field in ReleaseConfig.__dataclass_fields__:
        if field != "checks":
            assert getattr(config, field) == getattr(plain, field), field
    assert config.checks[0].status == (200,)


def test_an_environment_that_is_not_there_is_not_found_and_those_that_are_there_are_named() -> None:
    spec = parse(reference())
    with pytest.raises(NotFound, match=r"bookshop has no environment 'qa'.*production, staging"):
        spec.for_environment("qa")
    with pytest.raises(NotFound):
        spec.env_files("qa")


def test_what_an_environment_says_overrides_what_the_service_says() -> None:
    spec = parse(reference())
    production, staging = spec.for_environment("production"), spec.for_environment("staging")
    assert (production.replicas, staging.replicas) == (4, 2)
    assert (production.warm_for, staging.warm_for) == (3600.0, 600.0)
    assert (production.env, staging.env) == ((("LOG_LEVEL", "warning"),), (("LOG_LEVEL", "info"),))
    assert (spec.env_files("production"), spec.env_files("staging")) == ((".env", ".env.production"), (".env",))
    assert production.strategy == Canary(
        (Step(Weight(500), 30.0), Step(Weight(2500), 60.0), Step(Weight(5000), 60.0)),
        Limits(0.01, 0.5, 50),
    )
    assert staging.strategy == BlueGreen(30.0, Limits(0.02, None), True)
    assert production.sticky == Sticky(StickyBy.HEADER, "X-User")


def test_what_is_expected_of_json_is_kept_in_its_types() -> None:
    check = parse(reference()).for_environment("production").checks[0]
    assert check.json == (
        Expectation("$.database", equals="ok"),
        Expectation("$.books", minimum=1, maximum=1_000_000),
        Expectation("$.version", equals=2),
        Expectation("$.error", present=False),
    )


def test_secrets_and_history_never_get_into_an_artifact_whatever_the_file_ignores() -> None:
    assert set(ALWAYS_IGNORED) >= {".git", ".env", ".env.*"}
    assert parse(LEAST).build.ignore == ALWAYS_IGNORED
    assert parse(LEAST + "build: {ignore: [x]}\n").build.ignore == (*ALWAYS_IGNORED, "x")


def test_no_limit_is_a_word_and_not_an_absence() -> None:
    strategy = parse(LEAST + "strategy: {limits: {error_rate: none}}\n").for_environment("production").strategy
    assert strategy.limits.error_rate is None
    assert parse(LEAST).for_environment("production").strategy.limits.error_rate == 0.01
