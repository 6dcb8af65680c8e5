"""TLS as the section tls_server_config of a web configuration file wants it.

Prometheus' exporter-toolkit has defined the section (docs/web-configuration.md there) by what Go's
crypto/tls can do. What Python's ssl cannot do is refused here, and so is what would be less safe
than it reads.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from hvtrace.errors import HvtraceError
from hvtrace.web.yamlfile import Section

KEYS = (
    *("cert", "cert_file", "key", "key_file", "client_ca", "client_ca_file"),
    *("client_auth_type", "client_allowed_sans", "min_version", "max_version"),
    *("cipher_suites", "prefer_server_cipher_suites", "curve_preferences"),
)

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
# Go's names (crypto/tls, CipherSuites) and OpenSSL's, up to TLS 1.2.
_CIPHERS = {
    f"TLS_ECDHE_{key}_WITH_{go}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for go, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
}
# They cannot be chosen in Go either: all are always there.
_CIPHERS_13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
# Those that SSLContext.set_ecdh_curve takes; Go has X25519, too.
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1"}
_VERIFIED = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED = {
    "RequestClientCert": "NoClientCert",
    "RequireAnyClientCert": "RequireAndVerifyClientCert",
    "RequireClientCert": "RequireAndVerifyClientCert",
}


def context(section: Section, read: Callable[[str], bytes]) -> ssl.SSLContext:
    """What new connections are made with, tried out once. Raises HvtraceError.

    `read` gives the content of a file that the section names.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.options |= ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(["http/1.1"])
    _set_versions(made, section)
    _set_ciphers(made, section)
    _set_curve(made, section)
    certificate, key = _pem(section, read, "cert"), _pem(section, read, "key")
    if not certificate or not key:
        missing = "key" if certificate else "cert"
        raise HvtraceError(f"tls_server_config has neither {missing}_file nor {missing}")
    _load(made, certificate, key)
    _shake_hands(made, certificate)
    _set_clients(made, section, _pem(section, read, "client_ca"))
    return made


def allowed_sans(section: Section) -> frozenset[str]:
    """Names of which a client's certificate must have one; empty: any will do.

    Raises HvtraceError.
    """
    names = frozenset(map(_plain, section.texts("client_allowed_sans")))
    kind = section.text("client_auth_type")
    if "client_allowed_sans" in section and kind != "RequireAndVerifyClientCert":
        raise HvtraceError("client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert")
    if "client_allowed_sans" in section and not names:
        raise HvtraceError("client_allowed_sans is empty: no client could connect")
    return names


def is_allowed(certificate: Mapping[str, Any] | None, sans: frozenset[str]) -> bool:
    """Whether a client's certificate, as getpeercert() gives it, has one of the names `sans`."""
    names = (certificate or {}).get("subjectAltName", ())
    return any(
        _plain(name) in sans
        for kind, name in names
        if kind in ("DNS", "email", "URI", "IP Address")
    )


def _plain(name: str) -> str:
    """An IP address in its usual form, which OpenSSL does not give; other names as they are."""
    with suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name


def _pem(section: Section, read: Callable[[str], bytes], name: str) -> bytes:
    """What stands in the section or in the file that it names; b"" where neither is there."""
    inline, path = section.text(name), section.text(f"{name}_file")
    if inline and path:
        raise HvtraceError(f"{name} and {name}_file are both there: give one of them")
    if not path:
        return inline.encode()
    if content := read(path):
        return content
    raise HvtraceError(f"{name}_file is empty")


def _set_versions(made: ssl.SSLContext, section: Section) -> None:
    chosen = []
    for key, default in (("min_version", "TLS12"), ("max_version", "TLS13")):
        name = section.text(key, default)
        if name not in _VERSIONS:
            old = name in ("TLS10", "TLS11")
            raise HvtraceError(
                f"{key} {name}: {'too old (RFC 8996)' if old else 'unknown'}, give TLS12 or TLS13"
            )
        chosen.append(_VERSIONS[name])
    made.minimum_version, made.maximum_version = chosen
    if chosen[0] > chosen[1]:
        raise HvtraceError("min_version is above max_version")


