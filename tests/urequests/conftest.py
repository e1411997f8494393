"""A certificate that nobody knows, for the servers of this directory."""

import ssl

import pytest
import trustme


@pytest.fixture(scope="session")
def tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context
