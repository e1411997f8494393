"""What MicroPython 1.28's ``requests`` and our ``urequests`` do differently, and why. All of it.

Rows of ``SEEN`` are what the program sees, rows of ``SENT`` what reaches the server: for each
request a line of method, target, headers and body. ``EVERY_REQUEST`` says what holds for all.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One intended difference."""

    theirs: str
    ours: str
    why: str


# Of these headers the comparison of single requests says nothing more.
EVERY_REQUEST = {
    "version": Row("HTTP/1.0", "HTTP/1.1", "a connection is kept for the next request"),
    "connection": Row("close", "", "a connection is kept for the next request"),
    "host": Row("127.0.0.1", "127.0.0.1:PORT", "RFC 9110: with the port, unless it is the usual"),
    "accept-encoding": Row("", "identity", "some servers compress for whoever does not decline"),
    "content-length": Row("", "0", "RFC 9110: for a method that could have a body, without one"),
}

LOGIN_PAGE = "a login page must not turn what was sent into a GET that answers 200"
DIALECT = "MicroPython stops at an answer that HTTP allows"
CUT = "half an answer is no answer"
PLAIN = "what was asked for stands, whatever the scheme, the host or the status"
CLOSED = "says that the response is closed; MicroPython stumbles over its own None"
ENCODED = "no server understands the raw form"
SAME_URL = "the same URL in its normal form"
BEFORE = "found before anything is sent"
NO_FORM = BEFORE + "; MicroPython breaks off within its request"
BYTES = "MicroPython counts characters, so that the server misses the last byte"

SEEN = {
    # Certificates
    "tls-unknown-authority": Row("200", "OSError 71", "certificates are always verified"),
    # Redirects
    **{
        f"post-{status}": Row("(200, b'landed')", f"({status}, b'moved')", LOGIN_PAGE)
        for status in (301, 302, 303, 307, 308)
    },
    "put-302": Row("(200, b'landed')", "(302, b'moved')", LOGIN_PAGE),
    "get-with-body-302": Row("(200, b'landed')", "(302, b'moved')", LOGIN_PAGE),
    "head-302": Row("(200, b'landed')", "(200, b'')", "HEAD stays HEAD"),
    "redirect-relative": Row("ValueError", "(200, b'landed')", DIALECT),
    "redirect-six-times": Row("(200, b'fine')", "OSError 40", "a circle has to end"),
    "redirect-to-ftp": Row("ValueError", "(302, b'moved')", PLAIN),
    "status-300-with-location": Row("NotImplementedError", "(300, b'moved')", DIALECT),
    "status-304-with-location": Row("NotImplementedError", "(304, b'')", DIALECT),
    "status-401-with-location": Row("NotImplementedError", "(401, b'moved')", DIALECT),
    # Time and size
    "timeout-dripping": Row(
        "(200, b'...............')",
        "OSError 110",
        "the timeout is for the whole, not for each read",
    ),
    "content-too-large": Row("1048577", "OSError 90", "memory is bounded"),
    # Answers
    "status-100-first": Row(
        "(100, b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nafter')",
        "(200, b'after')",
        "a 1xx comes before the answer and is none",
    ),
    "content-chunked": Row("ValueError", "(200, b'oneab')", DIALECT),
    "content-cut": Row("(200, b'four')", "OSError 104", CUT),
    "head-cut": Row("(200, b'')", "OSError 104", CUT),
    "answer-none": Row("ValueError", "OSError 104", "a broken connection is a network error"),
    "answer-garbage": Row("ValueError", "OSError 71", "what is not HTTP is a network error"),
    "reason-missing": Row("''", "b''", "a reason is bytes, always"),
    "answer-headers-twice": Row(
        "[('Content-Length', '0'), ('X-Odd', '2')]",
        "[('Content-Length', '0'), ('X-Odd', '1, 2')]",
        "RFC 9110: lines of one name are one list",
    ),
    "answer-headers-not-utf8": Row(
        "UnicodeError", "b'gr\\xef\\xbf\\xbdn'", "an odd byte in a header does not cost the answer"
    ),
    "parse-headers-false": Row("AttributeError", "None", "the attribute is always there"),
    "text-latin-1": Row("UnicodeError", "b'gr\\xc3\\xbcn'", "MicroPython knows only UTF-8"),
    # The end of a response
    "closed-content": Row("AttributeError", "ValueError", CLOSED),
    "closed-content-kept": Row("AttributeError", "(b'fine', b'fine')", "what was read stays"),
    "closed-raw": Row("OSError 9", "ValueError", "what Python's own closed files say"),
    "with": Row("AttributeError", "True", "the newest MicroPython has it too"),
    # Arguments
    "headers-int": Row("TypeError", "ValueError", BEFORE + ", like every header that cannot be"),
    "headers-two-lines": Row(
        "(200, b'fine')", "ValueError", "a value must not smuggle in a header of its own"
    ),
    "json-and-data": Row("AssertionError", "TypeError", BEFORE + ", with python -O too"),
    "json-nan": Row("(200, b'fine')", "ValueError", "NaN is not JSON"),
    "url-query-without-path": Row("ValueError", "200", "RFC 3986: the path is / then"),
    "url-space": Row("(400, b'malformed')", "(200, b'fine')", ENCODED),
}