def _set_ciphers(made: ssl.SSLContext, section: Section) -> None:
    names = section.texts("cipher_suites")
    for name in names:
        if name not in _CIPHERS and name not in _CIPHERS_13:
            raise HvtraceError(f"cipher_suites: {name} is unknown, or not safe any more")
    if chosen := [_CIPHERS[name] for name in names if name in _CIPHERS]:
        made.set_ciphers(":".join(chosen))
    elif names and made.minimum_version < ssl.TLSVersion.TLSv1_3:
        raise HvtraceError("cipher_suites has none for TLS 1.2: add one, or min_version: TLS13")
    if not section.flag("prefer_server_cipher_suites", True):
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE


def _set_curve(made: ssl.SSLContext, section: Section) -> None:
    names = section.texts("curve_preferences")
    if len(names) > 1 or not _CURVES.keys() >= set(names):
        raise HvtraceError(
            f"curve_preferences: Python can set one of {', '.join(_CURVES)};"
            " without any, X25519 is there, too"
        )
    if names:
        made.set_ecdh_curve(_CURVES[names[0]])


def _set_clients(made: ssl.SSLContext, section: Section, authorities: bytes) -> None:
    kind = section.text("client_auth_type") or "NoClientCert"
    if kind in _UNVERIFIED:
        raise HvtraceError(
            f"client_auth_type {kind}: Python cannot take a certificate without verifying it,"
            f" give {_UNVERIFIED[kind]}"
        )
    if kind not in _VERIFIED:
        raise HvtraceError(f"client_auth_type {kind} is unknown, give {', '.join(_VERIFIED)}")
    made.verify_mode = _VERIFIED[kind]
    if (kind == "NoClientCert") == bool(authorities):
        raise HvtraceError(
            "client_ca_file needs client_auth_type: RequireAndVerifyClientCert"
            if authorities
            # Go would take those whom the system trusts: anybody on the Internet.
            else f"client_auth_type {kind} needs client_ca_file"
        )
    if authorities:
        try:
            made.load_verify_locations(cadata=_ascii(authorities))
        except ssl.SSLError:
            raise HvtraceError("client_ca_file has no certificate in it (PEM)") from None


def _load(made: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    try:
        with _path_of(certificate) as first, _path_of(key) as second:
            made.load_cert_chain(first, second, _no_password)
    except ssl.SSLError as error:
        why = {
            "KEY_VALUES_MISMATCH": "the key is not the certificate's",
            "KEY_TYPE_MISMATCH": "the key is not the certificate's",
            "EE_KEY_TOO_SMALL": "the key is too short",
            "CA_MD_TOO_WEAK": "the certificate's signature is too weak",
        }.get(error.reason or "", "give a certificate and its key, both in PEM")
        raise HvtraceError(f"cert_file and key_file cannot be used: {why}") from None


def _no_password() -> str:
    """Instead of OpenSSL's question on the terminal."""
    raise HvtraceError("key_file is encrypted: give one that is not")


def _ascii(pem: bytes) -> str:
    """Without what people write between certificates, which ssl refuses to skip."""
    return pem.decode("ascii", errors="ignore")


@contextmanager
def _path_of(content: bytes) -> Iterator[str]:
    """A path to `content`, because load_cert_chain takes nothing else; it is on no disk.

    So what is loaded is what was read. A process that has given up being root may open
    this path of its own, too (proc_fd_permission in fs/proc/fd.c).
    """
    with open(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _shake_hands(made: ssl.SSLContext, certificate: bytes) -> None:
    """Connect to ourselves, in memory: what no scrape would survive is said now.

    That is a certificate whose time is over or is not yet come, or is for no server;
    or one whose key fits none of the cipher suites.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=_ascii(certificate))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        made.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for end in ends * 3:  # three flights each are what the longest handshake takes
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise HvtraceError(f"cert_file: {error.verify_message}") from None
    except ssl.SSLError as error:
        why = (error.reason or str(error)).lower().replace("_", " ")
        raise HvtraceError(f"tls_server_config: no client could connect ({why})") from None
