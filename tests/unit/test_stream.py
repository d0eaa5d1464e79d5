"""neuroscope.activations.stream: what the events of a stream mean."""

import numpy as np
import pytest

from neuroscope.activations.stream import GeneratedToken, StreamState, TokenLogprob
from neuroscope.errors import ChecksumError, DoubledBosWarning, StreamingError
from neuroscope.tracing import telemetry
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.sites import Point
from tests.support.streams import Stream, outgoing

ONE = np.ones((1, 1, 4), np.float32)


def begun(stream: Stream, **options) -> StreamState:
    state = StreamState(**options)
    state.feed(stream.started())
    state.feed(stream.plan())
    return state


def feed(state: StreamState, *events) -> GeneratedToken | None:
    tokens = [state.feed(event) for event in events]
    return tokens[-1]


def test_a_token_has_the_tensors_of_its_row_and_step_with_all_prefill_chunks():
    stream = Stream(Point("resid_post", 0), ("h", Point("logits")), prompts=[[1, 2], [3, 4]])
    state = begun(stream)
    for chunk in range(2):
        tensors = [outgoing(i, ONE * chunk, row=row, first_position=chunk) for row in range(2) for i in range(2)]
        feed(state, *stream.frames(0, *tensors))
    first = state.feed(stream.token(0, "a", row=1))
    assert first is not None
    assert (first.row, first.step, first.text, first.token_id, first.finish_reason) == (1, 0, "a", 100, "")
    assert set(first.activations) == {"resid_post.0", "h"}
    assert [piece.first_position for piece in first.activations["h"]] == [0, 1]
    assert {piece.row for pieces in first.activations.values() for piece in pieces} == {1}
    second = state.feed(stream.token(0, "b", row=0))
    assert second is not None
    assert [piece.array[0, 0, 0] for piece in second.activations["resid_post.0"]] == [0, 1]
    assert state.texts == ["b", "a"]


def test_a_token_says_everything_that_the_event_says():
    stream = Stream()
    state = begun(stream)
    tops = [pb.TokenLogprob(token_id=5, text="x", logprob=-0.25), pb.TokenLogprob(token_id=6, text="y", logprob=-3)]
    event = stream.token(0, "x", token_id=5, logprob=-0.25, top_logprobs=tops, finish=pb.FINISH_REASON_STOP)
    token = state.feed(event)
    assert token == GeneratedToken(
        0, 0, 5, "x", -0.25, (TokenLogprob(5, "x", -0.25), TokenLogprob(6, "y", -3.0)), "stop", {}
    )
    last = state.feed(stream.token(1, finish=pb.FINISH_REASON_LENGTH))
    assert last is not None
    assert last.finish_reason == "length"


def test_the_cache_holds_everything_and_the_ids():
    stream = Stream(Point("resid_post", 0))
    state = begun(stream)
    feed(state, *stream.frames(0, outgoing(0, np.ones((1, 3, 4), np.float32))), stream.token(0, "a"))
    feed(state, *stream.frames(1, outgoing(0, ONE, first_position=3)), stream.token(1, "b"))
    assert state.cache["resid_post", 0].shape == (1, 4, 4)
    assert state.cache.token_ids == [[1, 2, 3, 100, 101]]
    assert state.cache.model_id == "tiny"
    assert state.cache.manifest is None
    feed(state, stream.manifest())
    assert state.cache.manifest is state.finish()


def test_without_keeping_tensors_live_as_long_as_their_token():
    stream = Stream(Point("resid_post", 0))
    state = begun(stream, keep=False)
    token = feed(state, *stream.frames(0, outgoing(0, ONE)), stream.token(0))
    assert token is not None
    assert token.activations["resid_post.0"][0].array.shape == (1, 1, 4)
    feed(state, stream.manifest())
    assert len(state.cache) == 0
    assert state.finish().frame_count == 1


def test_what_was_received_is_counted():
    stream = Stream(Point("resid_post", 0))
    state = begun(stream)
    feed(state, *stream.frames(0, outgoing(0, ONE)), stream.token(0), stream.token(1))
    assert state.attributes() == {telemetry.TOKENS: 2, telemetry.BYTES: ONE.nbytes}


def test_a_stream_without_captures_needs_no_plan():
    stream = Stream()
    state = StreamState()
    feed(state, stream.started(), stream.token(0, "a"), stream.manifest())
    assert state.plan is None
    assert state.finish().usage.completion_tokens == 1


