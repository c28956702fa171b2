"""The pages of flags over a real service and ledger: what they show, who may do what, and that forms do what they say."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from fastapi import FastAPI

from crossfade.domain.errors import NotFound
from crossfade.web.app import mount
from tests.web.flagged import GUARDED, HOSTILE, KEY, PASSWORD, ROOT, STAGING, Flagged, boolean, split
from tests.web.test_house import ORIGIN, Visitor

HERE = f"/environments/{KEY}"
SCRIPTED = {"X-Requested-With": "fetch"}
Visitors = Mapping[str, Visitor]


class Form(HTMLParser):
    """What a browser would send of the form with a button of a name and value; without one, of the form to a place."""

    def __init__(self, page: str, action: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._action, self._inside = action, False
        self._select, self._area, self._first = "", "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = given.get("action") == self._action
        if not (self._inside or "form" in given) or "disabled" in given:
            return
        name, value = given.get("name", ""), given.get("value", "")
        match tag:
            case "input" if name and (given.get("type") not in ("checkbox", "radio") or "checked" in given):
                self.fields[name] = value or ("on" if given.get("type") == "checkbox" else "")
            case "select":
                self._select, self._first = name, True
            case "option" if self._select:
                if self._first or "selected" in given:
                    self.fields[self._select] = given.get("value", "\0")
                    self._first = False
            case "textarea":
                self._area = name
                self.fields[name] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False
        if tag == "select":
            self._select = ""
        if tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.fields[self._area] += data
        # An option without a value is sent as its text.
        elif self._select and self.fields.get(self._select) == "\0":
            self.fields[self._select] = data


@pytest.fixture(scope="module")
def made() -> Iterator[Flagged]:
    found = Flagged()
    yield found
    found.remove()


@pytest.fixture(scope="module")
def visitors(made: Flagged) -> Visitors:
    app = FastAPI()
    mount(app, made.service, origin=ORIGIN, key=b"k" * 32)
    found = {name: Visitor(app) for name in ("vera", "olga", "oskar", "stranger")}
    for name, each in found.items():
        assert each.log_in(name, PASSWORD).status_code == 303
    return found


@pytest.fixture
def fresh(made: Flagged, request: pytest.FixtureRequest) -> str:
    """A flag of this test's own: on or off, at 10 %."""
    name = re.sub(r"\W+", "-", request.node.name)[:60]
    rules = [split("ramp", {"on": [[0, 1000]]})]
    made.service.flags.save(KEY, name, boolean(rules=rules, owner="ada"), ROOT)
    return name


def data_of(made: Flagged, name: str, key: Any = KEY) -> dict[str, Any]:
    data: dict[str, Any] = made.service.flags.flag(key, name)["flag"]
    return data


def send(visitor: Visitor, page: str, action: str | None = None, **changes: str) -> httpx.Response:
    """Look at a page, fill its form in and send it."""
    shown = visitor.get(page)
    assert shown.status_code < 400, shown.text
    action = action or page.split("?", maxsplit=1)[0]
    fields = Form(shown.text, action).fields
    assert "csrf" in fields, f"{page} has no form for {action}"
    return visitor.ask("POST", action, data={**fields, **changes})


def text_of(answer: httpx.Response) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))


# --- what is shown to whom


def test_the_list_says_of_each_flag_what_it_is_and_who_gets_what(visitors: Visitors) -> None:
    page = visitors["vera"].get("/flags")
    said = text_of(page)
    for words in (
        "new-checkout",
        "One page instead of three",
        "on 10 %",
        "killed",
        "paused",
        "switched off",
        "checkout",
    ):
        assert words in said, words
    assert f"A new flag wants the role operator for {KEY}." in said
    assert "New flag in bookshop/production" in text_of(visitors["olga"].get(f"{HERE}/flags"))


