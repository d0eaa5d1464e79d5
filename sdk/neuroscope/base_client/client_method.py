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

from neuroscope.base_client.call import AsyncCallRunner, CallFlow, CallRunner, Stream
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

    def __init__(self, method: Callable[Concatenate[Any, P], CallLike[T]]) -> None:
        def call(caller: Any, *args: P.args, **kwargs: P.kwargs) -> T:
            return caller._follow(iter(method(caller, *args, **kwargs)))

        async def call_async(caller: Any, *args: P.args, **kwargs: P.kwargs) -> T:
            return await caller._follow(iter(method(caller, *args, **kwargs)))

        self.__doc__ = method.__doc__
        self._call = _described(call, method, "{}")
        self._call_async = _described(call_async, method, "{}")

    @overload
    def __get__(self, caller: CallRunner, owner: type[Any]) -> Callable[P, T]: ...
    @overload
    def __get__(self, caller: AsyncCallRunner, owner: type[Any]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, caller: None, owner: type[Any]) -> Callable[Concatenate[Any, P], Any]: ...
    def __get__(self, caller: Any, owner: type[Any]) -> Any:
        function: Any = self._call_async if issubclass(owner, AsyncCallRunner) else self._call
        return function.__get__(caller, owner)


class client_stream(Generic[P, T]):
    """A method that yields the values of a stream: a generator, or an asynchronous generator."""

    def __init__(self, method: Callable[Concatenate[Any, P], Stream[T]]) -> None:
        def described(returns: str) -> Callable[..., Any]:
            def stream(caller: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
                return caller._stream(method(caller, *args, **kwargs))

            return _described(stream, method, returns)

        self.__doc__ = method.__doc__
        self._stream = described("Generator[{}, None, None]")
        self._stream_async = described("AsyncGenerator[{}, None]")

    @overload
    def __get__(self, caller: BaseClient, owner: type[Any]) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, caller: AsyncBaseClient, owner: type[Any]) -> Callable[P, AsyncGenerator[T, None]]: ...
    @overload
    def __get__(self, caller: None, owner: type[Any]) -> Callable[Concatenate[Any, P], Any]: ...
    def __get__(self, caller: Any, owner: type[Any]) -> Any:
        function: Any = self._stream_async if issubclass(owner, AsyncBaseClient) else self._stream
        return function.__get__(caller, owner)


def _described(function: F, method: Callable[..., Any], returns: str) -> F:
    """Copies name, parameters and documentation of a method, with another return type."""
    signature = inspect.signature(method)
    value = _VALUE.fullmatch(str(signature.return_annotation))
    described = functools.wraps(method)(function)
    annotation = returns.format(value[1] if value else Any)
    described.__signature__ = signature.replace(return_annotation=annotation)  # type: ignore[attr-defined]
    return described  # type: ignore[return-value]
