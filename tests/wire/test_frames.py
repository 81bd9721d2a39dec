from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from rpcsim.wire._frames import (
    PROTOCOL,
    VERSION,
    Ack,
    Cancel,
    Consume,
    Declare,
    Delete,
    Deliver,
    Failed,
    Frame,
    FrameDecoder,
    FrameReader,
    Gone,
    Hello,
    Ok,
    Publish,
    Requeue,
    encode_frame,
    pack_length,
)

HELLO = Hello(PROTOCOL, VERSION, 4096)

numbers = st.integers(0, (1 << 63) - 1)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)
millis = st.none() | st.integers(0, 1 << 53)
requests = st.one_of(
    st.builds(
        Declare, numbers, names, st.booleans(), st.booleans(), st.booleans(), millis
    ),
    st.builds(Delete, numbers, names),
    st.builds(Publish, numbers, names, st.binary(max_size=300), millis),
    st.builds(Consume, numbers, names, numbers, numbers),
    st.builds(Cancel, numbers, numbers),
    st.builds(Ack, numbers, numbers),
    st.builds(Requeue, numbers, numbers),
)
answers = st.one_of(
    st.builds(Ok, numbers),
    st.builds(Failed, numbers, st.integers(0, 999), names),
    st.builds(
        Deliver, numbers, numbers, st.binary(max_size=300), st.booleans(), millis
    ),
    st.builds(Gone, numbers, names),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `data` at positions drawn anywhere."""
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(at)]


def read(decoder: FrameDecoder, chunks: list[bytes]) -> tuple[list[Frame], str]:
    """Feed the chunks; give the events and the text of the error, if any."""
    events: list[Frame] = []
    try:
        for chunk in chunks:
            decoder.receive(chunk)
            while (event := decoder.next_event()) is not None:
                events.append(event)
    except RemoteProtocolError as error:
        return events, str(error)
    return events, ""


@settings(deadline=None)
@given(st.lists(requests, max_size=6), st.lists(st.integers(0, 9999), max_size=20))
def test_any_split_of_requests_gives_the_same_events(
    sent: list[Frame], cuts: list[int]
) -> None:
    """How the network cuts the stream is never visible."""
    stream = b"".join(encode_frame(frame) for frame in [HELLO, *sent])
    assert read(FrameDecoder("broker"), pieces(stream, cuts)) == ([HELLO, *sent], "")


@settings(deadline=None)
@given(st.lists(answers, max_size=6), st.lists(st.integers(0, 9999), max_size=20))
def test_any_split_of_answers_gives_the_same_events(
    sent: list[Frame], cuts: list[int]
) -> None:
    """The same holds in the other direction."""
    stream = b"".join(encode_frame(frame) for frame in [HELLO, *sent])
    assert read(FrameDecoder("client"), pieces(stream, cuts)) == ([HELLO, *sent], "")


@settings(deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 9999), max_size=10))
def test_any_bytes_give_events_or_one_clear_error(
    noise: bytes, cuts: list[int]
) -> None:
    """Noise after a hello, cut anywhere, ends as events and at most one error."""
    stream = encode_frame(HELLO) + noise
    whole = read(FrameDecoder("broker", 200), [stream])
    assert whole == read(FrameDecoder("broker", 200), pieces(stream, cuts))
    assert whole[0][0] == HELLO
    assert not whole[1] or whole[1].startswith("at byte ")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_body_is_a_request_or_refused(body: bytes) -> None:
    """A well-framed body of noise is decoded or refused, never anything else."""
    events, error = read(
        FrameDecoder("broker"), [encode_frame(HELLO), pack_length(body)]
    )
    assert (len(events) == 2) != bool(error)


@pytest.mark.parametrize("reader", ["broker", "client"])
@pytest.mark.parametrize(
    "foreign",
    [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
        b'{"method": "bark"}\n',
        encode_frame(Ok(1)),
        encode_frame(Delete(1, "q")),
        b"\x00\x00\x00\x00",
    ],
)
def test_a_foreign_peer_is_told_what_is_spoken_here(
    reader: str, foreign: bytes
) -> None:
    """What does not open with a hello is refused, naming protocol and bytes seen."""
    decoder = FrameDecoder("broker" if reader == "broker" else "client")
    events, error = read(decoder, [foreign])
    assert events == []
    assert "expected a hello of rpcsim-broker version 1" in error
    assert repr(foreign[:24]) in error


def test_another_version_is_named() -> None:
    """A newer peer learns both versions."""
    _, error = read(FrameDecoder("client"), [encode_frame(Hello(PROTOCOL, 9, 1))])
    assert "expected protocol rpcsim-broker version 1" in error
    assert "version 9" in error


def test_an_overlong_frame_is_refused_by_its_length_alone() -> None:
    """Nothing of a frame over the limit is kept, neither before nor after."""
    decoder = FrameDecoder("broker", limit=100)
    start = encode_frame(HELLO)
    _, error = read(decoder, [start, b"\x00\x00\x00\x65", b"x" * 1000])
    assert error == (
        f"at byte {len(start)} of the stream: frame 2 has 101 bytes, "
        "over the limit of 100"
    )
    decoder.receive(b"more")
    assert decoder.pending == 0
    with pytest.raises(RemoteProtocolError, match="over the limit of 100"):
        decoder.next_event()


def test_events_before_an_error_are_given() -> None:
    """A bad frame does not take the good ones of its chunk with it."""
    good = encode_frame(HELLO) + encode_frame(Ack(0, 5))
    events, error = read(FrameDecoder("broker"), [good + pack_length(b"\xc1")])
    assert events == [HELLO, Ack(0, 5)]
    assert error.startswith(
        f"at byte {len(good)} of the stream: frame 3 is not a request: "
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x92\xa2ok\x01", id="an answer"),
        pytest.param(b"\x92\xa4bark\x01", id="unknown kind"),
        pytest.param(b"\x93\xa6delete\x01\xa0", id="empty name"),
        pytest.param(b"\x93\xa6delete\xff\xa1q", id="negative request"),
        pytest.param(b"\x94\xa6delete\x01\xa1q\x01", id="field too many"),
        pytest.param(b"\x92\xa6delete\x01", id="field too few"),
        pytest.param(b"\x93\xa6delete\x01\xa1\xff", id="no UTF-8"),
        pytest.param(b"\x93\xa6delete\x01\xa1q\x00", id="bytes behind"),
        pytest.param(b"\x91" * 100_000, id="too deep"),
        pytest.param(b"\x92\xa6delete" + b"\x91" * 100_000, id="too deep inside"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_is_not_a_request_is_refused(body: bytes) -> None:
    """Kinds, counts, ranges, text and nesting are all checked while decoding."""
    _, error = read(FrameDecoder("broker"), [encode_frame(HELLO), pack_length(body)])
    assert "frame 2 is not a request" in error


def test_the_client_goes_down_to_the_announced_limit() -> None:
    """What a broker says it sends at most is what its client takes."""
    decoder = FrameDecoder("client")
    read(decoder, [encode_frame(Hello(PROTOCOL, VERSION, 50))])
    assert decoder.limit == 50


def test_encoding_names_the_limit() -> None:
    """An over-long frame is never sent."""
    with pytest.raises(LimitExceeded, match=r"over the limit of 1000.*frame_limit"):
        encode_frame(Publish(1, "jortel", b"x" * 1000), 1000)


@pytest.mark.parametrize("frame", [Delete(1, "\ud800"), Ack(1 << 70, 1)])
def test_encoding_what_cannot_be_carried(frame: Frame) -> None:
    """Half a surrogate pair or a huge number is our own mistake, told as such."""
    with pytest.raises(LocalProtocolError, match="cannot send"):
        encode_frame(frame)


def test_the_end_inside_a_frame_is_told() -> None:
    """A peer that closes mid-message is told apart from one that is done."""
    decoder = FrameDecoder("broker")
    read(decoder, [encode_frame(HELLO)])
    decoder.check_eof()
    read(decoder, [encode_frame(Ack(0, 5))[:6]])
    with pytest.raises(RemoteProtocolError, match="inside frame 2, after 6 bytes"):
        decoder.check_eof()


def test_a_reader_tells_its_state() -> None:
    """The `repr` says where in the stream it is and whether it is broken."""
    reader = FrameReader(limit=10)
    reader.receive(pack_length(b"ab") + b"\x00")
    assert reader.next_body() == b"ab"
    assert repr(reader) == "<FrameReader at byte 6, 1 bytes pending>"
    reader.receive(b"\xff\xff\xff")
    with pytest.raises(RemoteProtocolError):
        reader.next_body()
    assert repr(reader) == "<FrameReader at byte 6, broken>"


def test_single_bytes_of_a_long_frame_cost_no_copies_of_it() -> None:
    """A frame that trickles in grows one buffer; nothing is read twice."""
    body = bytes(range(256)) * 256
    reader = FrameReader()
    for byte in pack_length(body)[:-1]:
        reader.receive(bytes([byte]))
        assert reader.next_body() is None
    reader.receive(body[-1:])
    assert reader.next_body() == body
    assert reader.pending == 0