def test_who_may_not_see_an_environment_sees_none_of_its_flags(visitors: Visitors) -> None:
    stranger = visitors["stranger"]
    assert "new-checkout" not in stranger.get("/flags").text
    assert "none that you may see" in text_of(stranger.get("/flags"))
    for place in ("/flags", "/flags/new-checkout", "/flags/new-checkout/edit", "/experiments"):
        assert stranger.get(HERE + place).status_code == 403
    assert stranger.get("/flag-requests?environment=bookshop/production").status_code == 403


def test_lists_are_filtered_by_words_and_by_state(visitors: Visitors) -> None:
    def shown(query: str) -> list[str]:
        page = visitors["vera"].get(f"{HERE}/flags?{query}", headers=SCRIPTED).text
        assert "<html" not in page
        return [html.unescape(name) for name in re.findall(r'class="release" href="[^"]*"><bdi>([^<]*)', page)]

    assert shown("q=checkout+ada") == ["new-checkout"]
    assert "old-cart" in shown("state=killed")
    assert "banner" in shown("state=off")
    assert "search-v2" in shown("state=paused")
    assert shown("q=nothing-at-all") == []
    assert "No flag matches this filter" in visitors["vera"].get(f"{HERE}/flags?q=nothing-at-all").text
    assert visitors["vera"].get("/flags?page=0").status_code == 422
    assert visitors["vera"].get("/flags?page=2").status_code == 200


def test_what_others_wrote_is_shown_as_text(made: Flagged, visitors: Visitors) -> None:
    for text in HOSTILE:
        name = text.lstrip("\u202e")
        place = f"{HERE}/flags/{quote(name)}"
        for page in (place, f"{place}/edit", f"{place}/orders/kill", f"{place}/versions/1", f"{place}/promote"):
            answer = visitors["olga"].get(page)
            assert answer.status_code == 200, page
            assert "<img src=x" not in answer.text
            assert "\u202e" not in answer.text
            assert "49 &amp;" not in answer.text
            assert name in html.unescape(answer.text)
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=\"|<script(?! src=\"/static/)|javascript:", answer.text)


def test_a_flag_that_there_is_not_is_not_found(visitors: Visitors) -> None:
    for place in ("", "/edit", "/orders/kill", "/promote", "/ramp", "/part"):
        assert visitors["olga"].get(f"{HERE}/flags/nothing{place}").status_code == 404, place
    for place in ("orders/explode", "orders/pause-rule?rule=nothing", "versions/999"):
        assert visitors["olga"].get(f"{HERE}/flags/new-checkout/{place}").status_code == 404, place
    assert visitors["olga"].get("/environments/No!/x/flags").status_code == 404
    assert visitors["olga"].get("/environments/bookshop/nowhere/flags").status_code == 404
    assert visitors["olga"].get("/environments/bookshop/nowhere/new-flag").status_code == 404


def test_a_context_is_answered_with_what_it_gets_and_every_step(visitors: Visitors) -> None:
    def ask(context: str) -> str:
        return text_of(visitors["vera"].get(f"{HERE}/flags/new-checkout?{urlencode({'context': context})}"))

    said = ask('{"targetingKey": "ada", "email": "a@shop.test"}')
    assert "It gets on true TARGETING_MATCH" in said
    assert "rule staff" in said
    assert "JSON, such as" in ask("{")
    assert "an object, in braces" in ask("[1]")
    assert "<img src=x" not in visitors["vera"].get(f"{HERE}/flags/new-checkout?context=%3Cimg+src%3Dx%3E").text


# --- orders


def order(visitor: Visitor, flag: str, what: str, **fields: str) -> httpx.Response:
    place = f"{HERE}/flags/{flag}/orders/{what}"
    query = f"?{urlencode({'rule': fields['rule']})}" if "rule" in fields else ""
    return send(visitor, place + query, place, **fields)


