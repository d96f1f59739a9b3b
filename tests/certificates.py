"""Certificates for tests, made while they run."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """One that issues certificates, into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.file = folder / f"{name}.pem"
        self._name = name
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.file))

    def issue(
        self,
        name: str = "server",
        *identities: str,
        begins: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=100),
    ) -> Pair:
        """A certificate for `identities`: localhost and 127.0.0.1 without any."""
        now = datetime.now(UTC)
        issued = self._authority.issue_cert(
            *(identities or ("localhost", "127.0.0.1", "::1")),
            common_name=name,
            not_before=now + begins,
            not_after=now + ends,
        )
        pair = Pair(
            self.folder / f"{self._name}-{name}.pem", self.folder / f"{self._name}-{name}.key"
        )
        pair.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        pair.key.write_bytes(issued.private_key_pem.bytes())
        pair.key.chmod(0o600)
        return pair
