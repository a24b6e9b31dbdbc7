"""Signature bases and MACs as RFC 9421 has them, and what no base is made of."""

from __future__ import annotations

import base64
import re

import pytest

from serving.signatures import (
    MAX_COMPONENTS,
    HeaderRefusedError,
    Parameters,
    Request,
    input_member,
    mac_of,
    members_of,
    parameters_of,
    signature_base,
)

# RFC 9421, B.2 (the request), B.1.5 (the secret), B.2.5 (what is signed of it, and how)
REQUEST = Request("POST", "/foo", "param=Value&Pet=dog", "example.com")
FIELDS = {
    "date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "content-type": "application/json",
    "content-digest": "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
    "content-length": "18",
}
SECRET = base64.b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
PARAMETERS = Parameters(("date", "@authority", "content-type"), {"created": 1618884473, "keyid": "test-shared-secret"})
MEMBER = '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
LINES = ('"date": Tue, 20 Apr 2021 02:07:55 GMT', '"@authority": example.com', '"content-type": application/json')
BASE = "\n".join([*LINES, f'"@signature-params": {MEMBER}'])


def test_the_base_and_the_mac_are_those_of_the_rfc() -> None:
    assert input_member(PARAMETERS) == MEMBER
    assert signature_base(PARAMETERS, REQUEST, FIELDS) == BASE
    assert base64.b64encode(mac_of(BASE, SECRET)) == b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="


def test_derived_components_are_those_of_the_rfc() -> None:  # B.2.3
    names = ("@method", "@path", "@query", "@authority")
    lines = signature_base(Parameters(names, {}), REQUEST._replace(authority="EXAMPLE.com"), {}).splitlines()
    assert lines[:4] == ['"@method": POST', '"@path": /foo', '"@query": ?param=Value&Pet=dog', '"@authority": example.com']


def test_an_absent_query_is_a_question_mark_and_an_empty_path_a_slash() -> None:
    lines = signature_base(Parameters(("@query", "@path"), {}), Request("GET", ""), {}).splitlines()
    assert lines[:2] == ['"@query": ?', '"@path": /']


def test_the_mac_hangs_on_every_line_of_the_base() -> None:
    for index in range(len(BASE)):
        changed = BASE[:index] + chr(ord(BASE[index]) ^ 1) + BASE[index + 1 :]
        assert mac_of(changed, SECRET) != mac_of(BASE, SECRET)


def test_blanks_around_a_field_do_not_count_and_those_within_do() -> None:
    def base_of(value: str) -> str:
        return signature_base(Parameters(("a",), {}), REQUEST, {"a": value})

    assert base_of(" \t1,  2 ") == base_of("1,  2") != base_of("1, 2")
    assert base_of("").splitlines()[0] == '"a": '


@pytest.mark.parametrize("name", ["@authority", "x-else", "@target-uri", "@status", "@signature-params"])
def test_what_the_request_lacks_has_no_base(name: str) -> None:
    message = f"covered component '{name}': must be in the request"
    with pytest.raises(HeaderRefusedError, match=re.escape(message)) as refused:
        signature_base(Parameters((name,), {}), Request("GET", "/"), {})
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize("value", ["a\nb", "a\n", "a\r\nb", "a\x00", "a\x7f", "ä", "a\x0b"])
@pytest.mark.parametrize("where", ["a", "@path", "@query", "@method", "@authority"])
def test_a_value_that_would_be_two_lines_has_no_base(value: str, where: str) -> None:
    request = REQUEST._replace(**{where[1:]: value}) if where.startswith("@") else REQUEST
    with pytest.raises(HeaderRefusedError, match="must be a line of visible ASCII"):
        signature_base(Parameters((where,), {}), request, {"a": value})


def test_parameters_are_read_as_they_are_written() -> None:
    read = members_of(f"other=(), sig-b25={MEMBER}", "signature-input")
    assert parameters_of(read["sig-b25"]) == PARAMETERS
    assert input_member(parameters_of(read["sig-b25"])) == MEMBER


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('a=("x" "x")', "stands there twice"),
        ('a=("x";sf)', "components must be texts without parameters"),
        ("a=(x)", "components must be texts without parameters"),
        ("a=(1)", "components must be texts without parameters"),
        ('a="x"', "must be a list"),
        ("a", "must be a list"),
        ("a=(" + " ".join(f'"x{n}"' for n in range(MAX_COMPONENTS + 1)) + ")", f"a list of at most {MAX_COMPONENTS} components"),
    ],
)
def test_components_are_plain_and_each_is_named_once(value: str, message: str) -> None:
    with pytest.raises(HeaderRefusedError, match=message) as refused:
        parameters_of(members_of(value, "signature-input")["a"])
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize("value", ["a=1, a=2", "b=1;p=1;p=1", "a=(x;p;p)", "a=", "a=1,", "A=1", "a=ä", "a=€", "a=1\n", ",", 'a="'])
def test_a_dictionary_with_a_key_twice_or_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(HeaderRefusedError) as refused:
        members_of(value, "signature")
    assert refused.value.reason == "malformed"
    assert str(refused.value).startswith("signature: ")


def test_as_many_components_as_may_be_are_read() -> None:
    names = tuple(f"x{n}" for n in range(MAX_COMPONENTS))
    value = input_member(Parameters(names, {}))
    assert parameters_of(members_of(f"a={value}", "signature-input")["a"]).components == names
