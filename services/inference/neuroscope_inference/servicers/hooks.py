"""HookService: named capture specifications that requests refer to by id. They belong to the service."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from opentelemetry.context import Context

from neuroscope.errors import IdTakenError, UnknownIdError, nearest
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.sites import resolve
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.model import LoadedModel


class HookServicer:
    """Implements neuroscope.v1.HookService."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._hooks: dict[str, list[pb.HookSpec]] = {}  # several of one id differ in site, as both sides of a module do
        self._numbers = itertools.count(1)

    async def RegisterHooks(self, request: pb.RegisterHooksRequest, context: Context) -> pb.RegisterHooksResponse:
        """Stores hooks, all or none."""
        model = self._engine.model(request.model_id) if request.model_id else None
        accepted: dict[str, list[pb.HookSpec]] = {}
        for index, hook in enumerate(request.hooks):
            field = f"hooks[{index}]"
            self._check_site(hook, model, field)
            stored = pb.HookSpec()
            stored.CopyFrom(hook)
            stored.hook_id = hook.hook_id or self._new_id()
            if stored.hook_id in self._hooks or stored in accepted.get(stored.hook_id, ()):
                raise IdTakenError(f"hook {stored.hook_id!r} is registered already", field=f"{field}.hook_id")
            accepted.setdefault(stored.hook_id, []).append(stored)
        self._hooks.update(accepted)
        return pb.RegisterHooksResponse(hook_ids=list(accepted))

    async def ListHooks(self, request: pb.ListHooksRequest, context: Context) -> pb.ListHooksResponse:
        """Lists the stored hooks."""
        return pb.ListHooksResponse(hooks=itertools.chain.from_iterable(self._hooks.values()))

    async def ClearHooks(self, request: pb.ClearHooksRequest, context: Context) -> pb.ClearHooksResponse:
        """Removes the named hooks, or all; none if one of the names is unknown."""
        ids = list(dict.fromkeys(request.hook_ids)) or list(self._hooks)
        for index, hook_id in enumerate(ids):
            self._find(hook_id, f"hook_ids[{index}]")
        for hook_id in ids:
            del self._hooks[hook_id]
        return pb.ClearHooksResponse(hook_ids=ids)

    def resolve(self, hooks: Sequence[pb.HookSpec], hook_ids: Sequence[str]) -> list[tuple[str, pb.HookSpec]]:
        """A request's own hooks and the stored ones that it names, each with its field's path.

        Raises:
            UnknownIdError: no hook of that id is stored.
        """
        own = [(f"hooks[{index}]", hook) for index, hook in enumerate(hooks)]
        stored = [
            (f"hook_ids[{index}]", hook)
            for index, hook_id in enumerate(hook_ids)
            for hook in self._find(hook_id, f"hook_ids[{index}]")
        ]
        return own + stored

    def _check_site(self, hook: pb.HookSpec, model: LoadedModel | None, field: str) -> None:
        if hook.reduction.HasField("features") and not hook.HasField("site"):
            if model is not None:
                model.require_dictionary(
                    hook.reduction.features.dictionary_id, f"{field}.reduction.features.dictionary_id"
                )
            return
        for point in resolve(hook.site, model.layout.num_layers if model else None, field=f"{field}.site"):
            if model is not None:
                model.require_point(point, f"{field}.site.component")

    def _find(self, hook_id: str, field: str) -> list[pb.HookSpec]:
        if hook_id not in self._hooks:
            valid = nearest(hook_id, self._hooks)
            known = f"; registered: {', '.join(valid)}" if valid else "; none is"
            raise UnknownIdError(f"no hook {hook_id!r} is registered{known}", field=field, valid=valid)
        return self._hooks[hook_id]

    def _new_id(self) -> str:
        return next(name for number in self._numbers if (name := f"hook_{number}") not in self._hooks)
