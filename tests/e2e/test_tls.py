"""TLS on the server: refused without where it matters, checked before it is used, renewed without a restart."""

from __future__ import annotations

import shutil
import ssl
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossfade.bootstrap import doctor
from crossfade.bootstrap.settings import Given, settle
from crossfade.bootstrap.tls import Watched, context, examine, pinned, write_pin
from crossfade.domain.errors import Invalid, InvalidConfig, Refused
from tests.e2e.certificates import make
from tests.e2e.installation import Installation, until

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens there in these tests
DAY = 86400.0


class TestWhereItListens:
    def test_loopback_needs_nothing(self, tmp_path: Path) -> None:
        for host in ("127.0.0.1", "127.9.9.9", "::1"):
            assert not settle(tmp_path, Given(host=host)).plain_beyond_loopback

    @pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.7", "::ffff:192.0.2.7"])
    def test_beyond_loopback_is_refused_without_tls(self, tmp_path: Path, host: str) -> None:
        with pytest.raises(Refused, match="without TLS") as caught:
            settle(tmp_path, Given(host=host))
        assert "--tls-cert" in caught.value.hint

    def test_beyond_loopback_is_allowed_explicitly_and_known_as_such(self, tmp_path: Path) -> None:
        assert settle(tmp_path, Given(host=EVERYWHERE, allow_plain_http=True)).plain_beyond_loopback
        (tmp_path / "server.yaml").write_text(f"listen: {{host: {EVERYWHERE}}}\nallow_plain_http: true\n")
        assert settle(tmp_path).plain_beyond_loopback

    def test_the_command_line_wins_over_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "server.yaml").write_text(
            "listen: {host: 127.0.0.2, port: 7000}\ntls: {certificate: a.pem, key: b.pem}\n"
        )
        own = settle(tmp_path)
        assert (own.host, own.port, own.certificate) == ("127.0.0.2", 7000, tmp_path / "a.pem")
        given = settle(tmp_path, Given(port=8000, certificate=Path("/c"), key=Path("/k")))
        assert (given.host, given.port, given.certificate, given.key) == ("127.0.0.2", 8000, Path("/c"), Path("/k"))

    def test_a_certificate_without_its_key_is_a_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="--tls-key"):
            settle(tmp_path, Given(certificate=Path("/c")))

    def test_what_is_wrong_with_the_file_stops_the_server(self, tmp_path: Path) -> None:
        (tmp_path / "server.yaml").write_text("listen: {prot: 1}\n")
        with pytest.raises(InvalidConfig, match="did you mean port"):
            settle(tmp_path)

    def test_the_url_is_one_that_this_machine_can_ask(self, tmp_path: Path) -> None:
        for host, url in ((EVERYWHERE, "https://127.0.0.1:7"), ("::", "https://[::1]:7"), ("::1", "https://[::1]:7")):
            assert settle(tmp_path, Given(host=host, certificate=Path("/c"), key=Path("/k"))).url(7) == url


