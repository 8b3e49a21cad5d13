"""From files, overrides and flags to checked :class:`~raysweep.config.settings.Settings`, or to one error that lists every mistake."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from raysweep._text import Nested, counted, short_repr, truncate
from raysweep.config import examples, synonyms
from raysweep.config.own import WordOrCode
from raysweep.config.settings import Settings, written_out
from raysweep.config.types import check_range
from raysweep.errors import ConfigError, Faults, did_you_mean

MAX_ERRORS = 10  # listed at once


def load(path: str | Path | None, overrides: Sequence[str] = (), more: Mapping[str, Any] | None = None) -> Settings:
    """Settings from a YAML file; ``key=value`` overrides win over the file, and ``more`` (from flags) over both.

    Args:
        path: None: the defaults. The name of an example, such as ``base``, also where its file is not there.

    Raises:
        ConfigError: the file or an override cannot be read, or the settings are wrong; see :func:`validate`.
    """
    from raysweep.config.yaml import read_yaml_lines

    values, lines = read_yaml_lines(examples.configuration(path)) if path is not None else ({}, {})
    changed = merge(written_out(parse_overrides(overrides)), more or {})
    if path is None:
        return validate(changed, "the options given")
    source = str(path) if not changed else f"{path} with the overrides given"
    return validate(merge(written_out(values), changed), source, lines)


def validate(
    values: Mapping[str, Any], source: str = "the configuration", lines: Mapping[str, int] | None = None
) -> Settings:
    """Checked settings.

    Raises:
        ConfigError: lists every mistake with its dotted key, and with its line where ``lines`` has it.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, source, lines)) from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Nested:
    """``base`` updated with ``over``; nested mappings are merged key by key."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def parse_overrides(overrides: Sequence[str]) -> Nested:
    """``["training.learning_rate=1e-4"]`` as a nested mapping.

    An option that is a text gets what was typed, whatever YAML would make of it (``null``, ``1e3``, ``a: b``, ``fer #2``); in
    quotes it is what they enclose, and with nothing after the equals sign an option that may be missing is. Other values are
    read as in a file.

    Raises:
        ConfigError: an item is not of the form key=value, or its value cannot be read.
    """
    result: Nested = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"The override {short_repr(item)} is not of the form key=value, such as training.epochs=10."
            )
        kind = _annotation_of(key.strip())
        given: Any
        if is_text(kind):
            given = _typed(value, kind)
        elif _holds_texts(kind):
            given = _read(item, value.strip(), texts=True)
        else:
            result = _with(result, _from_yaml(item, value))
            continue
        for part in reversed(key.strip().split(".")):
            given = {part: given}
        result = _with(result, given)
    return result


def _with(result: Nested, given: Nested) -> Nested:
    """Both, also where one has the short form of a section of which the other has an option."""
    if any(key in result and isinstance(result[key], str) != isinstance(value, str) for key, value in given.items()):
        result, given = written_out(result), written_out(given)
    return merge(result, given)


def assignment(key: str, value: Any) -> str:
    """``key=value`` that :func:`parse_overrides` reads back, whatever the value is."""
    if value is None and is_text(_annotation_of(key)):
        return f"{key}="
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def is_text(annotation: Any) -> bool:
    """Whether an option is a text, or one of several words."""
    found = _unwrap(annotation)
    return found is str or (get_origin(found) is Literal and all(isinstance(word, str) for word in get_args(found)))


def _holds_texts(annotation: Any) -> bool:
    """Whether an option is a list of texts, or a mapping to texts."""
    found = _unwrap(annotation)
    return get_origin(found) in (list, tuple, dict) and all(is_text(a) for a in get_args(found) if a is not Ellipsis)


def _annotation_of(key: str) -> Any:
    """The type of the option with this dotted key; None if there is none."""
    found: Any = Settings
    for part in key.split("."):
        found = _inside(_unwrap(found), part)
    return found


def _typed(value: str, annotation: Any) -> str | None:
    if not value.strip() and type(None) in get_args(annotation):
        return None
    if len(value) > 1 and value.strip()[:1] in ("'", '"') and value.strip()[-1:] == value.strip()[0]:
        import yaml

        with contextlib.suppress(yaml.YAMLError):
            node = yaml.compose(value.strip(), Loader=yaml.SafeLoader)
            if isinstance(node, yaml.ScalarNode) and node.end_mark.index == len(value.strip()):
                return str(node.value)
    return value


def _read(item: str, value: str, texts: bool) -> Any:
    """A value as YAML; with ``texts``, numbers and other words in it stay as they were typed."""
    import yaml

    try:
        node = yaml.compose(value, Loader=yaml.BaseLoader)
        if node is not None and node.end_mark.index < len(value) and "#" in value[node.end_mark.index :]:
            if isinstance(node, yaml.ScalarNode) and node.style is None:
                return value
            raise ValueError("what follows the # would be left out; put it in quotes")
        if not texts:
            return None
        return None if value in ("", "null", "~") else yaml.load(value, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unreadable(item, error) from None


def _from_yaml(item: str, value: str) -> Nested:
    """An override of an option that is no text, read by OmegaConf.

    Raises:
        ConfigError: the value cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from raysweep.config.yaml import AMBIGUOUS

    if AMBIGUOUS.match(value.strip()):
        raise ConfigError(
            f"The override {short_repr(item)} is one number in YAML 1.1 and something else in YAML 1.2. Write a plain decimal "
            "number, or quote it as text."
        )
    if "#" in value and (whole := _read(item, value.strip(), texts=False)) is not None:
        item = f"{item.partition('=')[0]}={json.dumps(whole)}"
    try:
        nested = OmegaConf.to_container(OmegaConf.from_dotlist([item]), resolve=False)
    except (OmegaConfBaseException, YAMLError, ValueError, AttributeError, RecursionError) as error:
        key = item.partition("=")[0].strip()
        if (
            "." in key and not isinstance(error, RecursionError) and _annotation_of(key) is None
        ):  # it is not the value that is wrong
            raise ConfigError(
                f"{short_repr(key)} is no option.{did_you_mean(key, option_names())} `raysweep run --dry-run --show-config` shows all."
            ) from None
        raise _unreadable(item, error) from None
    assert isinstance(nested, dict)
    return {str(k): v for k, v in nested.items()}


def _unreadable(item: str, error: Exception) -> ConfigError:
    reason = truncate(" ".join(str(error).split()), 200)
    return ConfigError(f"The overrides {truncate(item, 200)!r} cannot be read: {reason}.")


def parse_workers(text: str | None) -> int | list[int] | None:
    """The value of ``--workers``: a number, or the smallest and largest number, ``2-8``.

    Raises:
        ConfigError: neither of them.
    """
    if text is None:
        return None
    least, dash, most = text.partition("-")
    if not least.isdecimal() or (dash and not most.isdecimal()) or len(text) > 20:
        raise ConfigError(
            f"--workers {short_repr(text)} is not valid. Give a number, such as 4, or a range, such as 2-8."
        )
    try:
        return check_range([int(least), int(most)]) if dash else int(least)
    except ValueError as error:
        raise ConfigError(f"--workers: {error}.") from None


def explain(error: ValidationError, model: type[BaseModel], source: str, lines: Mapping[str, int] | None = None) -> str:
    """All mistakes that a validation found, as one paragraph: dotted key, line, and what is wrong; the first ten in full."""
    found: dict[tuple[str, str, str], tuple[Mapping[str, Any], list[str]]] = {}
    for detail in error.errors(include_url=False):
        keys, known = _locate(model, detail["loc"])
        found.setdefault((".".join(keys), detail["type"], detail["msg"]), (dict(detail), known))
    messages = []
    for (key, _, _), (first, known) in itertools.islice(found.items(), MAX_ERRORS):
        line = (lines or {}).get(key)
        where = truncate(key, 200) + (f" (line {line})" if line else "")
        message = _describe(first, key.rpartition(".")[2], known).rstrip(".")
        messages.append(f"{where}: {message}" if where else message)
    if more := len(found) - len(messages):
        messages.append(f"and {more:,} more")
    return Faults.of(f"{counted(len(found), 'error')} in {truncate(source)}", messages)


def _describe(detail: Mapping[str, Any], last: str, known: list[str]) -> str:
    """What is wrong with the option whose key ends in ``last``."""
    kind, value, text = detail["type"], detail["input"], str(detail["msg"])
    if kind == "extra_forbidden":
        return f"there is no such option.{_suggestion(last, known)}"
    if kind in ("value_error", "missing"):
        return text.removeprefix("Value error, ")
    if kind == "less_than_equal":
        text = f"at most {detail['ctx']['le']:,} is allowed"
    remedy = "; put it in quotes" if kind == "string_type" and isinstance(value, (bool, int, float, date)) else ""
    return f"{text}, not {short_repr(value)}{remedy}"


def _suggestion(last: str, known: list[str]) -> str:
    """The option that was probably meant: the one of this name in another section, or else the most similar one here."""
    elsewhere = [key for key in option_names() if key.rpartition(".")[2] == last]
    if elsewhere and last not in known:
        return f" Did you mean {' or '.join(elsewhere)}?"
    if known_elsewhere := synonyms.answer(last):
        return known_elsewhere
    return did_you_mean(truncate(last, 80), known)


def words_of(key: str) -> tuple[str, ...]:
    """The words that an option may have; none where it is not one of a few words."""
    section, _, name = key.rpartition(".")
    option = getattr(_unwrap(_annotation_of(section)) if section else Settings, "model_fields", {}).get(name)
    for told in () if option is None else option.metadata:
        if isinstance(told, WordOrCode):
            return (*told.words, "python:")
    found = _unwrap(_annotation_of(key))
    if found is bool:
        return ("true", "false")
    return tuple(map(str, get_args(found))) if get_origin(found) is Literal else ()


def option_names() -> list[str]:
    """Every option with its dotted key."""
    found: list[str] = []

    def add(model: Any, prefix: str) -> None:
        for name, option in model.model_fields.items():
            inner = _unwrap(option.annotation)
            if hasattr(inner, "model_fields"):
                add(inner, f"{prefix}{name}.")
            else:
                found.append(f"{prefix}{name}")

    add(Settings, "")
    return found


def _locate(annotation: Any, loc: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """An error's keys as the user wrote them, and the options that exist at the place of the last one.

    Pydantic also names the member of a union that it tried; these parts are left out.
    """
    keys: list[str] = []
    known: list[str] = []
    for part in loc:
        annotation = _unwrap(annotation)
        members = _members(annotation)
        if members:
            annotation = next((m for m in members if getattr(m, "__name__", None) == part), None)
            continue
        keys.append(str(part))
        known = list(getattr(annotation, "model_fields", {}))
        annotation = _inside(annotation, part)
    return keys, known


def _inside(annotation: Any, key: Any) -> Any:
    """The type of a section's option, or of the values of a list or mapping; None if there is none."""
    fields = getattr(annotation, "model_fields", None)
    if fields is None:
        return (get_args(annotation) or (None,))[-1]
    return fields[key].annotation if key in fields else None


def _unwrap(annotation: Any) -> Any:
    """A type without ``Annotated`` and without ``| None``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif len(members := _members(annotation)) == 1:
            annotation = members[0]
        else:
            return annotation


def _members(annotation: Any) -> list[Any]:
    """The members of a union without None; empty if it is no union."""
    if get_origin(annotation) not in (Union, UnionType):
        return []
    return [m for m in get_args(annotation) if m is not type(None)]
