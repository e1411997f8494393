"""What a program sees of urequests. One line for each fact; runs under MicroPython and CPython.

Started with the base URLs of three servers: the plain one, another plain one, one with TLS. The
first part of each path is the name of the fact, by which the servers know what to answer.
"""

import sys

if sys.implementation.name == "micropython":
    import requests as urequests  # what micropython-lib's urequests is an alias of
else:
    from agent import urequests

HERE, ELSEWHERE, TLS = sys.argv[1:4]
KINDS = (
    UnicodeError,
    OSError,
    NotImplementedError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    Exception,
)


def kind_of(error):
    """The class that a program would catch; with the number if it is an OSError."""
    for kind in KINDS:
        if isinstance(error, kind):
            break
    return f"OSError {error.errno}" if kind is OSError else kind.__name__


def fact(name, look, *args, **kwargs):
    """Print what ``look`` sees, or the error that it meets."""
    try:
        seen = repr(look(*args, **kwargs))
    except Exception as error:
        seen = kind_of(error)
    print(name + ": " + seen)


def answer(method, name, **kwargs):
    """Send a request; the answer's status and body."""
    path = kwargs.pop("path", name)
    response = urequests.request(method, HERE + "/" + path, **kwargs)
    seen = (response.status_code, response.content)
    response.close()
    return seen


def ask(name, **kwargs):
    fact(name, answer, "GET", name, **kwargs)


def tell(name, **kwargs):
    fact(name, answer, "POST", name, **kwargs)


def look(name, see, **kwargs):
    """Print what ``see`` makes of the answer to a GET."""

    def seen():
        response = urequests.get(HERE + "/" + name, **kwargs)
        try:
            return see(response)
        finally:
            response.close()

    fact(name, seen)


# The names that there are

NAMES = ("request", "get", "post", "put", "patch", "delete", "head", "Response")
fact("names", lambda: [hasattr(urequests, name) for name in NAMES])


def attributes(response):
    names = ("raw", "encoding", "status_code", "reason", "headers", "content", "text", "json")
    return [hasattr(response, name) for name in names]


look("attributes", attributes)

# Methods and bodies

for method in ("get", "post", "put", "patch", "delete", "head"):

    def short(name=method):
        response = getattr(urequests, name)(HERE + "/method-" + name)
        seen = (response.status_code, response.content)
        response.close()
        return seen

    fact("method-" + method, short)

fact("method-own", answer, "BREW", "method-own")
for method in ("PUT", "PATCH", "DELETE"):
    fact("body-" + method, answer, method, "body-" + method, data=b"x=1")

tell("data-bytes", data=b"\x00\xff\r\n")
tell("data-bytearray", data=bytearray(b"abc"))
tell("data-memoryview", data=memoryview(b"abc"))
tell("data-str", data="plain")
tell("data-str-beyond-ascii", data="gr\u00fcn")
tell("data-empty", data=b"")
tell("data-generator", data=(piece for piece in (b"one", b"three")))
tell("data-dict", data={"a": "b"})
tell("data-list", data=[b"a", b"b"])
tell("data-pairs", data=[("a", "b")])
tell("data-int", data=7)

tell("json-object", json={"events": [{"name": "tap", "params": {"id": 1}}]})
tell("json-values", json=[None, True, False, 0, -1, 1.5, 'a"b\\c\n'])
tell("json-empty", json={})
tell("json-zero", json=0)
tell("json-beyond-ascii", json={"name": "gr\u00fcn"})
tell("json-nan", json=float("nan"))
tell("json-and-data", json=1, data=b"x")
tell("json-own-type", json=1, headers={"Content-Type": "text/plain"})
tell("json-own-type-in-lower-case", json=1, headers={"content-type": "text/plain"})

# Arguments

tell("headers", headers={"X-Odd": "1", "x-lower": "two words"}, data=b"x")
tell("headers-host", headers={"Host": "kiosk.example"})
tell("headers-bytes", headers={"X-Odd": b"1"})
tell("headers-int", headers={"X-Odd": 1})
tell("headers-two-lines", headers={"X-Odd": "1\r\nX-More: 2"})

given = {"X-Odd": "1"}
tell("headers-stay", headers=given, json=1, auth=("a", "b"))
fact("headers-stayed", lambda: given)

tell("auth", auth=("kiosk", "pass:word"))
tell("auth-long", auth=("k" * 60, "p" * 60))
tell("auth-beyond-ascii", auth=("j\u00fcrgen", "p"))


def by_position():
    response = urequests.request(
        "POST", HERE + "/by-position", b"x", None, {"X-Odd": "1"}, None, ("a", "b"), 5
    )
    return response.status_code


fact("by-position", by_position)
fact("unknown-argument", urequests.get, HERE + "/unknown-argument", verify=False)
ask("stream", stream=True)
ask("timeout-kept", timeout=5)
ask("timeout-missed", timeout=0.2)
ask("timeout-dripping", timeout=1)

# URLs