def test_a_flag_is_killed_from_its_page_with_a_reason(made: Flagged, visitors: Visitors, fresh: str) -> None:
    place = f"{HERE}/flags/{fresh}"
    answer = send(visitors["olga"], place, f"{place}/orders/kill", why="orders are <b>lost</b>")
    assert (answer.status_code, answer.headers["location"]) == (303, place)
    page = visitors["vera"].get(place)
    assert "Killed: everybody gets off" in text_of(page)
    assert "orders are <b>lost</b>" in text_of(page)
    assert data_of(made, fresh)["crossfade"]["killed"]["by"] == "olga"
    assert "It is killed already." in text_of(visitors["olga"].get(f"{place}/orders/kill"))
    assert order(visitors["olga"], fresh, "revive").status_code == 303
    assert "killed" not in data_of(made, fresh)["crossfade"]


def test_every_order_says_what_it_will_do_and_does_it(made: Flagged, visitors: Visitors, fresh: str) -> None:
    olga = visitors["olga"]
    assert "not a variant of the flag" in text_of(olga.get(f"{HERE}/flags/{fresh}/orders/off"))
    order(olga, fresh, "off")
    assert data_of(made, fresh)["state"] == "DISABLED"
    assert "It is switched off already." in text_of(olga.get(f"{HERE}/flags/{fresh}/orders/off"))
    order(olga, fresh, "on")
    assert data_of(made, fresh)["state"] == "ENABLED"
    order(olga, fresh, "pause-rule", rule="ramp")
    assert data_of(made, fresh)["crossfade"]["rules"][0]["paused"] is True
    order(olga, fresh, "resume-rule", rule="ramp")
    assert "paused" not in data_of(made, fresh)["crossfade"]["rules"][0]
    answer = order(olga, fresh, "remove")
    assert answer.headers["location"] == f"{HERE}/flags"
    with pytest.raises(NotFound):
        data_of(made, fresh)


def test_an_order_that_was_sent_twice_is_given_once(made: Flagged, visitors: Visitors, fresh: str) -> None:
    place = f"{HERE}/flags/{fresh}/orders/off"
    fields = Form(visitors["olga"].get(place).text, place).fields
    for _ in range(2):
        assert visitors["olga"].ask("POST", place, data=fields).status_code == 303
        made.service.flags.switch(KEY, fresh, True, ROOT)
    assert data_of(made, fresh)["state"] == "ENABLED"
    assert visitors["olga"].ask("POST", place, data={**fields, "once": "short"}).status_code == 422


def test_a_flag_that_others_require_is_not_removed(visitors: Visitors) -> None:
    said = text_of(visitors["olga"].get(f"{HERE}/flags/new-checkout/orders/remove"))
    assert "payments-eu requires it: change that first." in said
    answer = visitors["olga"].post(
        f"{HERE}/flags/new-checkout/orders/remove", {"once": "0123456789abcdef"}, page=f"{HERE}/flags/new-checkout"
    )
    assert answer.status_code == 409
    assert "is required by payments-eu" in text_of(answer)


def test_a_viewer_sees_everything_and_may_do_nothing(made: Flagged, visitors: Visitors, fresh: str) -> None:
    vera, place = visitors["vera"], f"{HERE}/flags/{fresh}"
    page = vera.get(place)
    assert f"This wants the role operator for {KEY}." in page.text
    assert f"{place}/orders/" not in page.text
    before = data_of(made, fresh)
    form = {"once": "0123456789abcdef"}
    for what in ("orders/kill", "orders/off", "orders/remove", "edit", "ramp", "versions/1", "promote"):
        answer = vera.post(f"{place}/{what}", {**form, "do": "save", "to": "staging"}, page="/settings")
        assert answer.status_code in (403, 422), what
    assert data_of(made, fresh) == before
    assert vera.get(f"{place}/edit").status_code == 200
    assert "disabled>Save</button>" in vera.get(f"{place}/edit").text


# --- the editor


