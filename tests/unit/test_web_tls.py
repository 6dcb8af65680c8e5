"""TLS as clients see it: good ones, and those with the wrong certificate, version or protocol."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
import trustme
from serving import TEXT, everything, serving, wait_until

from hvtrace.web import webconfig
from hvtrace.web.tls import is_allowed

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()
GET = b"GET /metrics HTTP/1.1\r\nHost: h\r\n"
BYE = b"Connection: close\r\n\r\n"
SAN = "prometheus.example"
BOTH = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
MUTUAL = "client_auth_type: RequireAndVerifyClientCert\nclient_ca_file: ca.pem"


@pytest.fixture(autouse=True)
def nothing_on_stderr(capfd, monkeypatch):
    monkeypatch.setattr(webconfig, "_TICK_NS", 0)
    yield
    assert capfd.readouterr().err == ""


@pytest.fixture
def write(tmp_path):
    """Writes a web configuration file with these lines on TLS, and its certificate."""
    numbers = count()

    def write(more: str = "", authority: trustme.CA = AUTHORITY):
        leaf = authority.issue_cert("localhost")
        number = next(numbers)  # the file names its own, so that all changes at once
        leaf.cert_chain_pems[0].write_to_path(str(tmp_path / f"cert{number}.pem"))
        leaf.private_key_pem.write_to_path(str(tmp_path / f"key{number}.pem"))
        AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        lines = "".join(f"  {line}\n" for line in more.splitlines())
        file = tmp_path / "web.yml"
        new = tmp_path / "web.new"
        pair = f"  cert_file: cert{number}.pem\n  key_file: key{number}.pem\n"
        new.write_text(f"tls_server_config:\n{pair}{lines}")
        new.rename(file)
        return file

    return write


def client(
    certificate: trustme.LeafCert | None = None,
    trusts: trustme.CA = AUTHORITY,
    version: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusts.configure_trust(context)
    if certificate:
        certificate.configure_cert(context)
    if version:
        context.minimum_version = context.maximum_version = version
    return context


class TestGood:
    @BOTH
    def test_a_scrape(self, write, version):
        with serving(web=write()) as served:
            assert served.server.url.startswith("https://127.0.0.1:")
            response, body = served.ask(context=client(version=version))
            assert (response.status, body) == (200, b"seven 7\n")
            assert served.refused == {}
            assert served.said == []

    def test_many_on_one_connection_and_a_large_one(self, write):
        body = b"0123456789abcdef" * 100_000
        with (
            serving(lambda accept: (TEXT, body), web=write()) as served,
            served.connect(client()) as one,
        ):
            assert one.version() == "TLSv1.3"
            for _ in range(3):
                one.sendall(GET + b"\r\n")
                answer = bytearray()
                while not answer.endswith(body):
                    answer += one.recv(1 << 20)
            one.sendall(GET + BYE)
            assert everything(one).endswith(body)
            assert one.unwrap()  # it has said good-bye

    def test_many_requests_at_once(self, write):
        with serving(web=write()) as served:
            answers = served.exchange((GET + b"\r\n") * 30 + GET + BYE, client())
        assert answers.count(b"seven 7\n") == 31

    def test_http_1_1_is_what_is_spoken(self, write):
        context = client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with serving(web=write()) as served, served.connect(context) as one:
            assert one.selected_alpn_protocol() == "http/1.1"

    def test_byte_by_byte(self, write):
        """However the network cuts it."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client().wrap_bio(to_client, to_server, server_hostname="localhost")
        with serving(web=write()) as served, served.connect() as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def do(step):
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        pass
                    finally:
                        for byte in to_server.read():
                            raw.sendall(bytes([byte]))
                    to_client.write(raw.recv(1))

            do(tls.do_handshake)
            do(lambda: tls.write(GET + BYE))
            assert do(lambda: tls.read(9)) == b"HTTP/1.1 "

    def test_the_suites_that_the_file_names(self, write):
        name = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
        file = write(f"cipher_suites: [{name}]\nmax_version: TLS12\ncurve_preferences: [CurveP384]")
        with serving(web=file) as served:
            with served.connect(client()) as one:
                assert one.cipher()[:2] == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2")
            other = client()
            other.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
            with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                served.connect(other)