fact("url-without-path", lambda: urequests.get(HERE).status_code)
ask("url-query", path="url-query?measurement_id=G-1&api_secret=s%20s&x=+")
fact("url-query-without-path", lambda: urequests.get(HERE + "?url-query").status_code)
ask("url-fragment", path="url-fragment#here")
ask("url-dots", path="url-dots/a/../b")
ask("url-beyond-ascii", path="url-beyond-ascii/gr\u00fcn")
ask("url-space", path="url-space/a b")
ask("url-escapes", path="url-escapes/%2F%c3%bc~!$'()*,;=:@")
fact("url-bad-port", urequests.get, "http://127.0.0.1:port/")
fact("url-without-scheme", urequests.get, "127.0.0.1/x")


def protocol():
    try:
        urequests.get("ftp://127.0.0.1/x")
    except ValueError as error:
        return str(error)


fact("url-ftp", protocol)

# Answers

for status in ("200", "201", "204", "400", "403", "404", "429", "500", "503"):
    ask("status-" + status)
ask("status-100-first")
ask("status-300-with-location")
ask("status-304-with-location")
ask("status-401-with-location")

look("reason", lambda response: response.reason)
look("reason-of-words", lambda response: response.reason)
look("reason-missing", lambda response: response.reason)
look("encoding", lambda response: response.encoding)


def headers_of(response):
    left_out = ("Date", "Server")
    return sorted(item for item in response.headers.items() if item[0] not in left_out)


look("answer-headers", headers_of)
look("answer-headers-type", lambda response: type(response.headers) is dict)
look("answer-headers-twice", headers_of)
look("answer-headers-spaces", headers_of)
look("answer-headers-utf8", lambda response: response.headers["X-Odd"].encode())
look("answer-headers-not-utf8", lambda response: response.headers["X-Odd"].encode())
look("answer-headers-case", lambda response: response.headers.get("X-ODD"))
look("parse-headers-false", lambda response: response.headers, parse_headers=False)

lines = []


def take(line, headers):
    if line.startswith(b"X-Odd:"):
        lines.append(line)
        headers["mine"] = str(line, "utf-8").strip()


look("parse-headers-own", lambda response: (response.headers, lines), parse_headers=take)

look("text", lambda response: response.text)
look("text-utf8", lambda response: response.text.encode())
look("text-not-utf8", lambda response: response.text)


def in_latin_1(response):
    response.encoding = "latin-1"
    return response.text.encode()


look("text-latin-1", in_latin_1)
look("json", lambda response: response.json())
look("json-bad", lambda response: response.json())
look("json-none", lambda response: response.json())
look("content-twice", lambda response: (response.content, response.content))
look("content-then-raw", lambda response: (response.content, response.raw))
look("content-gzip", lambda response: response.content)
look("content-large", lambda response: len(response.content))
look("content-too-large", lambda response: len(response.content))
ask("content-chunked")
ask("content-without-length")
ask("content-cut")
ask("head-cut")
ask("answer-none")
ask("answer-garbage")
look("raw-read", lambda response: [response.raw.read(4), response.raw.read(4), response.content])
look("raw-read-all", lambda response: response.raw.read())
look("raw-readline", lambda response: [response.raw.readline(), response.raw.readline()])


def into_buffer(response):
    buffer = bytearray(4)
    return (response.raw.readinto(buffer), buffer)


look("raw-readinto", into_buffer)


def closed_early(response):
    response.close()
    return (response.raw, response.status_code, response.close())


def content_after_close(response):
    response.close()
    return response.content


def content_kept_after_close(response):
    seen = response.content
    response.close()
    return (seen, response.content)


def raw_after_close(response):
    raw = response.raw
    response.close()
    return raw.read(1)


look("closed", closed_early)
look("closed-content", content_after_close)
look("closed-content-kept", content_kept_after_close)
look("closed-raw", raw_after_close)


def with_block(response):
    with response as same:
        return same is response


look("with", with_block)


def side_by_side():
    first = urequests.get(HERE + "/side-by-side/1")
    second = urequests.get(HERE + "/side-by-side/2")
    return (first.text, second.text, first.close(), second.close())


fact("side-by-side", side_by_side)
ask("cookie-set")
ask("cookie-later")

# Redirects

for status in ("301", "302", "303", "307", "308"):
    ask("get-" + status)
    tell("post-" + status, data=b"x=1")
fact("put-302", answer, "PUT", "put-302", data=b"x=1")
fact("head-302", answer, "HEAD", "head-302")
ask("get-with-body-302", data=b"x=1")
ask("redirect-without-location")
ask("redirect-relative")
ask("redirect-five-times")
ask("redirect-six-times")
ask("redirect-elsewhere", auth=("kiosk", "secret"), headers={"Host": "kiosk.example"})
ask("redirect-to-ftp")

# No connection, and TLS

fact("refused", urequests.get, "http://127.0.0.1:1/")
fact("tls-unknown-authority", lambda: urequests.get(TLS + "/tls").status_code)
