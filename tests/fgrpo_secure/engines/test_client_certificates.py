"""Mutual TLS in front of everything else: who has no certificate gets no further, and both sides say so."""

import datetime
import socket
import ssl
import threading
import time
from contextlib import closing, suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fgrpo_secure.engines.https import listening
from fgrpo_secure.engines.https.dialer import Dismissed, NotReached
from fgrpo_secure.errors import UnusableInput
from tests.fgrpo_secure.engines.conftest import SIGNED, Wire, identity

NONE = "403 a client certificate is needed here: name network.certificate and network.key in client.toml"
OTHER = "it may not take the client certificate that network.certificate in client.toml names"
REFUSED, REFUSED_OTHER = (
    f"refused: {what}"
    for what in ("no client certificate", "a client certificate that none of --client-ca signed, or out of its time")
)


def certificate(folder, name, issuer=None):
    """(certificate, key) of a client, signed by `issuer`; or of an authority for such, signed by itself."""
    folder.mkdir(exist_ok=True)
    key, today = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, by = (own, key) if issuer is None else issuer
    made = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        .sign(by, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return paths, (own, key)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """The authority's own; a client's that it signed; one of the same name that another authority signed."""
    folder = tmp_path_factory.mktemp("certificates")
    (authority, by), (_, by_other) = (certificate(folder / name, "authority") for name in ("one", "other"))
    return authority[0], certificate(folder, "north", by)[0], certificate(folder / "other", "north", by_other)[0]


@pytest.fixture
def mutual(tmp_path, pem, certificates):
    made = Wire(tmp_path / "server", pem, client_ca=certificates[0])
    made.engine.invite(7, b"a model", SIGNED)
    yield made
    made.engine.close()


def waited_for(lines, sentence):
    deadline = time.monotonic() + 30
    while sentence not in lines and time.monotonic() < deadline:
        time.sleep(0.05)
    return sentence in lines


def test_a_client_with_a_certificate_is_asked_and_its_signature_is_checked_all_the_same(mutual, certificates):
    mutual.ask("share", {0: b"q"}, 60)
    with closing(mutual.dialer(certificate=certificates[1])) as line:
        assert line.next().payload == b"q"
    with closing(mutual.dialer(who=identity(77), certificate=certificates[1])) as line, pytest.raises(Dismissed):
        line.next()


def test_who_has_no_certificate_is_told_what_to_name_and_the_server_says_it_too(mutual):
    mutual.ask("share", {0: b"q"}, 60)
    with closing(mutual.dialer()) as line, pytest.raises(NotReached, match=NONE):
        line.next()
    assert waited_for(mutual.lines, REFUSED)
    assert mutual.counts.requests == 0, "a request came past the missing certificate"


def test_a_certificate_of_another_authority_is_none(mutual, certificates):
    mutual.ask("share", {0: b"q"}, 60)
    with closing(mutual.dialer(certificate=certificates[2])) as line, pytest.raises(NotReached, match=OTHER):
        line.next()
    assert waited_for(mutual.lines, REFUSED_OTHER)
    assert mutual.counts.requests == 0


def test_a_server_of_another_make_that_requires_one_is_understood(wire, pem, certificates):
    """In front there may be a proxy of the server's house, whose TLS gives the reason itself."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*pem)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(certificates[0])

    def serve(listens):
        while True:
            raw, _ = listens.accept()
            with suppress(OSError), closing(raw), tls.wrap_socket(raw, server_side=True):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listens:
        threading.Thread(target=serve, args=(listens,), daemon=True).start()
        wire.port = listens.getsockname()[1]
        for shown, sentence in ((None, "it asks for a client certificate; name"), (certificates[2], OTHER)):
            with closing(wire.dialer(certificate=shown)) as line, pytest.raises(NotReached, match=sentence):
                line.next()


def test_a_server_that_asks_for_none_takes_a_client_that_has_one(wire, certificates):
    wire.ask("share", {0: b"q"}, 60)
    with closing(wire.dialer(certificate=certificates[2])) as line:
        assert line.next().payload == b"q"


def test_certificates_that_cannot_be_used_are_one_sentence(wire, pem, certificates, tmp_path):
    _, (own, key), (_, other) = certificates
    encrypted = tmp_path / "encrypted.key"
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    closed = serialization.BestAvailableEncryption(b"a word")
    encrypted.write_bytes(secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed))
    for pair in ((own, other), (key, key), (tmp_path / "missing", key), (own, encrypted)):
        with pytest.raises(UnusableInput, match=r"network\.certificate .* are no certificate and its key"):
            wire.dialer(certificate=pair)
    for wrong in (key, tmp_path / "missing"):
        with pytest.raises(UnusableInput, match="holds no certificates in PEM form"):
            listening.server_context(*pem, wrong)