SENT = {
    # Certificates
    "tls": Row("GET /tls", "", "certificates are always verified"),
    # Redirects
    **{
        f"post-{status}": Row(
            f"POST /post-{status} content-length=3 b'x=1'\n"
            f"GET /post-{status}/landed content-length=3",
            f"POST /post-{status} content-length=3 b'x=1'",
            LOGIN_PAGE,
        )
        for status in (301, 302, 303)
    },
    **{
        f"post-{status}": Row(
            f"POST /post-{status} content-length=3 b'x=1'\n"
            f"POST /post-{status}/landed content-length=3 b'x=1'",
            f"POST /post-{status} content-length=3 b'x=1'",
            LOGIN_PAGE,
        )
        for status in (307, 308)
    },
    "put-302": Row(
        "PUT /put-302 content-length=3 b'x=1'\nGET /put-302/landed content-length=3",
        "PUT /put-302 content-length=3 b'x=1'",
        LOGIN_PAGE,
    ),
    "get-with-body-302": Row(
        "GET /get-with-body-302 content-length=3 b'x=1'\n"
        "GET /get-with-body-302/landed content-length=3",
        "GET /get-with-body-302 content-length=3 b'x=1'",
        LOGIN_PAGE,
    ),
    "head-302": Row(
        "HEAD /head-302\nGET /head-302/landed",
        "HEAD /head-302\nHEAD /head-302/landed",
        "HEAD stays HEAD",
    ),
    "redirect-relative": Row(
        "GET /redirect-relative",
        "GET /redirect-relative\nGET /redirect-relative/landed",
        DIALECT,
    ),
    "redirect-six-times": Row(
        "\n".join("GET /redirect-six-times" + "/on" * step for step in range(7)),
        "\n".join("GET /redirect-six-times" + "/on" * step for step in range(6)),
        "a circle has to end",
    ),
    "redirect-elsewhere": Row(
        "GET /redirect-elsewhere authorization='Basic a2lvc2s6c2VjcmV0'\n"
        "GET /redirect-elsewhere/landed authorization='Basic a2lvc2s6c2VjcmV0'",
        "GET /redirect-elsewhere authorization='Basic a2lvc2s6c2VjcmV0'\n"
        "GET /redirect-elsewhere/landed",
        "a password is for one server",
    ),
    # Bodies
    "data-dict": Row("POST /data-dict content-length=1", "", NO_FORM),
    "data-list": Row("POST /data-list content-length=2", "", NO_FORM),
    "data-pairs": Row("POST /data-pairs content-length=1", "", NO_FORM),
    "data-int": Row("POST /data-int", "", NO_FORM),
    "data-str-beyond-ascii": Row(
        "POST /data-str-beyond-ascii content-length=4 b'gr\\xc3\\xbcn'",
        "POST /data-str-beyond-ascii content-length=5 b'gr\\xc3\\xbcn'",
        BYTES,
    ),
    "json-beyond-ascii": Row(
        "POST /json-beyond-ascii content-length=16 content-type='application/json' "
        'b\'{"name": "gr\\xc3\\xbcn"}\'',
        "POST /json-beyond-ascii content-length=21 content-type='application/json' "
        'b\'{"name": "gr\\\\u00fcn"}\'',
        BYTES,
    ),
    "json-and-data": Row("POST /json-and-data", "", NO_FORM),
    "json-nan": Row(
        "POST /json-nan content-length=3 content-type='application/json' b'nan'",
        "",
        "NaN is not JSON",
    ),
    # Headers
    "json-own-type-in-lower-case": Row(
        "POST /json-own-type-in-lower-case content-length=1 content-type='application/json' "
        "content-type='text/plain' b'1'",
        "POST /json-own-type-in-lower-case content-length=1 content-type='text/plain' b'1'",
        "names of headers have no case",
    ),
    "headers-int": Row("POST /headers-int x-odd=''", "", NO_FORM),
    "headers-two-lines": Row(
        "POST /headers-two-lines x-more='2' x-odd='1'",
        "",
        "a value must not smuggle in a header of its own",
    ),
    # URLs
    "": Row("GET /", "GET /\nGET /?url-query", "RFC 3986: the path is / then"),
    "url-beyond-ascii": Row(
        "GET /url-beyond-ascii/gr\u00c3\u00bcn", "GET /url-beyond-ascii/gr%C3%BCn", ENCODED
    ),
    "url-space": Row("", "GET /url-space/a%20b", ENCODED),
    "url-dots": Row("GET /url-dots/a/../b", "GET /url-dots/b", SAME_URL),
    "url-escapes": Row(
        "GET /url-escapes/%2F%c3%bc~!$'()*,;=:@", "GET /url-escapes/%2F%C3%BC~!$'()*,;=:@", SAME_URL
    ),
    "url-fragment": Row(
        "GET /url-fragment#here", "GET /url-fragment", "RFC 9110: a fragment stays with the client"
    ),
}