def test_a_stream_without_manifest_is_broken():
    stream = Stream()
    state = begun(stream)
    with pytest.raises(StreamingError, match="without its manifest"):
        state.finish()


@pytest.mark.parametrize(("field", "value"), [("piece_count", 2), ("length_bytes", 17), ("xxh3_64", 5)])
def test_a_manifest_that_tells_another_story_is_noticed(field, value):
    stream = Stream(Point("resid_post", 0))
    state = begun(stream)
    feed(state, *stream.frames(0, outgoing(0, ONE)))
    event = stream.manifest()
    setattr(event.manifest.entries[0], field, value)
    with pytest.raises(ChecksumError, match=r"'resid_post.0' in row 0 differs from the manifest"):
        state.feed(event)
    assert state.manifest is None


def test_a_manifest_of_tensors_that_did_not_come_is_noticed():
    stream = Stream(Point("resid_post", 0), Point("resid_post", 1))
    state = begun(stream)
    feed(state, *stream.frames(0, outgoing(0, ONE)))
    stream.frames(0, outgoing(1, ONE))
    event = stream.manifest()
    event.manifest.frame_count = 1
    with pytest.raises(ChecksumError, match=r"'resid_post.1'"):
        state.feed(event)


def test_tensors_of_which_the_manifest_says_nothing_are_noticed():
    stream = Stream(Point("resid_post", 0))
    state = begun(stream)
    feed(state, *stream.frames(0, outgoing(0, ONE)))
    event = stream.manifest()
    del event.manifest.entries[:]
    with pytest.raises(ChecksumError, match=r"says nothing of 'resid_post.0'"):
        state.feed(event)


def test_entries_of_hooks_that_saw_nothing_are_no_difference():
    stream = Stream(Point("resid_post", 0))
    state = begun(stream)
    event = stream.manifest()
    event.manifest.entries.add(plan_index=0, hook_id="resid_post.0")
    state.feed(event)
    assert state.finish()


def test_lost_frames_are_noticed_at_the_end():
    stream = Stream(Point("resid_post", 0))
    state = begun(stream)
    stream.frames(0, outgoing(0, ONE))
    with pytest.raises(StreamingError, match="1 frames were sent and 0 received"):
        state.feed(stream.manifest())


def test_events_out_of_order_are_errors():
    stream = Stream(Point("resid_post", 0))
    with pytest.raises(StreamingError, match="did not begin"):
        StreamState().feed(stream.token(0))
    with pytest.raises(StreamingError, match="did not begin"):
        StreamState().feed(stream.plan())
    state = StreamState()
    state.feed(stream.started())
    with pytest.raises(StreamingError, match="before the plan"):
        feed(state, *stream.frames(0, outgoing(0, ONE)))
    with pytest.raises(StreamingError, match="row 3"):
        state.feed(stream.token(0, row=3))


def test_captures_are_folded_by_the_same_class():
    stream = Stream(Point("resid_post", 0), response=pb.CaptureResponse)
    state = begun(stream)
    feed(state, *stream.frames(0, outgoing(0, ONE)), stream.manifest())
    assert state.finish()
    assert state.cache["resid_post", 0].shape == (1, 1, 4)


def test_events_of_later_versions_are_passed_over():
    stream = Stream()
    state = begun(stream)
    assert state.feed(pb.GenerateResponse()) is None


def test_warnings_of_the_server_are_raised_here():
    with pytest.warns(DoubledBosWarning, match="two beginning-of-sequence tokens") as caught:
        StreamState().feed(Stream().started(warnings=["the prompt begins with two beginning-of-sequence tokens"]))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="something else") as caught:
        StreamState().feed(Stream().started(warnings=["something else"]))
    assert caught[0].category is UserWarning


def test_credit_is_due_when_all_rows_that_go_on_have_used_theirs():
    stream = Stream(prompts=[[1], [2]])
    state = begun(stream)
    assert not state.wants_step()
    state.feed(stream.token(0, row=0))
    assert not state.wants_step()
    state.feed(stream.token(0, row=1, finish=pb.FINISH_REASON_STOP))
    assert state.wants_step()
    state.grant(2)
    assert not state.wants_step()
    state.feed(stream.token(1, row=0))
    assert state.wants_step()
    state.grant(4)
    state.grant(3)  # an older answer
    state.feed(stream.token(2, row=0))
    assert not state.wants_step()
    state.feed(stream.token(3, row=0, finish=pb.FINISH_REASON_LENGTH))
    assert not state.wants_step()
