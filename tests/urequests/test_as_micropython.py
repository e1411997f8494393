"""What the comparison with MicroPython showed to differ without intent, and is put right."""

import pytest

from agent import urequests
from tests.urequests.servers import serving


@pytest.fixture
def servers(tls):
    with serving(tls) as servers:
        yield servers
        urequests._client().close()  # else its kept connections hold up the servers' end


@pytest.fixture
def here(servers):
    return servers.urls[0]


@pytest.mark.parametrize("data", [{"a": "b"}, [b"a", b"b"], [("a", "b")], {b"a"}, 7, 1.5])
def test_data_is_never_made_a_form(servers, here, data):
    with pytest.raises(TypeError, match="cannot send the body: found"):
        urequests.post(f"{here}/data", data=data)
    assert servers.log.asked == []


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_bytes_of_every_kind_are_sent_as_they_are(servers, here, data):
    with urequests.post(f"{here}/data", data=data) as response:
        assert response.status_code == 200
    assert [asked.body for asked in servers.log.asked] == [b"abc"]


def test_headers_are_read_as_utf8_and_without_the_space_around_them(here):
    with urequests.get(f"{here}/answer-headers-utf8") as response:
        assert response.headers["X-Odd"] == "gr\u00fcn"
    with urequests.get(f"{here}/answer-headers-spaces") as response:
        found = {name: response.headers[name] for name in ("X-Odd", "X-Tight", "X-Empty")}
    assert found == {"X-Odd": "1", "X-Tight": "2", "X-Empty": ""}


def test_ones_own_function_gets_each_header_line_as_it_came(here):
    lines = []
    with urequests.get(
        f"{here}/answer-headers-utf8", parse_headers=lambda line, _: lines.append(line)
    ) as response:
        assert response.headers == {}
    with urequests.get(
        f"{here}/answer-headers-twice", parse_headers=lambda line, _: lines.append(line)
    ):
        pass
    assert lines == [
        b"Content-Length: 0\r\n", "X-Odd: gr\u00fcn\r\n".encode(),
        b"Content-Length: 0\r\n", b"X-Odd: 1\r\n", b"X-Odd: 2\r\n",
    ]  # fmt: skip


def test_ones_own_function_fills_the_headers(here):
    def take(line, headers):
        headers[line[:1]] = len(line)

    with urequests.get(f"{here}/answer-headers-case", parse_headers=take) as response:
        assert response.headers == {b"C": 19, b"X": 10}


def test_an_error_of_ones_own_function_leaves_no_connection_behind(here):
    def fail(line, headers):
        raise KeyError(line)

    with pytest.raises(KeyError):
        urequests.get(f"{here}/content-large", parse_headers=fail)
    with urequests.get(f"{here}/text") as response:
        assert response.text == "fine"
