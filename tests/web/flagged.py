"""An installation with flags in all their states: what the tests of their pages look at."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from crossfade.bootstrap.state import make_parts, prepare, read_config
from crossfade.domain.access import Actor, Grant, Role, local_actor
from crossfade.domain.environment import Occupant
from crossfade.domain.experiments.plan import Direction, Metric, MetricKind
from crossfade.domain.experiments.plan import Plan as TrialPlan
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rollout import Kind, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey
from crossfade.service import Service

KEY, STAGING = EnvKey("bookshop", "production"), EnvKey("bookshop", "staging")
GUARDED = EnvKey("bookshop", "guarded")
"""Its flags wait for a second operator's word."""
PASSWORD: Final = "a password of some length"
ROOT = local_actor("ada")
HOSTILE: Final = ["<img src=x onerror=alert(1)>", "{{ 7 * 7 }} & 'so on'", "\u202egnp.exe", "x" * 180]
PEOPLE: Final = {"vera": ["viewer"], "olga": ["operator"], "oskar": ["operator"], "ada": ["admin"]} | {
    "stranger": ["viewer@other/staging"]
}


class Idle:
    """An engine that leaves every rollout where it is."""

    def drive(self, rollout: int) -> None: ...

    def ring(self) -> None: ...


def boolean(default: str = "off", **ours: Any) -> dict[str, Any]:
    """A flag that is on or off."""
    data: dict[str, Any] = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": default,
    }
    return {**data, "crossfade": ours} if ours else data


def split(
    name: str, shares: dict[str, list[list[int]]], rest: str = "off", when: Any = None, **rule: Any
) -> dict[str, Any]:
    """A rule that draws."""
    return {
        "name": name,
        "serve": {"split": {"by": "targetingKey", "shares": shares, "rest": rest}},
        **rule,
        **({"if": when} if when else {}),
    }


def flags() -> dict[str, dict[str, Any]]:
    """One of each kind, and hostile ones."""
    staff = {"name": "staff", "if": {"segment": "staff"}, "serve": "on"}
    german = {"and": [{"segment": "beta"}, {"in": [{"var": "country"}, ["de", "at", "ch"]]}]}
    found = {
        "new-checkout": boolean(
            description="One page instead of three",
            owner="ada",
            tags=["shop", "checkout"],
            needs="r1",
            rules=[
                staff,
                split("german-beta", {"on": [[0, 5000]]}, when=german),
                split("ramp", {"on": [[0, 1000]]}),
            ],
        ),
        "checkout-page": {
            "state": "ENABLED",
            "variants": {
                "short": {"steps": 1},
                "long": {"steps": 3},
                "guided": {"steps": 5, "help": "a friendly guide"},
            },
            "defaultVariant": "long",
            "metadata": {"team": "shop"},
            "crossfade": {
                "owner": "grace",
                "tags": ["experiment"],
                "rules": [split("test", {"short": [[0, 3333]], "guided": [[3333, 6666]]}, "long")],
            },
        },
        "search-v2": boolean(
            owner="linus",
            description="The new index",
            rules=[split("slow", {"on": [[0, 2500]]}, paused=True)],
        ),
        "payments-eu": boolean(requires=[{"flag": "new-checkout", "variants": ["on"]}], owner="ada"),
        "banner": {**boolean(), "state": "DISABLED"},
        "spring-sale": boolean(
            rules=[{"name": "sale", "serve": "on", "from": 1_893_456_000.0, "until": 1_893_542_400.0}],
        ),
        "old-cart": boolean("on", owner="ada", description="Everybody has had it for a year"),
        "by-flagd": {
            "state": "ENABLED",
            "variants": {"a": "red", "b": "blue"},
            "defaultVariant": "a",
            "targeting": {"if": [{"ends_with": [{"var": "email"}, "@shop.test"]}, "b", "a"]},
        },
    }
    for number, text in enumerate(HOSTILE):
        name = text.lstrip("\u202e")  # a name must not turn the direction of what is around it
        rules = [{"name": name, "if": {"==": [{"var": text}, text]}, "serve": "on"}]
        data = boolean(description=text, owner=text, tags=[name], rules=rules)
        found[name] = {**data, "variants": {"on": True, "off": False, name: text}, "metadata": {f"m{number}": text}}
    return found