class TestCertificate:
    def test_it_tells_its_names_and_its_end(self, tmp_path: Path) -> None:
        found = examine(*make(tmp_path), time.time())
        assert found.names == ("crossfade.test", "127.0.0.1")
        assert found.describe(time.time()).endswith("(90 days)")
        assert not found.ends_soon(time.time())
        assert found.ends_soon(time.time() + 77 * DAY)

    def test_one_that_has_ended_or_not_begun_is_refused(self, tmp_path: Path) -> None:
        files = make(tmp_path)
        with pytest.raises(Refused, match="expired on"):
            examine(*files, time.time() + 91 * DAY)
        with pytest.raises(Refused, match="not valid before"):
            examine(*files, time.time() - 101 * DAY)

    def test_a_key_that_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        certificate, _ = make(tmp_path)
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(Refused, match="does not belong to"):
            examine(certificate, make(other)[1], time.time())

    def test_a_key_with_a_password_is_refused_instead_of_asked_for(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match="encrypted"):
            examine(*make(tmp_path, password="hunter2"), time.time())

    @pytest.mark.parametrize(
        "content", [b"", b"\0" * 100, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    )
    def test_what_is_no_certificate_is_refused(self, tmp_path: Path, content: bytes) -> None:
        certificate, key = make(tmp_path)
        certificate.write_bytes(content)
        with pytest.raises(Refused, match=r"cert\.pem is not a certificate"):
            examine(certificate, key, time.time())

    def test_files_that_cannot_be_read_are_named(self, tmp_path: Path) -> None:
        certificate, key = make(tmp_path)
        for files in ((tmp_path / "none", key), (certificate, tmp_path / "none"), (tmp_path, key)):
            with pytest.raises(Refused, match="cannot be read"):
                examine(*files, time.time())


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """A handshake in memory. Raises ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(back, there, server_hostname="127.0.0.1")
    other = server.wrap_bio(there, back, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(20):
        for end in (one, other):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return
    raise AssertionError


class TestTrust:
    def test_the_pinned_certificate_is_trusted_and_no_other(self, tmp_path: Path) -> None:
        mine, other = tmp_path / "mine", tmp_path / "other"
        mine.mkdir()
        other.mkdir()
        files, strange = make(mine), make(other)
        pin = tmp_path / "server.pem"
        write_pin(pin, examine(*files, time.time()))
        shake(context(*files), pinned(pin))
        with pytest.raises(ssl.SSLCertVerificationError):
            shake(context(*strange), pinned(pin))

    def test_old_versions_of_tls_are_not_spoken(self, tmp_path: Path) -> None:
        files = make(tmp_path)
        pin = tmp_path / "server.pem"
        write_pin(pin, examine(*files, time.time()))
        old = pinned(pin)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is the point
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            shake(context(*files), old)

    def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(self, tmp_path: Path) -> None:
        files = make(tmp_path)
        pin = tmp_path / "server.pem"
        first = examine(*files, time.time())
        write_pin(pin, first)
        watched = Watched(first, lambda fresh: write_pin(pin, fresh), time.time)
        watched.start()
        try:
            files[0].write_text("half of it")
            make(tmp_path, "renewed.test")
            until(lambda: pin.read_bytes() != first.pem, what="the renewed certificate")
            shake(watched.context, pinned(pin))
        finally:
            watched.stop()


class TestDoctor:
    @staticmethod
    def look(text: str) -> dict[str, Any]:
        state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
        try:
            (state / "server.yaml").write_text(text)
            return next(row for row in doctor(state) if row["check"] == "reach")
        finally:
            shutil.rmtree(state)

    def test_it_names_what_is_wrong_with_the_settings(self) -> None:
        row = self.look("listen: {prot: 1}\n")
        assert not row["ok"]
        assert "server.yaml:1: listen.prot" in row["found"]

    def test_it_speaks_of_what_others_can_read(self) -> None:
        row = self.look(f"listen: {{host: {EVERYWHERE}}}\nallow_plain_http: true\n")
        assert row["ok"] and row["warning"]
        assert "without TLS" in row["found"]

    def test_it_names_a_certificate_that_is_not_there(self) -> None:
        row = self.look("tls: {certificate: cert.pem, key: key.pem}\n")
        assert (row["ok"], "cert.pem cannot be read" in row["found"]) == (False, True)


def test_an_installation_under_tls_is_driven_by_its_own_cli() -> None:
    with Installation() as world:
        certificate, key = make(world.state)
        told = world.run("up", "--port", str(world.api_port), "--tls-cert", str(certificate), "--tls-key", str(key))
        assert f"https://127.0.0.1:{world.api_port}" in told.stdout
        assert world.json("status") == []

        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"https://127.0.0.1:{world.api_port}/healthz", trust_env=False)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{world.api_port}/healthz", trust_env=False)

        (row,) = (row for row in world.json("doctor") if row["check"] == "reach")
        assert row["ok"] and "crossfade.test" in row["found"] and "warning" not in row

        make(world.state, "renewed.test", days=7)
        until(lambda: "warning" in next(r for r in world.json("doctor") if r["check"] == "reach"), what="the warning")
        until(lambda: world.run("status", "--json", check=False).returncode == 0, what="the renewed certificate")
        assert key.read_text() not in (world.state / "logs" / "server.log").read_text()


def test_up_beyond_loopback_says_what_it_wants_and_starts_nothing() -> None:
    with Installation() as world:
        told = world.run("up", "--host", EVERYWHERE, "--port", str(world.api_port), check=False)
        assert (told.returncode, "without TLS" in told.stderr) == (1, True)
        assert not (world.state / "server.json").exists()