class TestClientCertificates:
    GOOD = AUTHORITY.issue_cert(SAN, "2001:db8::1", "prometheus@example.org")

    @BOTH
    def test_the_right_one(self, write, version):
        with serving(web=write(MUTUAL)) as served:
            response, _ = served.ask(context=client(self.GOOD, version=version))
            assert response.status == 200
            assert served.refused == {}

    @BOTH
    @pytest.mark.parametrize(
        ("certificate", "alert"),
        [
            (None, "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"),
            (STRANGER.issue_cert(SAN), "UNKNOWN_CA"),
            (
                AUTHORITY.issue_cert(SAN, not_after=datetime.now(UTC) - timedelta(seconds=7)),
                "CERTIFICATE_EXPIRED",
            ),
        ],
    )
    def test_a_wrong_one_gets_nothing_and_is_told_why(self, write, certificate, alert, version):
        """The alert is what an operator sees of it in Prometheus."""
        with serving(web=write(MUTUAL)) as served:
            with pytest.raises(ssl.SSLError, match=alert):
                served.exchange(GET + BYE, client(certificate, version=version))
            wait_until(lambda: served.refused == {"tls": 1})
            assert served.ask(context=client(self.GOOD))[0].status == 200

    def test_one_that_is_checked_where_it_is_given(self, write):
        file = write(MUTUAL.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"))
        with serving(web=file) as served:
            assert served.ask(context=client())[0].status == 200
            assert served.ask(context=client(self.GOOD))[0].status == 200
            with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
                served.exchange(GET + BYE, client(STRANGER.issue_cert(SAN)))

    @pytest.mark.parametrize(
        "name", [SAN, "2001:DB8:0:0:0:0:0:1", "2001:db8::1", "prometheus@example.org"]
    )
    def test_one_with_an_allowed_name(self, write, name):
        with serving(web=write(f"{MUTUAL}\nclient_allowed_sans: [x, '{name}']")) as served:
            assert served.ask(context=client(self.GOOD))[0].status == 200

    def test_one_without(self, write):
        file = write(f"{MUTUAL}\nclient_allowed_sans: [other.example, '2001:db8::2', example]")
        with serving(web=file) as served:
            assert served.exchange(GET + BYE, client(self.GOOD)) == b""
            assert served.refused == {"tls": 1}

    def test_names_of_all_kinds(self):
        kinds = ("DNS", "a"), ("email", "b"), ("URI", "c"), ("IP Address", "0:0:0:0:0:0:0:1")
        certificate = {"subjectAltName": (*kinds, ("DirName", "d"))}
        for name in ("a", "b", "c", "::1"):
            assert is_allowed(certificate, frozenset({name}))
        for name in ("d", "A", ""):
            assert not is_allowed(certificate, frozenset({name}))
        assert not is_allowed(None, frozenset("a"))
        assert not is_allowed({}, frozenset("a"))


class TestBad:
    @pytest.fixture
    def served(self, write):
        with serving(web=write()) as served:
            yield served
            assert served.ask(context=client())[0].status == 200

    def test_a_client_that_does_not_trust_us(self, served):
        with pytest.raises(ssl.SSLCertVerificationError):
            served.ask(context=client(trusts=STRANGER))
        wait_until(lambda: served.refused == {"tls": 1})

    def test_plain_http_is_told_so(self, served):
        answer = served.exchange(GET + BYE)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"\r\n\r\nthis port is for HTTPS\n")
        assert served.refused == {"malformed": 1}

    def test_old_versions_are_told_so(self, served):
        hello = bytes.fromhex(  # of TLS 1.1 (RFC 4346): random, no session, one suite, no extension
            "16 0301 002d 01 000029 0302" + "07" * 32 + "00 0002 002f 01 00"
        )
        answer = served.exchange(hello)
        assert re.fullmatch(rb"\x15\x03.\x00\x02\x02\x46", answer, re.DOTALL)  # protocol_version
        assert served.refused == {"tls": 1}

    @pytest.mark.parametrize("garbage", [b"\x16", b"\x16\x03\x01\x40\x00" + b"\0" * 17_000])
    def test_garbage_that_looks_like_tls(self, served, garbage):
        served.exchange(garbage)
        assert served.refused.keys() <= {"tls"}

    @pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00"])
    def test_a_client_that_leaves_before_its_hands_are_shaken(self, served, said):
        for linger in (0, 1):
            one = served.connect()
            one.sendall(said)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
            one.close()
        assert served.ask(context=client())[0].status == 200  # after all of these
        wait_until(lambda: not served.server._connections)
        assert served.refused == {}

    def test_who_leaves_without_good_bye(self, served):
        one = served.connect(client())
        one.sendall(GET + b"\r\n")
        assert one.recv(1000)
        socket.socket.shutdown(one, socket.SHUT_RDWR)
        one.close()
        wait_until(lambda: not served.server._connections)
        assert served.refused == {}

    def test_garbage_within(self, served):
        answer = served.exchange(b"nonsense\r\n\r\n", client())
        assert answer.startswith(b"HTTP/1.1 400 ")

    @pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
    def test_half_a_handshake_is_hung_up_on(self, write, said):
        with serving(web=write(), request_seconds=0.05) as served, served.connect() as one:
            one.sendall(said)
            assert everything(one) == b""
            assert served.refused == {"time": 1}

    def test_a_client_that_does_not_read_its_answer(self, write):
        body = b"x" * 20_000_000
        with (
            serving(lambda accept: (TEXT, body), web=write(), answer_seconds=0.5) as served,
            served.connect(client()) as one,
        ):
            one.sendall(GET + b"\r\n")
            wait_until(lambda: served.refused == {"time": 1})

    def test_nor_a_good_bye(self, write):
        """Our own good-bye must not wait for somebody who never reads."""
        with serving(web=write(), idle_seconds=0.02, closing_seconds=0.02) as served:
            one = served.connect(client())
            one.sendall(GET + b"\r\n")
            wait_until(lambda: not served.server._connections)
            one.close()


