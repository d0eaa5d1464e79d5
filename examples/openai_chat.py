"""The openai client against the gateway.

neuroscope up                        # in another terminal, with a model loaded
python examples/openai_chat.py
"""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("NEUROSCOPE_URL", "http://127.0.0.1:8080") + "/v1", api_key="unused")
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "What is the capital of Italy?"}]

answer = client.chat.completions.create(model=model, messages=messages, logprobs=True, top_logprobs=2)
print(answer.choices[0].message.content)
for token in answer.choices[0].logprobs.content:
    print(f"{token.token!r:12} {token.logprob:8.4f}")

for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
