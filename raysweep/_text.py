"""Names and texts that others chose: check the names of experiments and classes, and show any value safely in a message."""

from __future__ import annotations

import json
import math
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