def test_a_flag_that_is_opened_and_saved_by_a_browser_stays_the_same(made: Flagged, visitors: Visitors) -> None:
    version = made.service.flags.serving(KEY).version
    for name in made.service.flags.serving(KEY).flags.flags:
        before = data_of(made, name)
        answer = send(visitors["olga"], f"{HERE}/flags/{quote(name)}/edit", do="save")
        assert answer.status_code == 303, f"{name}: {text_of(answer)}"
        assert data_of(made, name) == before
    assert made.service.flags.serving(KEY).version == version


def test_a_flag_is_made_and_changed_without_scripts(made: Flagged, visitors: Visitors) -> None:
    olga, place = visitors["olga"], f"{HERE}/new-flag"
    shown = olga.get(place)
    fields = Form(shown.text, place).fields
    assert (fields["variant-0-name"], fields["variant-1-value"]) == ("on", "false")
    for do in ("add-rule", "add-condition-0", "add-require"):
        answer = olga.ask("POST", place, data={**fields, "name": "made-here", "do": do})
        assert answer.status_code == 200
        fields = Form(answer.text, place).fields
    assert fields["name"] == "made-here"
    fields |= {"rule-0-condition-0-attribute": "country", "rule-0-condition-0-operator": "in"}
    fields |= {"rule-0-condition-0-value": "de, at", "rule-0-serve": "split", "rule-0-share-0": "12.5"}
    fields |= {"rule-0-segment": "segment:beta", "tags": "a, b", "needs": "r1", "note": "the first one"}
    fields |= {"require-0-flag": "new-checkout", "require-0-variants": "on"}
    answer = olga.ask("POST", place, data={**fields, "do": "save"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{HERE}/flags/made-here"), text_of(answer)
    ours = data_of(made, "made-here")["crossfade"]
    assert ours["tags"] == ["a", "b"]
    assert ours["requires"] == [{"flag": "new-checkout", "variants": ["on"]}]
    (rule,) = ours["rules"]
    assert rule["if"] == {"and": [{"segment": "beta"}, {"in": [{"var": "country"}, ["de", "at"]]}]}
    assert rule["serve"]["split"]["shares"] == {"on": [[0, 1250]]}
    assert made.service.flags.versions(KEY)[0]["note"] == "the first one"
    again = olga.ask("POST", place, data={**fields, "do": "save", "once": "0123456789abcdef"})
    assert (again.status_code, "has a flag made-here already" in text_of(again)) == (422, True)


def test_everything_that_is_wrong_is_said_beside_its_field(visitors: Visitors, fresh: str) -> None:
    place = f"{HERE}/flags/{fresh}/edit"

    def faults(**changes: str) -> dict[str, str]:
        answer = send(visitors["olga"], place, do="save", **changes)
        assert answer.status_code == 422
        found = re.findall(r'data-fault="([^"]*)">([^<]+)<', answer.text)
        return {html.unescape(field): html.unescape(text) for field, text in found}

    assert "no JSON" in faults(**{"variant-0-value": "{"})["variant-0-value"]
    assert "a release" in faults(needs="twelve")["needs"]
    assert "segment" in faults(**{"rule-0-segment": "segment:nowhere"})["rule-0-segment"]
    assert "a variant of the flag" in faults(default="blue")["default"]
    assert "percentage" in "".join(faults(**{"rule-0-share-0": "most"}).values())
    assert "one operator" in faults(rest='{"targeting": {"a": 1, "b": 2}}')["rest"]
    assert "printable" in faults(**{"rule-0-name": ""})["rule-0-name"]
    both = faults(needs="twelve", **{"rule-0-until": "2020-01-01T00:00", "rule-0-since": "2021-01-01T00:00"})
    assert {"needs", "rule-0-until"} <= both.keys()
    bomb = "[" * 3000 + "]" * 3000
    assert faults(**{"rule-0-how": "json", "rule-0-json": bomb})


def preview(visitor: Visitor, flag: str, **changes: str) -> str:
    place = f"{HERE}/flags/{quote(flag)}/edit"
    fields = Form(visitor.get(place).text, place).fields
    answer = visitor.ask("POST", f"{HERE}/flag-preview", data={**fields, **changes}, headers=SCRIPTED)
    assert answer.status_code == 200
    assert "<html" not in answer.text
    return text_of(answer)


def test_who_would_get_what_is_shown_before_anything_is_saved(made: Flagged, visitors: Visitors, fresh: str) -> None:
    made.ask(*({"targetingKey": f"u{n}", "country": "de"} for n in range(30)))
    before = data_of(made, fresh)
    assert "None of 2 000 would get anything else" in preview(visitors["vera"], fresh).replace("\u202f", " ")
    said = preview(visitors["vera"], fresh, **{"rule-0-share-0": "60"}).replace("\u202f", " ")
    moved = re.search(r"(\d[\d ]*) of 2 000 would get something else made-up visitors", said)
    assert moved is not None
    assert 900 < int(moved[1].replace(" ", "")) < 1100
    assert re.search(r"\d+ off → on", said)
    assert "contexts that were asked for lately" in said
    assert "rule ramp serves on to 10 %, off to the rest on to 60 %, off to the rest" in said
    typed = preview(visitors["vera"], fresh, **{"rule-0-share-0": "100"}, contexts='{"targetingKey": "<b>grace</b>"}')
    assert '{"targetingKey": "<b>grace</b>"}' in typed
    wrong = preview(visitors["vera"], fresh, contexts='{"targetingKey": "a"}\n[1]', needs="twelve")
    assert "Line 2: an object, in braces." in wrong
    assert "a release, for example r12" in preview(visitors["vera"], fresh, needs="twelve")
    assert data_of(made, fresh) == before


def test_a_preview_wants_a_form_of_ours_and_an_environment_that_one_sees(visitors: Visitors) -> None:
    assert visitors["olga"].ask("POST", f"{HERE}/flag-preview", data={"name": "x"}).status_code == 403
    assert visitors["stranger"].post(f"{HERE}/flag-preview", {"name": "x"}).status_code == 403
    assert visitors["olga"].post("/environments/bookshop/nowhere/flag-preview", {"name": "x"}).status_code == 404
    answer = visitors["olga"].post(f"{HERE}/flag-preview", {"name": "x" * 300, "variant-0-name": "on"})
    assert answer.status_code == 200


def test_in_a_conflict_nothing_is_lost_and_the_other_change_is_shown(
    made: Flagged, visitors: Visitors, fresh: str
) -> None:
    olga, place = visitors["olga"], f"{HERE}/flags/{fresh}/edit"
    fields = Form(olga.get(place).text, place).fields
    made.service.flags.save(KEY, fresh, boolean(rules=[split("ramp", {"on": [[0, 5000]]})]), ROOT)
    made.service.flags.kill(KEY, fresh, "harm", ROOT)
    answer = olga.ask("POST", place, data={**fields, "description": "mine", "do": "save"})
    assert answer.status_code == 409
    said = text_of(answer)
    assert "on to 10 %, off to the rest on to 50 %, off to the rest" in said
    assert "Save mine nevertheless" in said
    fields = Form(answer.text, place).fields
    assert fields["description"] == "mine"
    assert olga.ask("POST", place, data={**fields, "do": "save"}).status_code == 303
    data = data_of(made, fresh)
    assert data["crossfade"]["description"] == "mine"
    assert data["crossfade"]["killed"]["why"] == "harm"


# --- versions and other environments


def test_a_flag_is_put_back_as_a_version_had_it(made: Flagged, visitors: Visitors, fresh: str) -> None:
    then = made.service.flags.serving(KEY).version
    made.service.flags.set_shares(KEY, fresh, "ramp", {"on": 9000}, ROOT)
    made.service.flags.switch(KEY, "banner", True, ROOT)
    page = visitors["vera"].get(f"{HERE}/flags/{fresh}")
    assert "on to 10 %, off to the rest \N{RIGHTWARDS ARROW} on to 90 %" in text_of(page)
    place = f"{HERE}/flags/{fresh}/versions/{then}"
    shown = visitors["olga"].get(place)
    assert "That changes 1 other flag too: banner" in text_of(shown)
    answer = send(visitors["olga"], place, what="flag")
    assert answer.status_code == 303
    assert data_of(made, fresh)["crossfade"]["rules"][0]["serve"]["split"]["shares"] == {"on": [[0, 1000]]}
    assert data_of(made, "banner")["state"] == "ENABLED"
    assert made.service.flags.versions(KEY)[0]["note"] == f"as in version {then}"
    fields = {"what": "all", "once": "0123456789abcdef"}
    assert visitors["olga"].post(place, fields, page=place).headers["location"] == f"{HERE}/flags"
    assert data_of(made, "banner")["state"] == "DISABLED"
    gone = f"{HERE}/flags/{fresh}/versions/1"
    assert "There was no" in text_of(visitors["olga"].get(gone))
    refused = visitors["olga"].post(gone, {"once": "0123456789abcdef"}, page=gone + "/../../edit")
    assert (refused.status_code, "had no flag" in text_of(refused)) == (409, True)


def test_a_flag_goes_to_another_environment_when_one_has_seen_what_changes(
    made: Flagged, visitors: Visitors, fresh: str
) -> None:
    place = f"{HERE}/flags/{fresh}/promote"
    shown = text_of(visitors["olga"].get(f"{place}?to=staging"))
    assert "the flag is not there is there" in shown
    answer = send(visitors["olga"], f"{place}?to=staging", place, note="works")
    assert answer.headers["location"] == f"/environments/{STAGING}/flags/{fresh}"
    assert data_of(made, fresh, STAGING) == data_of(made, fresh)
    assert "Nothing differs." in text_of(visitors["olga"].get(f"{place}?to=staging"))
    requires = text_of(visitors["olga"].get(f"{HERE}/flags/payments-eu/promote?to=guarded"))
    assert "What changes in guarded" in requires
    nowhere = visitors["olga"].get(f"{place}?to=nowhere")
    assert nowhere.status_code in (200, 404)
    assert "no other environment" in text_of(visitors["vera"].get(place))


# --- a second person's word


def test_a_change_that_wants_a_second_person_waits_for_one(made: Flagged, visitors: Visitors) -> None:
    olga, oskar = visitors["olga"], visitors["oskar"]
    place = f"/environments/{GUARDED}/flags/new-checkout"
    shown = olga.get(f"{place}/edit")
    assert "waits for somebody else with the role operator" in text_of(shown)
    assert "Ask for it" in shown.text
    answer = send(olga, f"{place}/edit", do="save", description="asked", note="why <b>not</b>")
    request = answer.headers["location"]
    assert request.startswith("/flag-requests/")
    assert "description" not in data_of(made, "new-checkout", GUARDED).get("crossfade", {})
    said = text_of(olga.get(request))
    assert "description of new-checkout" in said
    assert "why <b>not</b>" in said
    assert "somebody else has to approve it" in said
    assert olga.post(f"{request}/approve", page=request).status_code == 403
    assert "A change waits for an approval" in text_of(oskar.get(place))
    assert "1 waiting" in text_of(oskar.get("/flags"))
    assert oskar.post(f"{request}/approve", page=request).headers["location"] == place
    assert data_of(made, "new-checkout", GUARDED)["crossfade"]["description"] == "asked"
    assert "It was approved by oskar" in text_of(oskar.get(request))
    assert oskar.post(f"{request}/reject", page="/settings").status_code == 409
    again = send(olga, f"{place}/edit", do="save", description="asked again").headers["location"]
    assert olga.post(f"{again}/reject", {"why": "never mind"}, page=again).status_code == 303
    assert "never mind" in text_of(olga.get("/flag-requests"))
    assert visitors["vera"].get("/flag-requests/999").status_code == 404


def test_killing_waits_for_nobody(made: Flagged, visitors: Visitors) -> None:
    place = f"/environments/{GUARDED}/flags/new-checkout"
    assert send(visitors["olga"], place, f"{place}/orders/kill", why="now").status_code == 303
    assert data_of(made, "new-checkout", GUARDED)["crossfade"]["killed"]["why"] == "now"
    made.service.flags.revive(GUARDED, "new-checkout", ROOT)


# --- ramps


def test_a_ramp_is_begun_paused_and_taken_back(made: Flagged, visitors: Visitors, fresh: str) -> None:
    olga, place = visitors["olga"], f"{HERE}/flags/{fresh}"
    wrong = send(olga, f"{place}/ramp", steps="most of it")
    assert (wrong.status_code, "a share and how long" in text_of(wrong)) == (422, True)
    assert "most of it" in wrong.text
    falling = send(olga, f"{place}/ramp", steps="50 % 5m, 20 % 5m")
    assert (falling.status_code, "a ramp only rises" in text_of(falling)) == (422, True)
    assert send(olga, f"{place}/ramp", steps="20 % 5m, 100% 1h", variant="on").headers["location"] == place
    made.service.ramps.look()
    page = olga.get(place)
    said = text_of(page)
    assert "Ramps up: on to 20 %, off to 80 %" in said
    assert "Step 1 of 2: 20 % get on, the rest off" in said
    id = re.search(r"/ramps/(\d+)/orders/pause", page.text)
    assert id is not None
    ramp = f"/ramps/{id[1]}"
    assert f"{ramp}/orders/" not in visitors["vera"].get(place).text
    assert "It is ramping." in text_of(olga.get(f"{place}/ramp"))
    assert "stays at 20 % until it is resumed" in text_of(olga.get(f"{ramp}/orders/pause"))
    assert send(olga, f"{ramp}/orders/pause").headers["location"] == place
    assert "Paused: on stays at 20 %" in text_of(visitors["vera"].get(f"{ramp}/part", headers=SCRIPTED))
    assert "It is paused already." in text_of(olga.get(f"{ramp}/orders/pause"))
    assert visitors["vera"].post(f"{ramp}/orders/abort", {"once": "0123456789abcdef"}).status_code == 403
    assert send(olga, f"{ramp}/orders/abort").status_code == 303
    made.service.ramps.look()
    assert data_of(made, fresh)["crossfade"]["rules"][0]["serve"]["split"]["shares"] == {}
    assert "aborted by olga" in text_of(olga.get(ramp))
    assert olga.get(f"{ramp}/orders/explode").status_code == 404
    assert olga.get("/ramps/999").status_code == 404


# --- experiments


def test_an_experiment_is_made_started_and_concluded(made: Flagged, visitors: Visitors) -> None:
    olga, new = visitors["olga"], f"{HERE}/new-experiment"
    assert "Take it" in text_of(olga.get(new))
    page = f"{new}?flag=checkout-page"
    wrong = send(olga, page, new, name="page", **{"metric-0-event": "", "alpha": "many", "excluded": "yesterday"})
    said = text_of(wrong)
    assert wrong.status_code == 422
    for words in ("the event of at least one metric", "a number from", "from and until as"):
        assert words in said
    asked = {"name": "page", "hypothesis": HOSTILE[0], "metric-0-event": "order", "segments": "country"}
    made_ = send(olga, page, new, **asked, **{"metric-0-margin": "2", "metric-0-window": "24"})
    place = f"{HERE}/experiments/page"
    assert made_.headers["location"] == place, text_of(made_)
    plan = made.service.experiments.get(KEY, "page")["plan"]
    assert (plan["control"], plan["treatments"]) == ("long", ["short", "guided"])
    assert (plan["metrics"][0]["margin"], plan["metrics"][0]["window"]) == (0.02, 86_400.0)
    assert "has not been started" in text_of(visitors["vera"].get(place))
    assert olga.get(f"{place}/plots/course").status_code == 404
    assert send(olga, f"{place}/orders/start").headers["location"] == place
    assert "Nobody yet" in text_of(visitors["vera"].get(place))
    assert "It runs: stop it first." in text_of(olga.get(f"{place}/orders/remove"))
    excluded = send(olga, f"{place}/orders/exclude", excluded="2026-03-01T14:00 2026-03-01T15:00 away")
    assert excluded.status_code == 303
    assert made.service.experiments.get(KEY, "page")["plan"]["excluded"][0]["why"] == "away"
    assert send(olga, f"{place}/orders/stop", why="enough").status_code == 303
    assert send(olga, f"{place}/orders/conclude", ship="").status_code == 303
    assert "Concluded without shipping" in text_of(visitors["vera"].get(place))
    assert send(olga, f"{place}/orders/remove").headers["location"] == f"{HERE}/experiments"
    assert olga.get(place).status_code == 404


def test_results_say_who_wins_and_shipping_gives_it_to_everybody(made: Flagged, visitors: Visitors) -> None:
    made.trial("fair")
    place = f"{HERE}/experiments/fair"
    said = text_of(visitors["vera"].get(place))
    assert "Keep short: finished: short 45 %" in said
    assert "do not believe" not in said
    assert "exploratory" in said
    assert "Release by variant" in said
    assert "<img src=x" not in visitors["vera"].get(place).text
    for plot in ("course", "forest", "posterior", "segments"):
        picture = visitors["vera"].get(f"{place}/plots/{plot}")
        assert picture.headers["content-type"] == "image/svg+xml"
        assert "default-src 'none'" in picture.headers["content-security-policy"]
        assert picture.text.startswith("<svg")
    assert visitors["vera"].get(f"{place}/plots/everything").status_code == 404
    assert "<option selected>short</option>" in visitors["olga"].get(f"{place}/orders/conclude").text
    assert send(visitors["olga"], f"{place}/orders/conclude", ship="short").headers["location"] == place
    assert data_of(made, "checkout-page")["crossfade"]["rules"][0]["serve"] == "short"
    assert "short was shipped" in text_of(visitors["vera"].get(place))


def test_a_split_that_is_not_what_it_should_be_is_told_first(made: Flagged, visitors: Visitors) -> None:
    made.trial("unfair", fair=False)
    said = text_of(visitors["vera"].get(f"{HERE}/experiments/unfair"))
    assert "Nobody wins: the split is not what it should be" in said
    assert said.index("do not believe these results") < said.index("Metrics")


def test_a_viewer_cannot_order_anything_of_an_experiment(made: Flagged, visitors: Visitors) -> None:
    made.trial("looked at", start=False)
    place = f"{HERE}/experiments/looked%20at"
    assert "orders/start" not in visitors["vera"].get(place).text
    answer = visitors["vera"].post(f"{place}/orders/start", {"once": "0123456789abcdef"})
    assert (answer.status_code, "the role operator" in text_of(answer)) == (403, True)
    assert visitors["vera"].post(f"{HERE}/new-experiment", {"once": "0123456789abcdef"}).status_code == 403


# --- the frame


def test_json_that_is_typed_anywhere_is_no_way_in(visitors: Visitors) -> None:
    deep = '{"and":[' * 5000 + "true" + "]}" * 5000
    for text in (deep, json.dumps({"a": "x" * 9000}), "\u0000", '{"targetingKey": "\\ud800"}'):
        answer = visitors["vera"].get(f"{HERE}/flags/new-checkout?{urlencode({'context': text[:9990]})}")
        assert answer.status_code in (200, 422), text[:40]
        answer = visitors["vera"].post(f"{HERE}/flag-preview", {"name": "new-checkout", "contexts": text, "rest": text})
        assert answer.status_code in (200, 422), text[:40]