class TestChanged:
    def test_new_connections_get_the_new_certificate(self, write):
        with serving(web=write()) as served:
            assert served.ask(context=client())[0].status == 200
            write(authority=STRANGER)
            assert served.ask(context=client(trusts=STRANGER))[0].status == 200
            assert served.said == []

    def test_old_connections_are_not_served_by_old_rules(self, write):
        with serving(web=write()) as served:
            one = served.connect(client())
            one.sendall(GET + b"\r\n")
            assert one.recv(1000)
            write(MUTUAL)
            one.sendall(GET + b"\r\n")
            assert everything(one) == b""
            with pytest.raises(ssl.SSLError):
                served.exchange(GET + BYE, client())
            good = AUTHORITY.issue_cert(SAN)
            assert served.ask(context=client(good))[0].status == 200
            one.close()

    def test_a_broken_one_changes_nothing_and_is_one_line(self, write, tmp_path):
        with serving(web=write()) as served:
            good = (tmp_path / "key0.pem").rename(tmp_path / "good.pem")
            (tmp_path / "bad.pem").write_bytes(b"oh")
            (tmp_path / "bad.pem").rename(tmp_path / "key0.pem")
            for _ in range(7):
                assert served.ask(context=client())[0].status == 200
            assert len(served.said) == 1
            good.rename(tmp_path / "key0.pem")
            for _ in range(7):
                assert served.ask(context=client())[0].status == 200
            assert served.said[1:] == [f"web configuration {tmp_path}/web.yml: good again"]

    def test_tls_may_come_and_go(self, write, tmp_path):
        file = tmp_path / "web.yml"
        file.write_text("")
        with serving(web=file) as served:
            assert served.server.url.startswith("http:")
            assert served.ask()[0].status == 200
            write()
            assert served.server.url.startswith("https:")
            assert served.ask(context=client())[0].status == 200
            assert served.ask()[0].status == 400
            file.write_text("{}")
            assert served.ask()[0].status == 200
