"""A client of gRPC, the generated stubs and numpy alone: what a client in any language has to do.

neuroscope up                        # in another terminal, with a model loaded
python examples/stubs_only.py
"""

import os

import grpc
import numpy as np
import xxhash

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import inference_pb2_grpc, site_pb2

channel = grpc.insecure_channel(os.environ.get("NEUROSCOPE_TARGET", "127.0.0.1:50051"))
request = pb.GenerateRequest(
    prompts=[pb.Prompt(text="The capital of France is")],
    sampling=pb.Sampling(max_tokens=4),
    hooks=[pb.HookSpec(site=site_pb2.Site(component="residual", layer_name="transformer.h.1"))],
)

plan = None
received = 0
for response in inference_pb2_grpc.GenerationServiceStub(channel).Generate(request):
    match response.WhichOneof("event"):
        case "plan":  # names every tensor once; frames refer to it
            plan = response.plan
        case "step_frame":  # all tensors of a step, packed
            frame = response.step_frame
            for ref in frame.refs:
                spec = plan.tensors[ref.plan_index]
                data = memoryview(frame.data)[ref.offset_bytes : ref.offset_bytes + ref.length_bytes]
                assert xxhash.xxh3_64_intdigest(data) == ref.xxh3_64
                array = np.frombuffer(data, "<f4").reshape(tuple(ref.shape))
                received += array.nbytes
                print(f"step {frame.step}: {spec.site.component} of layer {spec.site.layer}", array.shape)
        case "token":  # after the frames of its step
            print(f"step {response.token.step}: {response.token.text!r}")
        case "manifest":  # what the service sent, to compare with what arrived
            assert received == sum(entry.length_bytes for entry in response.manifest.entries)
            print(f"{received} bytes, as the manifest says")
        case _:  # started; tensor_frame would carry the slices of a tensor above 512 KiB
            pass
