"""The web configuration file: what it says, what is refused, and how it is watched."""

from __future__ import annotations

import os
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from hvtrace.errors import HvtraceError
from hvtrace.web import webconfig
from hvtrace.web.webconfig import Config, RateLimit, Web, parse

HASH = "$2b$04$abcdefghijklmnopqrstuuVUwBnGYSm8W9eHzVCg2T7b3.1OTVBOm"
AUTHORITY = trustme.CA()


class Folder:
    """Files of a server: its certificate, its key, its authority's certificate."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.issue()
        AUTHORITY.cert_pem.write_to_path(str(path / "ca.pem"))

    def issue(self, **about) -> None:
        leaf = AUTHORITY.issue_cert("localhost", **about)
        leaf.cert_chain_pems[0].write_to_path(str(self.path / "cert.pem"))
        leaf.private_key_pem.write_to_path(str(self.path / "key.pem"))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def parse(self, text: str) -> Config:
        return parse(text.encode(), self.read)

    def tls(self, more: str = "") -> Config:
        return self.parse(tls(more))

    def write(self, text: str) -> Path:
        file = self.path / "web.yml"
        file.write_text(text)
        return file


def tls(more: str = "") -> str:
    lines = "".join(f"  {line}\n" for line in more.splitlines())
    return f"tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n{lines}"


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


class TestWhatItSays:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "# nothing\n",
            "{}",
            "basic_auth_users:\n",
            "http_server_config: {http2: false}",
            "rate_limit: {interval: 0, burst: 7}",
            'rate_limit: {interval: "0s"}',
        ],
    )
    def test_nothing(self, folder, text):
        assert folder.parse(text) == Config()

    def test_all_of_the_format(self, folder):
        """docs/web-configuration.md of exporter-toolkit, every key with a value that we take."""
        config = folder.tls(
            "client_auth_type: RequireAndVerifyClientCert\n"
            "client_ca_file: ca.pem\n"
            "client_allowed_sans: [prometheus.example, '2001:DB8::1']\n"
            "min_version: TLS12\n"
            "max_version: TLS13\n"
            "cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]\n"
            "prefer_server_cipher_suites: false\n"
            "curve_preferences: [CurveP256]"
        )
        assert config.tls.verify_mode == ssl.CERT_REQUIRED
        assert config.allowed_sans == {"prometheus.example", "2001:db8::1"}
        assert config.tls.minimum_version == ssl.TLSVersion.TLSv1_2
        assert config.tls.maximum_version == ssl.TLSVersion.TLSv1_3
        names = [one["name"] for one in config.tls.get_ciphers() if one["protocol"] == "TLSv1.2"]
        assert names == ["ECDHE-ECDSA-AES128-GCM-SHA256"]
        assert not config.tls.options & ssl.OP_CIPHER_SERVER_PREFERENCE
        rest = folder.parse(
            "http_server_config:\n"
            "  http2: true\n"
            "  headers:\n"
            "    Content-Security-Policy: default-src 'self'\n"
            "    X-Frame-Options: deny\n"
            "    X-Content-Type-Options: nosniff\n"
            "    X-XSS-Protection: ''\n"
            "    Strict-Transport-Security: max-age=7\n"
            f"basic_auth_users: {{alice: {HASH}, bob: {HASH.replace('2b', '2y')}}}\n"
            "rate_limit: {interval: 1m0.5s, burst: 20}\n"
        )
        assert rest.headers == (
            ("Content-Security-Policy", "default-src 'self'"),
            ("X-Frame-Options", "deny"),
            ("X-Content-Type-Options", "nosniff"),
            ("Strict-Transport-Security", "max-age=7"),
        )
        assert rest.users == {"alice": HASH.encode(), "bob": HASH.replace("2b", "2y").encode()}
        assert (rest.rate_limit._interval, rest.rate_limit._burst) == (60.5, 20)

    def test_defaults_of_tls(self, folder):
        config = folder.tls()
        assert config.tls.verify_mode == ssl.CERT_NONE
        assert config.tls.minimum_version == ssl.TLSVersion.TLSv1_2
        assert config.tls.options & ssl.OP_CIPHER_SERVER_PREFERENCE
        assert config.allowed_sans == frozenset()

    def test_certificates_in_the_file_itself(self, folder):
        def block(name):
            return f"|\n{folder.read(name).decode()}".replace("\n", "\n    ")

        config = folder.parse(
            f"tls_server_config:\n  cert: {block('cert.pem')}\n  key: {block('key.pem')}\n"
            f"  client_ca: {block('ca.pem')}\n  client_auth_type: VerifyClientCertIfGiven\n"
        )
        assert config.tls.verify_mode == ssl.CERT_OPTIONAL
        assert len(config.tls.get_ca_certs()) == 1

    def test_a_key_and_its_certificate_in_one_file_with_words_between(self, folder):
        both = b"# Sch\xc3\xb6ne Gr\xc3\xbc\xc3\x9fe\n" + folder.read("key.pem")
        (folder.path / "cert.pem").write_bytes(both + folder.read("cert.pem"))
        (folder.path / "key.pem").write_bytes(folder.read("cert.pem"))
        assert folder.tls().tls

    @pytest.mark.parametrize("curve", ["CurveP256", "CurveP384", "CurveP521"])
    def test_curves(self, folder, curve):
        assert folder.tls(f"curve_preferences: [{curve}]").tls

    @pytest.mark.parametrize("version", ["TLS12", "TLS13"])
    def test_versions(self, folder, version):
        config = folder.tls(f"min_version: {version}\nmax_version: {version}")
        assert config.tls.minimum_version == config.tls.maximum_version


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("tls_config: {}", 'unknown key "tls_config"'),
            ("- a", "the file must have keys and values"),
            ("a: b: c", "line 1: mapping values are not allowed here"),
            ("rate_limit: {}\nrate_limit: {}", 'line 2: "rate_limit" is there twice'),
            (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}", 'line 3: "a" is there twice'),
            ("a: &a [*a, !!python/name:os.system x]", "line 1: could not determine a constructor"),
            ("\0", "no YAML: unacceptable character #x0000"),
            ("1: 2", ": put 1 in quotes"),
            ("tls_server_config: yes", "tls_server_config must have keys and values"),
            ("tls_server_config:", "tls_server_config has neither cert_file nor cert"),
            ("tls_server_config: {certfile: a}", 'unknown key "certfile" in tls_server_config'),
            ("tls_server_config: {cert_file: 1}", "cert_file must be a text"),
            ("tls_server_config: {cert_file: cert.pem}", "has neither key_file nor key"),
            (
                "tls_server_config: {cert: a, cert_file: b}",
                "cert and cert_file are both there: give one of them",
            ),
            ("http_server_config: {http3: true}", 'unknown key "http3" in http_server_config'),
            ("http_server_config: {http2: 2}", "http2 must be true or false"),
            ("http_server_config: {headers: {X-Powered-By: us}}", 'headers: "X-Powered-By" cannot'),
            (
                "http_server_config: {headers: {X-Frame-Options: allow}}",
                "headers: X-Frame-Options can be deny or sameorigin",
            ),
            (
                'http_server_config: {headers: {X-XSS-Protection: "0\\r\\nA: b"}}',
                "headers: X-XSS-Protection has characters that no header can have",
            ),
            (
                "basic_auth_users: {a: secret}",
                "basic_auth_users: a: the password must be hashed by bcrypt, as by htpasswd -nB",
            ),
            ("basic_auth_users: {a: }", "basic_auth_users: a: the password must be hashed"),
            (f"basic_auth_users: {{7: {HASH}}}", "basic_auth_users: put 7 in quotes"),
            (f'basic_auth_users: {{"a:b": {HASH}}}', "no name may have a colon"),
            (
                f"basic_auth_users: {{a: {HASH.replace('$04', '$19')}}}",
                "basic_auth_users: a: a bcrypt cost of 19 is not between 4 and 18",
            ),
            ("rate_limit: {interval: soon, burst: 1}", "interval must be a time such as 500ms or"),
            ("rate_limit: {interval: 1s}", "rate_limit: with a burst below 1 no request would"),
            ("rate_limit: {interval: 1s, burst: yes}", "burst must be a whole number"),
            ("rate_limit: {interval: 1s, burst: 1.5}", "burst must be a whole number"),
        ],
    )
    def test_one_line_that_says_what(self, folder, text, problem):
        with pytest.raises(HvtraceError) as caught:
            folder.parse(text)
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("more", "problem"),
        [
            ("min_version: TLS11", "min_version TLS11: too old (RFC 8996), give TLS12 or TLS13"),
            ("max_version: TLS10", "max_version TLS10: too old (RFC 8996), give TLS12 or TLS13"),
            ("min_version: TLS14", "min_version TLS14: unknown, give TLS12 or TLS13"),
            ("min_version: TLS13\nmax_version: TLS12", "min_version is above max_version"),
            (
                "cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]",
                "cipher_suites: TLS_RSA_WITH_AES_128_CBC_SHA is unknown, or not safe any more",
            ),
            (
                "cipher_suites: [TLS_AES_128_GCM_SHA256]",
                "cipher_suites has none for TLS 1.2: add one, or min_version: TLS13",
            ),
            (
                "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\nmax_version: TLS12",
                "tls_server_config: no client could connect (no shared cipher)",
            ),
            ("cipher_suites: TLS", "cipher_suites must be a list of texts"),
            ("cipher_suites: [1]", "cipher_suites must be a list of texts"),
            ("curve_preferences: [P256]", "curve_preferences: Python can set one of CurveP256, "),
            ("curve_preferences: [X25519]", "one of CurveP256, CurveP384, CurveP521; without"),
            ("curve_preferences: [CurveP256, CurveP384]", "curve_preferences: Python can set one"),
            ("prefer_server_cipher_suites: 1", "prefer_server_cipher_suites must be true or false"),
            (
                "client_auth_type: RequestClientCert",
                "client_auth_type RequestClientCert: Python cannot take a certificate without"
                " verifying it, give NoClientCert",
            ),
            (
                "client_auth_type: RequireAnyClientCert\nclient_ca_file: ca.pem",
                "client_auth_type RequireAnyClientCert: Python cannot take a certificate without"
                " verifying it, give RequireAndVerifyClientCert",
            ),
            ("client_auth_type: Yes please", "client_auth_type Yes please is unknown, give NoC"),
            (
                "client_auth_type: RequireAndVerifyClientCert",
                "client_auth_type RequireAndVerifyClientCert needs client_ca_file",
            ),
            ("client_ca_file: ca.pem", "client_ca_file needs client_auth_type: RequireAndVerify"),
            (
                "client_auth_type: VerifyClientCertIfGiven\nclient_ca_file: key.pem",
                "client_ca_file has no certificate in it (PEM)",
            ),
            (
                "client_auth_type: VerifyClientCertIfGiven\nclient_ca_file: ca.pem\n"
                "client_allowed_sans: [a]",
                "client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert",
            ),
            (
                "client_auth_type: RequireAndVerifyClientCert\nclient_ca_file: ca.pem\n"
                "client_allowed_sans: []",
                "client_allowed_sans is empty: no client could connect",
            ),
        ],
    )
    def test_of_tls(self, folder, more, problem):
        with pytest.raises(HvtraceError, match=re.escape(problem)):
            folder.tls(more)

    def test_a_certificate_whose_time_is_over_or_to_come(self, folder):
        now = datetime.now(UTC)
        folder.issue(not_after=now - timedelta(seconds=7))
        with pytest.raises(HvtraceError, match=r"^cert_file: certificate has expired$"):
            folder.tls()
        folder.issue(not_before=now + timedelta(hours=7))
        with pytest.raises(HvtraceError, match=r"^cert_file: certificate is not yet valid$"):
            folder.tls()

    def test_files_that_are_no_certificate_and_its_key(self, folder):
        key, cert = folder.read("key.pem"), folder.read("cert.pem")
        folder.issue()
        (folder.path / "key.pem").write_bytes(key)
        with pytest.raises(HvtraceError, match=r"be used: the key is not the certificate's$"):
            folder.tls()
        for name, content in (
            ("key.pem", cert),
            ("key.pem", b"x"),
            ("cert.pem", key),
            ("cert.pem", cert[:300]),
        ):
            folder.issue()
            (folder.path / name).write_bytes(content)
            with pytest.raises(HvtraceError, match=r"give a certificate and its key, both in PEM$"):
                folder.tls()

    def test_an_empty_file(self, folder):
        (folder.path / "key.pem").write_bytes(b"")
        with pytest.raises(HvtraceError, match=r"^key_file is empty$"):
            folder.tls()

    def test_a_key_with_a_password_is_no_question_on_the_terminal(self, folder):
        from cryptography.hazmat.primitives import serialization as form

        key = form.load_pem_private_key(folder.read("key.pem"), None)
        locked = key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"x")
        )
        (folder.path / "key.pem").write_bytes(locked)
        with pytest.raises(HvtraceError, match=r"^key_file is encrypted: give one that is not$"):
            folder.tls()


class TestRateLimit:
    def test_so_many_at_once_and_then_one_for_each_interval(self):
        now = [100.0]
        limit = RateLimit(0.5, 3, lambda: now[0])
        assert [limit.allow() for _ in range(5)] == [True] * 3 + [False] * 2
        now[0] += 0.4
        assert not limit.allow()
        now[0] += 0.2
        assert [limit.allow() for _ in range(2)] == [True, False]
        now[0] += 1000
        assert [limit.allow() for _ in range(5)] == [True] * 3 + [False] * 2


class TestReading:
    def test_names_are_relative_to_the_file(self, folder, monkeypatch):
        monkeypatch.chdir("/")
        assert Web(folder.write(tls()), print).current().tls

    def test_what_cannot_be_read_is_one_line_at_the_start(self, folder):
        with pytest.raises(HvtraceError) as caught:
            Web(folder.path / "none.yml", print)
        where = folder.path / "none.yml"
        assert str(caught.value) == (
            f"web configuration {where}: cannot read {where}: No such file or directory"
        )
        file = folder.write(tls())
        (folder.path / "key.pem").unlink()
        with pytest.raises(HvtraceError, match=r"yml: cannot read .*/key.pem: No such file"):
            Web(file, print)

    def test_who_may_not_read_it_is_told_who_they_are(self, folder, monkeypatch):
        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        file = folder.write("")
        monkeypatch.setattr(webconfig.os, "open", refuse)
        monkeypatch.setattr(webconfig.os, "geteuid", lambda: 0)
        with pytest.raises(HvtraceError, match=r"cannot read .* as user root: Permission denied$"):
            Web(file, print)
        monkeypatch.setattr(webconfig.os, "geteuid", lambda: 4_000_000_001)
        with pytest.raises(HvtraceError, match=r" as user 4000000001: "):
            Web(file, print)

    def test_what_is_no_file(self, folder):
        os.mkfifo(folder.path / "pipe")
        (folder.path / "large").write_bytes(b" " * (1 << 20) + b"#")
        for name, problem in (("pipe", "is no file"), ("large", "larger than 1 MiB")):
            with pytest.raises(HvtraceError, match=problem):
                Web(folder.path / name, print)
        with pytest.raises(HvtraceError, match=r"is no file|Is a directory"):
            Web(folder.path, print)


class TestWatching:
    @pytest.fixture
    def said(self):
        return []

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        """Files are as old as they are; tests need not wait for them to be older."""
        monkeypatch.setattr(webconfig, "_TICK_NS", 0)

    def users(self, *names):
        return "basic_auth_users:\n" + "".join(f"  {name}: {HASH}\n" for name in names)

    def replace(self, file: Path, content: str) -> None:
        new = file.with_suffix(".new")
        new.write_text(content)
        new.rename(file)

    def test_unchanged_it_is_not_read_again(self, folder, said):
        web = Web(folder.write(tls()), said.append)
        assert web.current() is web.current()

    def test_only_touched_it_stays_what_it_is(self, folder, said):
        """Who waits for their next scrape need not connect again."""
        file = folder.write(tls())
        web = Web(file, said.append)
        old = web.current()
        (folder.path / "key.pem").touch()
        file.touch()
        assert web.current() is old

    def test_changed_it_is(self, folder, said):
        file = folder.write(self.users("a"))
        web = Web(file, said.append)
        self.replace(file, self.users("b"))
        assert set(web.current().users) == {"b"}
        self.replace(file, tls())
        assert web.current().tls
        assert said == []

    def test_so_is_a_certificate_that_it_names(self, folder, said):
        web = Web(folder.write(tls()), said.append)
        before = web.current().tls
        folder.issue()
        assert web.current().tls is not before
        assert web.current() is web.current()

    def test_by_way_of_a_link_too(self, folder, said):
        """Kubernetes and certbot change where a link leads."""
        for number in (1, 2):
            (folder.path / str(number)).mkdir()
            (folder.path / str(number) / "web.yml").write_text(self.users(f"user{number}"))
        link = folder.path / "now"
        link.symlink_to("1")
        web = Web(link / "web.yml", said.append)
        (folder.path / "then").symlink_to("2")
        (folder.path / "then").rename(link)
        assert set(web.current().users) == {"user2"}

    def test_twice_in_a_tick_of_the_clock(self, folder, said, monkeypatch):
        monkeypatch.setattr(webconfig, "_TICK_NS", 10**18)
        file = folder.write(self.users("a"))
        web = Web(file, said.append)
        stamp = webconfig._stamp(file)
        monkeypatch.setattr(webconfig, "_stamp", lambda path: stamp)
        file.write_text(self.users("b"))
        assert set(web.current().users) == {"b"}

    def test_while_it_is_broken_the_old_one_stays_and_one_line_says_so(self, folder, said):
        file = folder.write(self.users("a"))
        web = Web(file, said.append)
        old = web.current()
        self.replace(file, "nonsense: 1\n")
        assert [web.current() for _ in range(7)] == [old] * 7
        line = f'web configuration {file}: unknown key "nonsense"; what it was before stays'
        assert said == [line]
        self.replace(file, "nonsense: 2\n")
        assert web.current() is old
        assert said == [line]
        file.unlink()
        assert [web.current() for _ in range(7)] == [old] * 7
        assert len(said) == 2
        assert said[1].endswith("No such file or directory; what it was before stays")
        folder.write(self.users("c"))
        assert set(web.current().users) == set(web.current().users) == {"c"}
        assert said[2:] == [f"web configuration {file}: good again"]

    def test_a_key_that_comes_after_its_certificate(self, folder, said):
        web = Web(folder.write(tls()), said.append)
        old = web.current()
        before = folder.read("key.pem")
        folder.issue()
        after = folder.read("key.pem")
        (folder.path / "key.pem").write_bytes(before)
        assert web.current() is web.current() is old
        assert len(said) == 1
        assert "the key is not the certificate's; what it was before stays" in said[0]
        (folder.path / "key.pem").write_bytes(after)
        assert web.current() is not old
        assert len(said) == 2

    def test_a_file_that_comes_back(self, folder, said):
        web = Web(folder.write(tls()), said.append)
        old = web.current()
        key = folder.read("key.pem")
        (folder.path / "key.pem").unlink()
        assert web.current() is old
        (folder.path / "key.pem").write_bytes(key)
        assert web.current() is not old
        assert [line.rpartition(": ")[2] for line in said] == [
            "No such file or directory; what it was before stays",
            "good again",
        ]

    def test_whatever_goes_wrong_the_old_one_stays(self, folder, said, monkeypatch):
        file = folder.write("")
        web = Web(file, said.append)
        monkeypatch.setattr(webconfig, "parse", lambda *_: 1 / 0)
        self.replace(file, "{}")
        assert web.current() == Config()
        problem = "ZeroDivisionError('division by zero'); what it was before stays"
        assert said == [f"web configuration {file}: {problem}"]
