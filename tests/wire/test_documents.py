from __future__ import annotations

import datetime as dt
import json
import math
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from rpcsim.errors import LocalProtocolError, RemoteProtocolError
from rpcsim.wire import (
    CLASSIC,
    MAX_DOCUMENT,
    MODERN,
    InvalidRequest,
    Invocation,
    ReplyDocument,
    RequestDocument,
    Result,
    Unencodable,
    decode_reply,
    decode_request,
    encode_document,
    request_document,
)

SN = "5b0c2f7e-7c0e-4b0f-9b1c-0f6a0b8d9a11"


def request(*args: Any, version: str = CLASSIC, **kws: Any) -> RequestDocument:
    return request_document(
        sn=SN,
        version=version,
        sender=None,
        target="node-7",
        replyto="tasks",
        request=Invocation(classname="Dog", method="wag", args=args, kws=kws),
    )


def test_a_classic_request_has_the_documented_keys() -> None:
    """The classic example of gofer.md 16.1 is written key by key."""
    document = request_document(
        sn=SN,
        version=CLASSIC,
        sender="c7c2",
        target="node-7",
        replyto="tasks",
        user_data={"job": 42},
        window={"begin": "2030-01-02T10:00:00", "hours": 1},
        request=Invocation(
            classname="Dog",
            method="wag",
            args=(3,),
            kws={"slow": True},
            cntr=(["rover"], {"age": 10}),
        ),
    )
    assert json.loads(encode_document(document)) == {
        "sn": SN,
        "version": "0.4",
        "routing": ["c7c2", "node-7"],
        "replyto": "tasks",
        "any": {"job": 42},
        "window": {"begin": "2030-01-02T10:00:00", "hours": 1},
        "secret": None,
        "pam": None,
        "request": {
            "classname": "Dog",
            "method": "wag",
            "args": [3],
            "kws": {"slow": True},
            "cntr": [["rover"], {"age": 10}],
        },
    }


def test_a_modern_request_carries_data_and_both_keyword_keys() -> None:
    """Modern peers read `data`, and `kwargs` where every proxy writes `kws`."""
    body = json.loads(encode_document(request(version=MODERN, slow=True)))
    assert "any" not in body
    assert body["data"] is None
    assert body["request"]["kws"] == body["request"]["kwargs"] == {"slow": True}


def test_statuses_and_results_have_only_their_own_keys() -> None:
    """A started document and a success carry exactly the keys of gofer.md 16.2."""
    started = ReplyDocument(sn=SN, routing=("jortel", "tasks"), any=1, status="started")
    assert json.loads(encode_document(started)) == {
        "sn": SN,
        "version": "0.4",
        "routing": ["jortel", "tasks"],
        "any": 1,
        "status": "started",
    }
    done = ReplyDocument(sn=SN, any=None, result=Result(retval=None))
    assert json.loads(encode_document(done))["result"] == {"retval": None}
    assert decode_reply(encode_document(done)) == done


class Size(IntEnum):
    BIG = 3


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ((1, (2,)), [1, [2]]),
        ({1: "a", None: "c", 1.5: "d"}, {"1": "a", "null": "c", "1.5": "d"}),
        (Size.BIG, 3),
        (2**80, 2**80),
        ("é\u2028\0", "é\u2028\0"),
    ],
)
def test_values_arrive_as_json_carries_them(value: Any, arrives: Any) -> None:
    """Tuples become lists and keys text, as the json module has it."""
    document = decode_request(encode_document(request(value)))
    assert document.request.args == [arrives]


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ((1, {"when": dt.datetime(2030, 1, 2, tzinfo=dt.UTC)}), "args[1]['when']"),
        (([1, b"raw"],), "args[0][1]: bytes"),
        (({1, 2},), "args[0]: set"),
        ((math.nan,), "args[0]: float (nan)"),
        (([math.inf],), "args[0][0]: float (inf)"),
        (({(1, 2): 3},), "args[0]: dict with a key of type tuple"),
        (("\ud800",), "args[0]: str with a lone surrogate"),
        (({"\ud800": 1},), "args[0] key: str with a lone surrogate"),
    ],
)
def test_what_json_cannot_carry_is_named_by_its_place(args: Any, place: Any) -> None:
    """The error says which argument, and is both documented kinds of error."""
    with pytest.raises(Unencodable) as caught:
        encode_document(request(*args))
    assert place in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, LocalProtocolError)


