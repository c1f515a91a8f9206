"""What a task's function takes: its signature, read once at load and refused there if no message can fill it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from kworker.errors import PluginError
from kworker.plugin import Context, TaskSpec

CONTEXT = "ctx"
"""The keyword argument by which a function receives its Context."""

NO_DEFAULT = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter that a message fills. `default` is NO_DEFAULT when it must be given."""

    name: str
    hint: Any
    default: object = NO_DEFAULT


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a message may fill, in the function's order.

    The first `positional` of `named` go by position, the others by name. `extra` is what `**kwargs` may hold (None:
    there is no `**kwargs`), `reserved` the names it may not. `wants_context`: the function takes `ctx`.
    """

    named: tuple[Parameter, ...]
    positional: int
    extra: Parameter | None
    reserved: frozenset[str]
    wants_context: bool


def read(spec: TaskSpec) -> Parameters:
    """Read the parameters of the task's function.

    Raises PluginError, naming task and parameter, for what a message cannot fill.
    """
    named: list[Parameter] = []
    positional: int | None = None
    extra = None
    wants_context = False
    for parameter in inspect.signature(spec.function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise _error(spec, parameter.name, "a message cannot fill *args: take a list instead")
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = Parameter(parameter.name, _hint(spec, parameter))
        elif parameter.name == CONTEXT:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise _error(spec, CONTEXT, "it is passed by name: write it after the /")
            wants_context = True
            positional = len(named) if positional is None else positional  # what follows ctx goes by name, as ctx does
        else:
            if parameter.kind is parameter.KEYWORD_ONLY and positional is None:
                positional = len(named)
            named.append(Parameter(parameter.name, _hint(spec, parameter), parameter.default))
    return Parameters(
        named=tuple(named),
        positional=len(named) if positional is None else positional,
        extra=extra,
        reserved=_reserved(spec.function, wants_context),
        wants_context=wants_context,
    )


def _hint(spec: TaskSpec, parameter: inspect.Parameter) -> Any:
    """The type a message must have for `parameter`, checked to be one that msgspec can make from JSON."""
    if parameter.annotation is parameter.empty:
        return Any
    hint = _resolved(spec, parameter)
    if hint is Context:
        raise _error(spec, parameter.name, f"a Context is passed by the name {CONTEXT}: rename the parameter")
    try:
        msgspec.json.schema(hint, schema_hook=schema_of_object)
    except Exception as error:  # whatever a type's own hooks raise, the type cannot be read
        shown = getattr(hint, "__qualname__", None) or repr(hint)
        raise _error(
            spec,
            parameter.name,
            f"{shown} cannot be read from JSON ({str(error).splitlines()[-1]}): "
            "use a type that msgspec knows and convert it in the task",
        ) from error
    return hint


def _resolved(spec: TaskSpec, parameter: inspect.Parameter) -> Any:
    # One by one, on a stand-in: another annotation that exists for type checkers only (the result, ctx) does no harm.
    def stand_in() -> None: ...

    stand_in.__annotations__ = {parameter.name: parameter.annotation}
    names: dict[str, Any] = getattr(inspect.unwrap(spec.function), "__globals__", {})
    try:
        return typing.get_type_hints(stand_in, globalns=names, include_extras=True)[parameter.name]
    except Exception as error:  # an annotation is any expression of the plugin's
        raise _error(
            spec,
            parameter.name,
            f"its annotation {parameter.annotation!r} cannot be resolved ({error}): "
            "import the name at run time, not only under TYPE_CHECKING",
        ) from error


def schema_of_object(hint: type) -> dict[str, Any]:
    """The schema of `object`, which takes anything, as Any does; no other class outside msgspec's is known."""
    if hint is object:
        return {"description": "any value"}
    raise NotImplementedError


def _reserved(function: Callable[..., Any], wants_context: bool) -> frozenset[str]:
    """Names that Python itself passes: a message must not send them into `**kwargs`."""
    names = {CONTEXT} if wants_context else set()
    if inspect.ismethod(function):
        names.add(next(iter(inspect.signature(function.__func__).parameters)))
    return frozenset(names)


def _error(spec: TaskSpec, parameter: str, why: str) -> PluginError:
    return PluginError(f'task "{spec.name}", parameter "{parameter}": {why}')