SEGMENTS: Final = {
    "staff": {"description": "Who works here", "if": {"ends_with": [{"var": "email"}, "@shop.test"]}},
    "beta": {"description": "Who asked for it", "if": {"==": [{"var": "plan"}, "beta"]}},
}


class Flagged:
    """A server's service over a state of its own, with three environments of one service."""

    def __init__(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
        prepare(self.state)
        self.parts = make_parts(self.state)
        self.service = Service(self.parts, Idle(), read_config)
        for key in (KEY, STAGING, GUARDED):
            self._live(key)
        document = {"flags": flags(), "crossfade": {"segments": SEGMENTS}}
        self.service.flags.bring(KEY, document, False, False, ROOT, note="from a file")
        self.service.flags.bring(STAGING, {"flags": {"new-checkout": boolean()}}, False, False, ROOT)
        self.service.flags.bring(GUARDED, {"flags": {"new-checkout": boolean()}}, False, False, ROOT)
        self.service.flags.set_settings(GUARDED, Role.OPERATOR, ROOT)
        self.service.flags.kill(KEY, "old-cart", "orders were lost " + HOSTILE[0], ROOT)
        for name, grants in PEOPLE.items():
            self.service.accounts.add(name, [Grant.parse(grant) for grant in grants], PASSWORD, ROOT)

    def _live(self, key: EnvKey) -> None:
        store, now = self.parts.store, time.time()
        number = store.add_release(key, Digest("sha256:" + "a" * 64), ReleaseConfig(("serve",)), "v1", now).number
        state = store.begin(Plan(key, Kind.DEPLOY, number, None, Slot.BLUE, BlueGreen()), "ada", now)
        store.occupy(key, Slot.BLUE, Occupant(number, state.id, 1))
        store.commit(state.id, Slot.BLUE, number, 0.0, now)
        store.close(state.id, {"rollout": state.id}, now)

    def asked(self) -> None:
        """A change that waits for somebody else's word."""
        olga = Actor("olga", (Grant(Role.OPERATOR),), "session")
        wanted = boolean("on", owner="olga", description=HOSTILE[0])
        self.service.flags.save(GUARDED, "new-checkout", wanted, olga, note="Everybody wants it")

    def ask(self, *contexts: dict[str, Any]) -> None:
        """Somebody asks for flags with these contexts."""
        serving = self.service.flags.serving(KEY)
        for context in contexts:
            serving.remember(context)

    def trial(self, name: str = "short page", start: bool = True, units: int = 900, fair: bool = True) -> None:
        """An experiment on `checkout-page` in which the short page lets more people finish. Unfair: few get the long one."""
        experiments = self.service.experiments
        metrics = (
            Metric("finished", MetricKind.CONVERSION, "order", margin=0.02, primary=True),
            Metric("basket", MetricKind.MEAN, "basket"),
            Metric("trouble", MetricKind.COUNT, "trouble", Direction.DOWN),
        )
        shares = {"long": 3334, "short": 3333, "guided": 3333}
        plan = TrialPlan(name, "checkout-page", "long", ("short", "guided"), shares, metrics, ("country",), units=2000)
        experiments.create(KEY, plan, ROOT, exclude_rollouts=False, hypothesis="Fewer steps, more orders " + HOSTILE[0])
        if not start:
            return
        experiments.start(KEY, name, ROOT)
        rates = {"long": 20, "short": 45, "guided": 22}
        exposures: list[dict[str, Any]] = []
        tracks: list[dict[str, Any]] = []
        for n in range(units):  # they come by turns, as chance would have it
            for variant, rate in rates.items():
                if not fair and variant == "long" and n % 3:
                    continue
                unit, country = f"{variant}-{n}", ("de", "at", "fr")[n % 3]
                told = {"flag": "checkout-page", "variant": variant, "unit": unit, "release": "r1"}
                exposures.append({**told, "attributes": {"country": country}})
                if n * 37 % 100 < rate:
                    tracks.append({"name": "order", "unit": unit})
                    tracks.append({"name": "basket", "unit": unit, "value": 20.0 + n % 40})
                if n % 50 == 0:
                    tracks.append({"name": "trouble", "unit": unit})
        for part in range(0, len(exposures), 300):
            self.service.flag_events.post(KEY, exposures=exposures[part : part + 300])
        for part in range(0, len(tracks), 500):
            self.service.flag_events.post(KEY, tracks=tracks[part : part + 500])

    def remove(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
