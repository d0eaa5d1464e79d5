"""neuroscope.client and neuroscope.aio: every method makes its request and gives its value, in both the same way."""

import inspect
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

from neuroscope import AsyncClient, Client, Hook, Tokens, zero
from neuroscope.analysis import AnalysisClient, AsyncAnalysisClient
from neuroscope.errors import (
    DataConversionError,
    DoubledBosWarning,
    InvalidRequestError,
    ModelNotFoundError,
    StreamingError,
)
from neuroscope.tracing import telemetry
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import telemetry_pb2, tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import numpy_dtype
from neuroscope.wire.codec import Frame
from neuroscope.wire.frames import SLICE_BYTES
from neuroscope.wire.rpc import RPCS
from tests.support.scripted_server import serving, serving_in_thread
from tests.support.scripted_transport import AsyncScriptedTransport, ScriptedTransport
from tests.support.streams import Stream, outgoing


class Both:
    """Calls a method of both clients and demands the same requests and results."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self.transport = transport
        self.client = Client(transport=transport, timeout_s=7)
        self.async_client = AsyncClient(transport=AsyncScriptedTransport(transport), timeout_s=7)

    async def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        self.transport.calls.clear()
        result = getattr(self.client, method)(*args, **options)
        self.calls = list(self.transport.calls)
        self.transport.calls.clear()
        other = await getattr(self.async_client, method)(*args, **options)
        assert self.transport.calls == self.calls
        if isinstance(result, (str, bytes, int, list, Tokens, pb.Model, type(None))):
            assert other == result
        return result

    @property
    def request(self) -> Any:
        """The request of the last call."""
        return self.calls[-1][1]


@pytest.fixture
def transport() -> ScriptedTransport:
    return ScriptedTransport()


@pytest.fixture
def both(transport) -> Both:
    return Both(transport)


def public(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(cls, callable)
        if name[0] != "_" and not inspect.ismethod(member)
    }


@pytest.mark.parametrize("clients", [(Client, AsyncClient), (AnalysisClient, AsyncAnalysisClient)])
def test_both_clients_have_the_same_methods_with_the_same_parameters(clients):
    sync, aio = map(public, clients)
    assert list(sync) == list(aio)
    for name, signature in sync.items():
        assert signature.parameters == aio[name].parameters, name


def test_every_method_says_what_it_does():
    for cls in (Client, AsyncClient, AnalysisClient, AsyncAnalysisClient):
        for name in public(cls):
            assert getattr(cls, name).__doc__, name


async def test_load_model(both, transport, tmp_path):
    progress = pb.LoadProgress(phase=pb.LOAD_PHASE_READ, bytes_done=1, bytes_total=2)
    model = pb.Model(model_id="tiny")
    transport.answers["LoadModel"] = [pb.LoadModelResponse(progress=progress), pb.LoadModelResponse(model=model)]
    reports: list[pb.LoadProgress] = []
    assert await both("load_model", tmp_path, model_id="a", revision="main", progress=reports.append) == model
    assert reports == [progress] * 2
    assert both.request == pb.LoadModelRequest(model_path=str(tmp_path), model_id="a", revision="main")
    assert both.calls[-1][2] is None  # a load takes as long as it takes


async def test_load_model_shows_a_bar(both, transport, capsys):
    progress = pb.LoadProgress(phase=pb.LOAD_PHASE_FETCH, bytes_done=1)
    transport.answers["LoadModel"] = [
        pb.LoadModelResponse(progress=progress),
        pb.LoadModelResponse(model=pb.Model(model_id="tiny")),
    ]
    assert (await both("load_model", Path("x"), progress=True)).model_id == "tiny"


async def test_a_load_without_a_model_is_broken(both, transport):
    transport.answers["LoadModel"] = []
    with pytest.raises(StreamingError, match="without a model"):
        both.client.load_model("x")
    with pytest.raises(StreamingError, match="without a model"):
        await both.async_client.load_model("x")


async def test_models(both, transport):
    transport.answers |= {
        "ListModels": pb.ListModelsResponse(models=[pb.Model(model_id="a"), pb.Model(model_id="b")]),
        "UnloadModel": pb.UnloadModelResponse(),
        "GetModel": pb.GetModelResponse(model=pb.Model(model_id="a", num_layers=2)),
    }
    assert [model.model_id for model in await both("models")] == ["a", "b"]
    assert await both("unload_model", "a") is None
    assert both.request.model_id == "a"
    info = await both("model", "a")
    assert info.model_id == "a"
    assert both.calls[-1][2] == 7


async def test_tokens(both, transport):
    transport.answers |= {
        "Tokenize": pb.TokenizeResponse(token_ids=[1, 5], tokens=["<s>", "Hi"]),
        "Detokenize": pb.DetokenizeResponse(text="Hi"),
    }
    tokens = await both("tokenize", "Hi", bos=True, model_id="m")
    assert both.request == pb.TokenizeRequest(model_id="m", prompt=pb.Prompt(text="Hi", bos=pb.BOS_POLICY_ADD))
    assert (tokens.ids, tokens.tokens, tokens.warnings) == ([1, 5], ["<s>", "Hi"], ())
    assert (list(tokens), len(tokens), tokens[1], tokens[:1]) == ([1, 5], 2, 5, [1])
    assert await both("detokenize", np.array([1, 5]), skip_special_tokens=True) == "Hi"
    assert both.request == pb.DetokenizeRequest(token_ids=[1, 5], skip_special_tokens=True)
    assert await both("detokenize", tokens) == "Hi"


async def test_a_doubled_bos_warns_where_the_client_was_called(both, transport):
    transport.answers["Tokenize"] = pb.TokenizeResponse(warnings=["two beginning-of-sequence tokens"])
    with pytest.warns(DoubledBosWarning) as caught:
        tokens = both.client.tokenize("<s>Hi", bos=True)
    assert caught[0].filename == __file__
    assert tokens.warnings == ("two beginning-of-sequence tokens",)
    with pytest.warns(DoubledBosWarning) as caught:
        await both.async_client.tokenize("<s>Hi", bos=True)
    assert caught[0].filename == __file__


async def test_hooks(both, transport):
    spec = Hook("resid_post", 3, hook_id="a").to_message()
    transport.answers |= {
        "RegisterHooks": pb.RegisterHooksResponse(hook_ids=["a"]),
        "ListHooks": pb.ListHooksResponse(hooks=[spec]),
        "ClearHooks": pb.ClearHooksResponse(hook_ids=["a"]),
    }
    assert await both("register_hooks", [Hook("resid_post", 3, hook_id="a")], "m") == ["a"]
    assert both.request == pb.RegisterHooksRequest(hooks=[spec], model_id="m")
    assert await both("hooks") == [spec]
    assert await both("clear_hooks", ["a"]) == ["a"]
    assert list(both.request.hook_ids) == ["a"]
    assert await both("clear_hooks") == ["a"]
    assert list(both.request.hook_ids) == []


async def test_advance_and_trace(both, transport):
    transport.answers |= {
        "AdvanceGeneration": pb.AdvanceGenerationResponse(granted_steps=3),
        "GetTrace": telemetry_pb2.GetTraceResponse(traces_data=b"x"),
    }
    assert await both("advance", "g", 2) == 3
    assert both.request == pb.AdvanceGenerationRequest(generation_id="g", steps=2)
    assert await both("trace", "0" * 32) == b"x"
    assert both.request.trace_id == "0" * 32


async def test_workload(both, transport):
    transport.answers["GetWorkload"] = telemetry_pb2.GetWorkloadResponse(streams=3)
    assert (await both("workload")).streams == 3


async def test_steer(both, transport):
    transport.answers["Steer"] = pb.SteerResponse(first_step=4)
    assert await both("steer", "g", [zero("mlp_out", 3)]) == 4
    assert both.request == pb.SteerRequest(generation_id="g", interventions=[zero("mlp_out", 3).message])
    assert await both("steer", "g", []) == 4
    assert both.request == pb.SteerRequest(generation_id="g")


@pytest.mark.parametrize(
    ("array", "dtype", "shape"),
    [
        (np.arange(6, dtype=np.float32).reshape(2, 3), tensor_pb2.DATA_TYPE_FLOAT32, [2, 3]),
        (np.arange(6.0).reshape(3, 2).T, tensor_pb2.DATA_TYPE_FLOAT32, [2, 3]),
        (np.ones(2, ml_dtypes.bfloat16), tensor_pb2.DATA_TYPE_BFLOAT16, [2]),
        ([1, 2], tensor_pb2.DATA_TYPE_INT64, [2]),
        (np.arange(300_000, dtype=np.float32), tensor_pb2.DATA_TYPE_FLOAT32, [300_000]),  # three slices
    ],
)
async def test_put_tensor(both, transport, array, dtype, shape):
    transport.answers["PutTensor"] = pb.PutTensorResponse(tensor_id="t")
    assert await both("put_tensor", array) == "t"
    header, *framed = both.request
    assert header == pb.PutTensorRequest(header=pb.TensorHeader(dtype=dtype, shape=shape))
    data = b"".join(frame.payload for frame in framed)
    assert np.array_equal(np.frombuffer(data, numpy_dtype(dtype)).reshape(shape), array)
    frames = [frame.header for frame in framed]
    assert [frame.sequence for frame in frames] == list(range(len(frames)))
    assert [frame.offset_bytes for frame in frames] == [index * SLICE_BYTES for index in range(len(frames))]
    assert [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert frames[-1].xxh3_64 == xxhash.xxh3_64_intdigest(data)
    assert both.calls[-1][2] == 7


async def test_put_tensor_says_how_long(both, transport):
    transport.answers["PutTensor"] = pb.PutTensorResponse(tensor_id="t")
    await both("put_tensor", [1.0], time_to_live_s=1.5)
    assert both.request[0].header.time_to_live_ms == 1500
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequestError, match="a time to live must be positive"):
            both.client.put_tensor([1.0], time_to_live_s=wrong)


def test_uploads_over_a_real_connection():
    received: list[Any] = []

    class Service:
        async def PutTensor(self, requests, context):
            received.extend([request async for request in requests])
            return pb.PutTensorResponse(tensor_id="t", length_bytes=4)

    array = np.random.default_rng(0).normal(size=(3, 100_000)).astype(np.float32)
    with serving_in_thread(Service()) as target, Client(target) as client:
        assert client.put_tensor(array) == "t"
    assert received[0].header.shape == [3, 100_000]
    assert b"".join(frame.payload for frame in received[1:]) == array.tobytes()


async def test_uploads_over_a_real_connection_on_an_event_loop():
    class Service:
        async def PutTensor(self, requests, context):
            size = sum([request.payload.nbytes async for request in requests if isinstance(request, Frame)])
            return pb.PutTensorResponse(tensor_id=str(size))

    async with serving(Service()) as target, AsyncClient(target) as client:
        assert await client.put_tensor(np.ones((500, 1000), np.float32)) == "2000000"


def test_generate_says_everything_in_its_request(transport):
    transport.answers["Generate"] = []
    Client(transport=transport).generate(
        ["a", [1, 2]],
        hooks=["resid_post"],
        hook_ids=["kept"],
        interventions=[zero("mlp_out", 3), {"component": "mlp", "action": "zero"}],
        model_id="m",
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        seed=0,
        stop="\n",
        stop_token_ids=[7],
        ignore_eos=True,
        top_logprobs=2,
        bos=False,
        max_steps_ahead=1,
        chunk_budget_bytes=100,
        generation_id="g",
    )
    request = transport.calls[0][1]
    assert request == pb.GenerateRequest(
        model_id="m",
        prompts=[
            pb.Prompt(text="a", bos=pb.BOS_POLICY_OMIT),
            pb.Prompt(token_ids=pb.TokenIds(ids=[1, 2]), bos=pb.BOS_POLICY_OMIT),
        ],
        sampling=pb.Sampling(
            max_tokens=5,
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            min_p=0.1,
            seed=0,
            stop=["\n"],
            stop_token_ids=[7],
            ignore_eos=True,
            top_logprobs=2,
        ),
        hooks=[Hook("resid_post").to_message()],
        hook_ids=["kept"],
        interventions=[zero("mlp_out", 3).message, zero("mlp").message],
        max_steps_ahead=1,
        generation_id="g",
        chunk_budget_bytes=100,
    )
    assert request.sampling.HasField("seed")


async def test_both_generate_the_same_request(transport):
    transport.answers["Generate"] = []
    Client(transport=transport).generate("a", max_tokens=3, hooks=[("mlp", 1)], stop=["x", "y"])
    generation = AsyncClient(transport=AsyncScriptedTransport(transport)).generate(
        "a", max_tokens=3, hooks=[("mlp", 1)], stop=["x", "y"]
    )
    with pytest.raises(StreamingError):
        await generation.wait()
    assert transport.calls[0] == transport.calls[1]
    assert not transport.calls[0][1].sampling.HasField("seed")


def capture_events() -> list[Any]:
    stream = Stream(Point("resid_post", 0), response=pb.CaptureResponse)
    frames = stream.frames(0, outgoing(0, np.ones((1, 3, 4), np.float32)))
    return [stream.started(), stream.plan(), *frames, stream.manifest()]


async def test_capture(both, transport):
    transport.answers["Capture"] = capture_events()
    received: list[int] = []
    cache = await both(
        "capture",
        "x",
        ["resid_post"],
        interventions=[zero("mlp_out", 3)],
        stop_at_layer=0,
        hook_ids="k",
        chunk_budget_bytes=9,
        progress=received.append,
    )
    assert both.request == pb.CaptureRequest(
        prompts=[pb.Prompt(text="x")],
        hooks=[Hook("resid_post").to_message()],
        hook_ids=["k"],
        interventions=[zero("mlp_out", 3).message],
        stop_at_layer=0,
        chunk_budget_bytes=9,
    )
    assert both.request.HasField("stop_at_layer")
    assert cache["resid_post", 0].shape == (1, 3, 4)
    assert cache.manifest is not None
    assert received[-1] == 48
    assert (await both("capture", "x", ["resid_post"], progress=True))["resid_post", 0].shape == (1, 3, 4)
    assert not both.request.HasField("stop_at_layer")


async def test_a_capture_that_breaks_off_is_an_error(both, transport):
    transport.answers["Capture"] = capture_events()[:-1]
    with pytest.raises(StreamingError, match="without its manifest"):
        both.client.capture("x", ["resid_post"])
    transport.answers["Capture"] = [*capture_events()[:2], ModelNotFoundError("gone")]
    with pytest.raises(ModelNotFoundError):
        await both.async_client.capture("x", ["resid_post"])


def test_mistakes_are_found_before_anything_is_sent(transport):
    client = Client(transport=transport)
    with pytest.raises(InvalidRequestError):
        client.generate([])
    with pytest.raises(InvalidRequestError):
        client.generate("x", interventions=[{"component": "mlp", "action": "nothing"}])
    with pytest.raises(DataConversionError):
        client.put_tensor([1.0, float("nan")])
    with pytest.raises(InvalidRequestError):
        client.capture("x", "resid_post")  # a list is wanted
    assert transport.calls == []


async def test_leaving_the_block_closes_the_transport(transport):
    with Client(transport=transport) as client:
        assert client
    assert transport.closed
    transport.closed = False
    async with AsyncClient(transport=AsyncScriptedTransport(transport)):
        pass
    assert transport.closed


async def test_every_method_has_a_span(both, transport):
    telemetry.configure("neuroscope-test", record_roots=True)
    try:
        transport.answers |= {"ListModels": pb.ListModelsResponse(), "Capture": capture_events()}
        transport.answers["Generate"] = capture_events()
        both.client.models()
        await both.async_client.models()
        await both.async_client.capture("x", ["resid_post"])
        both.client.generate("x").wait()
        names = [span.name for span in transport.spans]  # pyright: ignore[reportAttributeAccessIssue]
        assert names == ["neuroscope.models", "neuroscope.models", "neuroscope.capture", "neuroscope.generate"]
        assert transport.spans[2].attributes[telemetry.BYTES] == 48  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        telemetry.shutdown()


def test_calls_of_the_contract():
    assert RPCS["Generate"].path == "/neuroscope.v1.GenerationService/Generate"
    assert RPCS["Generate"].streams_responses
    assert not RPCS["Generate"].streams_requests
    assert RPCS["PutTensor"].streams_requests
    assert RPCS["GetTrace"].response is telemetry_pb2.GetTraceResponse
