"""Methods that both clients have, written once.

    class ModelCalls:
        @client_method
        def models(self) -> Call[list[pb.Model]]:
            \"""The loaded models.\"""
            return requests.models()

    class Client(ModelCalls, BaseClient): ...              client.models() -> list[pb.Model]
    class AsyncClient(ModelCalls, AsyncBaseClient): ...    await client.models()

The decorated function does no I/O: it returns a call, or a flow of calls (`neuroscope.base_client.call`). The client
runs them. Type checkers and editors see its parameters and docstring, and the type that the client returns.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from neuroscope.base_client.call import CallFlow, Stream
from neuroscope.base_client.client import AsyncBaseClient, BaseClient

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])
_VALUE = re.compile(r"\w+\[(.*)\]")
"""The value type in a return annotation, which is a string since annotations are postponed."""


class CallLike(Protocol[T_co]):
    """A call, an upload, or a call flow."""

    def __iter__(self) -> CallFlow[T_co]: ...


class client_method(Generic[P, T]):
    """A method that returns the value of a call or a call flow."""

    def __init__(self, asked: Callable[Concatenate[Any, P], CallLike[T]]) -> None:
        def waiting(caller: Any, *args: P.args, **kwargs: P.kwargs) -> T:
            return caller._follow(iter(asked(caller, *args, **kwargs)))

        async def awaited(caller: Any, *args: P.args, **kwargs: P.kwargs) -> T:
            return await caller._follow(iter(asked(caller, *args, **kwargs)))

        self.__doc__ = asked.__doc__
        self._waiting = _named(waiting, asked, "{}")
        self._awaited = _named(awaited, asked, "{}")

    @overload
    def __get__(self, caller: BaseClient, owner: type[Any]) -> Callable[P, T]: ...
    @overload
    def __get__(self, caller: AsyncBaseClient, owner: type[Any]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, caller: None, owner: type[Any]) -> Callable[Concatenate[Any, P], Any]: ...
    def __get__(self, caller: Any, owner: type[Any]) -> Any:
        function: Any = self._awaited if issubclass(owner, AsyncBaseClient) else self._waiting
        return function.__get__(caller, owner)


class client_stream(Generic[P, T]):
    """A method that yields the values of a stream: a generator, or an asynchronous generator."""

    def __init__(self, asked: Callable[Concatenate[Any, P], Stream[T]]) -> None:
        def stream(caller: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
            return caller._stream(asked(caller, *args, **kwargs))

        def stream_of_loop(caller: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
            return caller._stream(asked(caller, *args, **kwargs))

        self.__doc__ = asked.__doc__
        self._stream = _named(stream, asked, "Generator[{}, None, None]")
        self._stream_of_loop = _named(stream_of_loop, asked, "AsyncGenerator[{}, None]")

    @overload
    def __get__(self, caller: BaseClient, owner: type[Any]) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, caller: AsyncBaseClient, owner: type[Any]) -> Callable[P, AsyncGenerator[T, None]]: ...
    @overload
    def __get__(self, caller: None, owner: type[Any]) -> Callable[Concatenate[Any, P], Any]: ...
    def __get__(self, caller: Any, owner: type[Any]) -> Any:
        function: Any = self._stream_of_loop if issubclass(owner, AsyncBaseClient) else self._stream
        return function.__get__(caller, owner)


def _named(function: F, asked: Callable[..., Any], returns: str) -> F:
    """Copies name, parameters and documentation of a function, with another return type."""
    signature = inspect.signature(asked)
    value = _VALUE.fullmatch(str(signature.return_annotation))
    named = functools.wraps(asked)(function)
    annotation = returns.format(value[1] if value else Any)
    named.__signature__ = signature.replace(return_annotation=annotation)  # type: ignore[attr-defined]
    return named  # type: ignore[return-value]
