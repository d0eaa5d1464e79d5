"""Chat templates with tools, cut down to what their formats need, and a model that has one."""

import shutil
from collections.abc import Mapping
from pathlib import Path

BUNDLED = Path(__file__).parents[2] / "models" / "neuroscope-tiny"

_ROLES = "{% for message in messages %}{{ '<|user|>' + message.role + ': ' + message.content }}"
_END = "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
_TOOLS = "{% if tools %}{{ '<|system|>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
_HERMES_CALLS = """{% for tool_call in message.tool_calls %}{% set tool_call = tool_call.function -%}
{{ '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' -}}
{{ (tool_call.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}"""
_LLAMA3_TOOLS = """{% if tools -%}
{{ 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' -}}
{% endif %}"""
TEMPLATES: Mapping[str, str] = {
    "hermes": _TOOLS + _ROLES + _HERMES_CALLS + _END,
    "mistral": _TOOLS
    + _ROLES
    + "{% if message.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in message.tool_calls %}{{ call.function | tojson }}"
    "{% endfor %}{{ ']' }}{% endif %}" + _END,
    "mistral named": _TOOLS
    + _ROLES
    + "{% for call in message.tool_calls %}{{ '[TOOL_CALLS]' + call.function.name + '[ARGS]' }}"
    "{{ call.function.arguments | tojson }}{% endfor %}" + _END,
    "llama3": _LLAMA3_TOOLS
    + _TOOLS
    + _ROLES
    + "{% for call in message.tool_calls %}{{ call.function | tojson }}{% endfor %}"
    + _END,
    "unknown": _TOOLS + _ROLES + "{% for call in message.tool_calls %}{{ call.function.name }}{% endfor %}" + _END,
    "none": _ROLES + _END,
}


def model_with_template(folder: Path, template: str, special_token: str = "") -> Path:
    """The bundled model with another template; empty: without one.

    Args:
        folder: where it is written.
        template: the template.
        special_token: takes the place of `<|system|>` in the vocabulary.
    """
    shutil.copytree(BUNDLED, folder)
    path = folder / "chat_template.jinja"
    if template:
        path.write_text(template)
    else:
        path.unlink()
    if special_token:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            file = folder / name
            file.write_text(file.read_text().replace("<|system|>", special_token))
    return folder