def test_endless_and_deep_values_are_refused() -> None:
    """A list that contains itself, or nests too deeply, is an error and no crash."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(Unencodable, match="args: nested deeper"):
        encode_document(request(endless))
    circle: dict[Any, Any] = {1: Size.BIG}
    circle[2] = circle
    with pytest.raises(Unencodable):
        encode_document(request(circle))


def test_a_document_over_the_limit_is_refused_on_both_sides() -> None:
    """One mebibyte is the limit, told with the size found."""
    with pytest.raises(LocalProtocolError, match="1048576"):
        encode_document(request("x" * MAX_DOCUMENT))
    with pytest.raises(RemoteProtocolError, match="1048577 bytes"):
        decode_request(b" " * (MAX_DOCUMENT + 1))


@pytest.mark.parametrize("body", [b"", b"\xff", b'"\xff"', b"[", b"nil", b"[" * 5000])
def test_what_is_not_json_cannot_be_answered(body: Any) -> None:
    """There is no address in it, so it is no `InvalidRequest`."""
    for decode in (decode_request, decode_reply):
        with pytest.raises(RemoteProtocolError) as caught:
            decode(body)
        assert not isinstance(caught.value, InvalidRequest)


@pytest.mark.parametrize("body", [b"[]", b"3", b'"text"', b"null"])
def test_json_that_is_no_object_is_no_document(body: Any) -> None:
    """Only objects are documents."""
    with pytest.raises(RemoteProtocolError, match="document"):
        decode_request(body)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"request": None},
        {"request": {"classname": "Dog"}},
        {"request": {"classname": "", "method": "bark"}},
        {"request": {"classname": "Dog", "method": "bark", "args": {}}},
        {"request": {"classname": "Dog", "method": "bark", "cntr": [1]}},
        {"request": {"classname": "Dog", "method": "bark", "cntr": [{}, []]}},
        {
            "request": {
                "classname": "D",
                "method": "b",
                "kws": {"a": 1},
                "kwargs": {"a": 2},
            }
        },
    ],
)
def test_an_object_that_is_no_request_tells_whom_to_answer(wrong: Any) -> None:
    """Serial number, address and user data survive, so it can be rejected."""
    body = {"sn": SN, "version": "0.4", "replyto": "tasks", "any": 7, **wrong}
    with pytest.raises(InvalidRequest) as caught:
        decode_request(json.dumps(body).encode())
    error = caught.value
    assert (error.sn, error.version, error.replyto) == (SN, "0.4", "tasks")
    assert error.user_data == 7


def test_null_and_missing_are_equal_and_unknown_keys_are_ignored() -> None:
    """A peer may leave out, null or add keys."""
    body = {
        "sn": SN,
        "version": "0.4",
        "later": [1],
        "any": None,
        "data": {"x": 1},
        "request": {
            "classname": "Dog",
            "method": "bark",
            "kws": None,
            "kwargs": {"a": 1},
            "cntr": [None, None],
            "extra": 1,
        },
    }
    document = decode_request(json.dumps(body).encode())
    assert document.replyto is None
    assert document.user_data == {"x": 1}
    assert document.request.keywords == {"a": 1}
    assert document.request.constructor == ((), {})
    assert document.request.args is None


def test_a_reply_is_a_status_or_a_result() -> None:
    """A document that is neither is refused; a null retval is a success."""
    wrongs: list[dict[str, Any]] = [
        {},
        {"status": None},
        {"result": {}},
        {"result": 3},
        {"status": ""},
    ]
    for wrong in wrongs:
        with pytest.raises(RemoteProtocolError):
            decode_reply(json.dumps({"sn": SN, **wrong}).encode())
    done = decode_reply(json.dumps({"sn": SN, "result": {"retval": None}}).encode())
    assert isinstance(done.result, Result)
    assert done.result.retval is None
    assert done.result.exval is UNSET


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(args=st.lists(values), kws=st.dictionaries(st.text(), values), data=values)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_every_json_value_makes_the_round_trip(args: Any, kws: Any, data: Any) -> None:
    """What JSON can carry arrives equal."""
    document = RequestDocument(
        sn=SN,
        version=CLASSIC,
        any=data,
        request=Invocation(classname="Dog", method="wag", args=args, kws=kws),
    )
    assert decode_request(encode_document(document)) == document


@given(
    body=st.binary(max_size=200)
    | st.builds(lambda value: json.dumps(value).encode(), values)
    | st.builds(
        lambda value, key, whole: json.dumps({**whole, key: value}).encode(),
        values,
        st.sampled_from(["sn", "version", "request", "result", "status", "routing"]),
        st.just({"sn": SN, "version": "0.4", "status": "started"}),
    )
)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_bytes_from_a_socket_are_read_or_refused(body: Any) -> None:
    """Whatever arrives gives a document or `RemoteProtocolError`, nothing else."""
    for decode in (decode_request, decode_reply):
        try:
            document = decode(body)
        except RemoteProtocolError:
            continue
        assert isinstance(document.sn, str)
