"""Names and texts that others chose: check the names of experiments and classes, and show any value safely in a message."""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import PurePath
from typing import Any

MAX_NAME = 120  # characters
MAX_CLASS_NAME = 255  # characters; as many as a folder's name may have
MAX_LISTED = 20  # names in one message
_RESERVED = {"con", "prn", "aux", "nul", "sweeps", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))}

Nested = dict[
    str, Any
]  # settings by section and option, as YAML files, key=value and Python calls give them: not checked yet


def check_name(value: str) -> str:
    """``value``, if it can be the name of a folder on every system.

    >>> check_name("fer2013-disgust5")
    'fer2013-disgust5'
    >>> check_name("runs/first")
    Traceback (most recent call last):
        ...
    ValueError: the name 'runs/first' contains '/'; use the name of a single folder, not a path

    Raises:
        ValueError: it is empty, too long, a path or a reserved name, or has control characters.
    """
    if not value or not value.strip(" ."):
        raise ValueError("the name is empty; use letters and digits")
    if len(value) > MAX_NAME or len(value.encode(errors="surrogatepass")) > 200:
        raise ValueError(f"the name has {len(value)} characters; at most {MAX_NAME} are allowed")
    bad = sorted({c for c in value if c in '/\\<>:"|?*@' or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")})
    if bad:
        raise ValueError(
            f"the name {value!r} contains {' '.join(map(repr, bad))}; use the name of a single folder, not a path"
        )
    if value.startswith((".", "-", " ", "=", "+")) or value.endswith((".", " ")):
        raise ValueError(f"the name {value!r} starts or ends with a dot, sign or space; use letters and digits there")
    if value.split(".")[0].lower() in _RESERVED:
        raise ValueError(f"the name {value!r} is reserved; choose another")
    return value


def check_class(value: str) -> str:
    """``value``, if it can be the name of a class: one line in any script, which may include emoji and direction marks.

    Raises:
        ValueError: it is empty, too long, or has characters that cannot be in one line of a text file.
    """
    if not value.strip():
        raise ValueError("the name of a class is empty; give the class a name")
    if len(value) > MAX_CLASS_NAME:
        raise ValueError(
            f"the name of class {short_repr(value)} has {len(value):,} characters; at most {MAX_CLASS_NAME} are allowed"
        )
    bad = sorted({c for c in value if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")})
    if bad:
        raise ValueError(
            f"the name of class {short_repr(value)} contains {' '.join(map(ascii, bad[:5]))}, which cannot be in a line of "
            "text; rename the class"
        )
    return value


def plain(text: object) -> str:
    r"""Text without control characters and direction marks, so that no name can control the terminal.

    >>> plain("a\x1b[2Jb")
    'a·[2Jb'
    """
    return "".join(c if c.isprintable() else "·" for c in str(text))


def ascii_form(name: str) -> str:
    """A name for programs that take ASCII only, such as Ray: equal for equal names, different for different ones.

    >>> ascii_form("base_20261129_101500")
    'base_20261129_101500'
    >>> ascii_form("Übung_1"), ascii_form("表情")
    ('Ubung_1-84cc86', '-c762ed')
    """
    if name.isascii():
        return name
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return f"{letters}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:6]}"


def labels(names: Sequence[str]) -> list[str]:
    r"""Plain names that still differ: where two look the same without their control characters and marks, both are shown with
    escapes.

    >>> labels(["cat", "dog\u200f", "dog\u200e"])
    ['cat', 'dog\\u200f', 'dog\\u200e']
    """
    shown = [plain(name) for name in names]
    seen = [unicodedata.normalize("NFC", text).strip() for text in shown]
    often = Counter(seen)
    return [ascii(n)[1:-1] if often[key] > 1 else text for n, text, key in zip(names, shown, seen, strict=True)]


def truncate(text: object, most: int = 400) -> str:
    """Plain text of at most ``most`` characters; the middle of a longer text is left out.

    >>> truncate("abcdefghij", 5)
    'ab…ij'
    """
    whole = str(text)
    return plain(whole if len(whole) <= most else f"{whole[: most // 2]}…{whole[len(whole) - (most - 1) // 2 :]}")


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PARAMETER = r"(?<=[?&;])(?:[\w.-]*(?:pass|pwd|token|secret|credential|signature|api_?key|access_?key)[\w.-]*|user|username|sig|key)="
_SECRET = re.compile(rf"(?i){_PARAMETER}[^&;#\s]*[&;]?")
_IN_ADDRESS = re.compile(rf"(?i)({_PARAMETER})[^&;#\s'\"<>]+")
_IN_TEXT = re.compile(rf"({_SCHEME.pattern})([^\s/?#'\"<>]+@|[^\s/?#'\"<>:]*:[^\s'\"<>@]*[^\s'\"<>@\d][^\s'\"<>@]*@)")


def without_credentials(address: str) -> str:
    """An address without user name, password, and parameters that are secrets.

    >>> without_credentials("https://me:pa/ss@host:5000/x?token=1&y=2")
    'https://host:5000/x?y=2'
    >>> without_credentials("sqlite:///runs.db")
    'sqlite:///runs.db'
    """
    scheme = _SCHEME.match(address)
    if scheme is None:
        return address
    rest = address[scheme.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host, _, port = authority.partition(":")
    if "@" in authority:
        rest = rest[authority.rindex("@") + 1 :]
    elif "@" in rest and host and port and not port.isdecimal():  # a password with a slash
        rest = rest.rpartition("@")[2]
    return scheme[0] + _SECRET.sub("", rest).rstrip("?&")


def hide_credentials(text: str) -> str:
    """A text for people, in which no address has a user name, a password or a parameter that is a secret.

    >>> hide_credentials("cannot reach 'https://me:secret@host/x?token=abc'")
    "cannot reach 'https://…@host/x?token=…'"
    """
    if "://" not in text:
        return text
    return _IN_ADDRESS.sub(r"\1…", _IN_TEXT.sub(r"\1…@", text))


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """A number and its noun, such as ``1 epoch`` or ``1,200 images``.

    >>> counted(1, "epoch"), counted(0, "branch", "branches")
    ('1 epoch', '0 branches')
    """
    amount = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{amount} {noun if number == 1 else plural or noun + 's'}"


def join_names(names: Iterable[object]) -> str:
    """The names, separated by commas; at most 20 of them, and how many more there are.

    >>> join_names(["happy", "sad"])
    'happy, sad'
    >>> join_names(range(22))[-13:]
    '19 and 2 more'
    """
    every = [str(name) for name in names]
    more = len(every) - MAX_LISTED
    return ", ".join(truncate(name, 80) for name in every[:MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def percent(value: object) -> str:
    """``81.3%``; ``-`` if the value is not a number."""
    return f"{value:.1%}" if isinstance(value, (int, float)) else "-"


def decimals(value: object) -> str:
    """``0.813``; ``-`` if the value is not a number."""
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"


def differences(mine: Sequence[str], other: Sequence[str], me: str, it: str) -> str:
    """In what two lists of classes differ: all names of short lists, of long ones those that one of the two lacks, or else
    the first place where the order differs.

    >>> differences(["cat", "dog"], ["dog", "cat"], "the checkpoint", "the data")
    'The classes of the checkpoint are cat, dog; those of the data are dog, cat'
    >>> many = [str(i) for i in range(100)]
    >>> differences(many, [*many[:-1], "x"], "the checkpoint", "the data")
    'Of the classes of the checkpoint, the data lack 99; of those of the data, the checkpoint lacks x'
    """
    if max(len(mine), len(other)) <= MAX_LISTED:
        return f"The classes of {me} are {join_names(mine)}; those of {it} are {join_names(other)}"
    here, there = set(mine), set(other)
    gone, new = [c for c in mine if c not in there], [c for c in other if c not in here]
    if gone or new:
        lack = "lack" if it == "the data" else "lacks"
        parts = [f"of the classes of {me}, {it} {lack} {join_names(gone)}"] if gone else []
        parts += [f"of those of {it}, {me} lacks {join_names(new)}"] if new else []
        return (text := "; ".join(parts))[:1].upper() + text[1:]
    at = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), 0)
    return (
        f"{me} and {it} have the same {len(mine):,} classes in another order: number {at + 1} is {truncate(mine[at], 80)} in "
        f"one and {truncate(other[at], 80)} in the other"
    )


class _Short(reprlib.Repr):
    """A ``repr`` whose work is limited, whatever the size of the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 4
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to print a number of more than 4,300 digits.
        return repr(x) if x.bit_length() < 200 else f"a number of {round(x.bit_length() * 0.30103):,} digits"

    def repr_instance(self, x: Any, level: int) -> str:
        # The ``repr`` of any other type may print everything it contains.
        return repr(x) if isinstance(x, (bool, float, date, PurePath, type(None))) else f"<{type(x).__name__}>"


def short_repr(value: Any) -> str:
    """``repr`` of any value in at most 120 characters, even if it is deeply nested or huge.

    >>> short_repr([1, 2, 3, 4, 5, 6])
    '[1, 2, 3, 4, ...]'
    """
    return truncate(_Short().repr(value), 120)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON for any terminal: null instead of NaN, and escapes for characters that could control the terminal.

    >>> json_text({"val_loss": float("nan"), "class": "disgust"})
    '{"val_loss": null, "class": "disgust"}'
    """
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _finite(value: Any) -> Any:
    """``value`` with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dotted(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested settings; an empty mapping is a value.

    >>> dict(dotted({"data": {"path": "images"}, "seed": 0}))
    {'data.path': 'images', 'seed': 0}
    """
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from dotted(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
