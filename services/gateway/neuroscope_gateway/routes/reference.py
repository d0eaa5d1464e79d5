"""GET /docs: the REST reference, a page without scripts made from the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_REFERENCE = "#/components/schemas/"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8884; } h3 { margin: 1.6rem 0 .3rem; }
code, h3 { font-family: ui-monospace, monospace; } p { margin: .3rem 0; } td { padding: .15rem 1rem .15rem 0; }
td { vertical-align: top; } td:first-child { white-space: nowrap; } .dim { opacity: .7; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8cf; } }
"""


@router.get("/docs")
async def reference(request: Request) -> HTMLResponse:
    """The reference page."""
    return HTMLResponse(reference_page(request.app.openapi()), headers={"Content-Security-Policy": _POLICY})


def reference_page(document: Mapping[str, Any]) -> str:
    """The reference of an OpenAPI document as HTML."""
    title = escape(f"{document['info']['title']} {document['info']['version']}: REST reference")
    return "".join(
        (
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            f"<meta name='viewport' content='width=device-width'><title>{title}</title><style>{_STYLE}</style></head>",
            f"<body><h1>{title}</h1><p>For machines: <a href='/openapi.json'>/openapi.json</a>.</p><h2>Routes</h2>",
            *_operations(document["paths"]),
            "<h2>Objects</h2>",
            *_objects(document["components"]["schemas"]),
            "</body></html>",
        )
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[str]:
    for path, operations in paths.items():
        for method, operation in operations.items():
            yield f"<h3>{escape(method.upper())} {escape(path)}</h3><p>{_inline_code(operation.get('description'))}</p>"
            for parameter in operation.get("parameters", ()):
                kind, description = _type(parameter["schema"]), _inline_code(parameter.get("description"))
                yield f"<p>{escape(parameter['in'])} <code>{escape(parameter['name'])}</code> {kind} {description}</p>"
            if body := operation.get("requestBody"):
                yield f"<p>Takes {_media_types(body)}</p>"
            for status, response in operation["responses"].items():
                description = _inline_code(response.get("description"))
                yield f"<p>{escape(status)} {_media_types(response)} <span class='dim'>{description}</span></p>"


def _media_types(holder: Mapping[str, Any]) -> str:
    content: Mapping[str, Any] = holder.get("content", {})
    return " or ".join(f"{_type(of.get('schema', {}))} <code>{escape(kind)}</code>" for kind, of in content.items())


def _objects(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{_inline_code(schema.get('description'))}</p>"
        if "properties" not in schema:
            yield f"<p>{_type(schema)}</p>"
            continue
        required = schema.get("required", ())
        yield "<table>"
        for field, of in schema["properties"].items():
            mark = " <span class='dim'>required</span>" if field in required else ""
            description = _inline_code(of.get("description"))
            yield f"<tr><td><code>{escape(field)}</code></td><td>{_type(of)}{mark}</td><td>{description}</td></tr>"
        yield "</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """A type in words, with links to objects."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REFERENCE))
        return f"<a href='#{name}'>{name}</a>"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(choice) for choice in schema[key])
    if "enum" in schema or "const" in schema:
        values: list[Any] = schema.get("enum") or [schema["const"]]
        return " or ".join(f"<code>{escape('null' if value is None else repr(value))}</code>" for value in values)
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {_type(schema['additionalProperties'])}"
        case None:
            return "anything"
        case kind:
            return escape(str(kind))


def _inline_code(text: str | None) -> str:
    """Text with backticks as code elements."""
    parts = escape(text or "", quote=False).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
