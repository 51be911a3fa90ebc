"""Certificates for tests of TLS, made when they run: a CA, and who is certified by it."""

from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


class Authority:
    """A CA whose files go into `directory`; `.file` is its own certificate."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def certify(self, name: str, *addresses: str) -> tuple[Path, Path]:
        """A certificate for a common name, for the server at these addresses where there are any; and its key."""
        issued = self._authority.issue_cert(*(addresses or (f"{name}@example.com",)), common_name=name)
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        # PKCS 8, the one form that Java reads too.
        loaded = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        key.write_bytes(
            loaded.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key
