"""Files of TLS: what fits together, and what doesn't."""

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from sandglass.core import limits
from sandglass.errors import InvalidError, NotFoundError, PreconditionError, SandglassError
from sandglass.security.tls import (
    TlsFiles,
    load_tls,
    read_authorities,
    server_context,
    tls_files,
)
from tests.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def refusal(certificate: Path, key: Path, client_ca: Path | None = None) -> SandglassError:
    with pytest.raises(SandglassError) as caught:
        load_tls(TlsFiles(certificate, key, client_ca))
    assert "\n" not in caught.value.message
    return caught.value


def encrypted(pair: Pair) -> Path:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    path = pair.key.with_suffix(".encrypted")
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_get_at_is_refused_by_name_and_mode(
    authority: Authority, mode: int
) -> None:
    pair = authority.issue()
    pair.key.chmod(mode)

    error = refusal(pair.certificate, pair.key)

    assert isinstance(error, PreconditionError)
    assert error.message == (
        f"key file {pair.key} has mode {mode:04o}, which lets others at it; it must be 0600:"
        f" chmod 600 {pair.key}"
    )


def test_a_certificate_may_be_read_by_all_and_a_key_by_its_owner(authority: Authority) -> None:
    pair = authority.issue()
    pair.certificate.chmod(0o644)
    pair.key.chmod(0o400)

    assert load_tls(TlsFiles(pair.certificate, pair.key)).key == pair.key.read_bytes()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("k", "tls_key_file is given without tls_cert_file"),
        ("a", "tls_client_ca_file is given without tls_cert_file"),
        ("ka", "tls_key_file is given without tls_cert_file"),
        ("c", "tls_cert_file is given without tls_key_file"),
        ("ca", "tls_cert_file is given without tls_key_file"),
    ],
)
def test_settings_that_need_each_other_are_refused_alone(names: str, said: str) -> None:
    certificate, key, client_ca = (Path(each) if each in names else None for each in "cka")

    with pytest.raises(InvalidError, match=said):
        tls_files(certificate, key, client_ca)


def test_settings_that_fit_are_files_and_none_are_none() -> None:
    assert tls_files(None, None, None) is None
    assert tls_files(Path("c"), Path("k"), None) == TlsFiles(Path("c"), Path("k"))
    assert tls_files(Path("c"), Path("k"), Path("a")) == TlsFiles(
        Path("c"), Path("k"), Path("a")
    )


def test_a_certificate_its_key_and_authorities_are_read(authority: Authority) -> None:
    pair = authority.issue()

    parts = load_tls(TlsFiles(pair.certificate, pair.key, authority.file))

    assert parts.certificate == pair.certificate.read_bytes()
    assert parts.key == pair.key.read_bytes()
    assert parts.client_ca == authority.file.read_bytes()
    assert parts.ends.endswith(" GMT")
    assert "PRIVATE" not in repr(parts)


def test_the_same_content_comes_back_as_it_was(authority: Authority) -> None:
    pair = authority.issue()
    files = TlsFiles(pair.certificate, pair.key)
    parts = load_tls(files)

    assert load_tls(files, known=parts) is parts
    authority.issue()
    assert load_tls(files, known=parts) != parts


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")

    error = refusal(one.certificate, other.key)

    assert isinstance(error, InvalidError)
    assert error.message == (
        f"key file {other.key} does not belong to certificate file {one.certificate}"
    )


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [
        (timedelta(days=-9), timedelta(days=-1), "certificate has expired"),
        (timedelta(days=1), timedelta(days=9), "certificate is not yet valid"),
    ],
)
def test_a_certificate_out_of_its_time_is_refused(
    authority: Authority, begins: timedelta, ends: timedelta, said: str
) -> None:
    pair = authority.issue(begins=begins, ends=ends)

    error = refusal(pair.certificate, pair.key)

    assert isinstance(error, PreconditionError)
    assert error.message == f"certificate file {pair.certificate} cannot serve: {said}"


def test_files_that_hold_something_else_are_refused(
    authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue()
    (nonsense := tmp_path / "nonsense").write_text("nonsense")
    nonsense.chmod(0o600)
    pair.certificate.chmod(0o600)

    assert "holds no certificate in PEM" in refusal(nonsense, pair.key).message
    assert "holds no certificate in PEM" in refusal(pair.key, pair.key).message
    assert "can't be understood as PEM" in refusal(pair.certificate, nonsense).message
    assert "can't be understood as PEM" in refusal(pair.certificate, pair.certificate).message
    assert "is encrypted" in refusal(pair.certificate, encrypted(pair)).message
    assert "holds no certificate" in refusal(pair.certificate, pair.key, nonsense).message


def test_files_that_cannot_be_read_are_named(authority: Authority, tmp_path: Path) -> None:
    pair, none = authority.issue(), tmp_path / "none"

    for files in ((none, pair.key), (pair.certificate, none), (*vars(pair).values(), none)):
        error = refusal(*files)
        assert isinstance(error, NotFoundError)
        assert f"{none} can't be read: No such file or directory" in error.message


def test_a_file_of_the_largest_size_is_read_and_a_byte_more_is_not(
    authority: Authority,
) -> None:
    content = authority.file.read_bytes()
    filled = content + b"\n" * (limits.TLS_FILE_BYTES_MAX - len(content))

    authority.file.write_bytes(filled)
    assert read_authorities(authority.file) == filled
    authority.file.write_bytes(filled + b"\n")
    with pytest.raises(InvalidError, match="is larger than 1048576 bytes"):
        read_authorities(authority.file)


def test_a_listener_of_python_asks_for_certificates_where_authorities_are_given(
    authority: Authority,
) -> None:
    pair = authority.issue()

    plain = server_context(TlsFiles(pair.certificate, pair.key))
    mutual = server_context(TlsFiles(pair.certificate, pair.key, authority.file))

    assert (plain.verify_mode, mutual.verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)
    assert plain.minimum_version >= ssl.TLSVersion.TLSv1_2
