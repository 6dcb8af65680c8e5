"""The front where it cannot read a file of ours: all it needs has been imported before."""

from __future__ import annotations

import gzip
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import bcrypt
import pytest
import trustme

SHUT = Path(__file__).with_name("shut_hvtrace.py")
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily"


@pytest.fixture
def https(tmp_path):
    """(url, context, file of imports) of an exporter with TLS and a password."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    config = tmp_path / "web.yml"
    tls = "tls_server_config: {cert_file: pem, key_file: pem}"
    config.write_text(f"{tls}\nbasic_auth_users: {{me: {hashed}}}\n")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    command = [sys.executable, SHUT, tmp_path / "log", "exporter", "--listen", "127.0.0.1:0"]
    options = ["--web.config.file", config]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        url = re.search(r"(https://127\.0\.0\.1:\d+)/metrics", line)
        assert url, line + process.stderr.read()
        yield url[1], context, tmp_path / "log"
        process.terminate()
        assert process.stderr.read() == ""


def test_nothing_is_imported_once_it_serves(https):
    url, context, log = https
    for password, headers in (
        ("right", {}),
        ("right", {"Accept": f"{PROTOBUF};encoding=delimited"}),
        ("right", {"Accept": "application/openmetrics-text", "Accept-Encoding": "gzip"}),
        ("right", {"Accept-Encoding": "gzip"}),
        ("wrong", {}),
    ):
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        manager.add_password(None, url, "me", password, is_authenticated=True)
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPBasicAuthHandler(manager),
        )
        for path in ("/metrics", "/", "/-/healthy", "/none"):
            request = urllib.request.Request(url + path, headers=headers)
            with suppress(urllib.error.HTTPError), opener.open(request, timeout=30) as response:
                body = response.read()
                if path == "/metrics" and "Accept-Encoding" in headers:
                    assert b"hvtrace_up 1.0\n" in gzip.decompress(body)
    with suppress(urllib.error.URLError, ConnectionError):
        urllib.request.urlopen(url.replace("https", "http"), timeout=30)  # what TLS is not
    assert log.read_text() == ""
