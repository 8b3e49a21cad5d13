"""What may be the name of an experiment or a sweep: one folder's name on every system, never a path."""

from __future__ import annotations

import unicodedata

MAX_NAME = 120
_RESERVED = {"con", "prn", "aux", "nul", "sweeps", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))}


def check_name(value: str) -> str:
    """``value`` if it can be the name of a folder on every system.

    Raises:
        ValueError: empty, longer than 120 characters, a path, a reserved name, or control characters in it.
    """
    if not value or not value.strip(" ."):
        raise ValueError("the name is empty; give letters and digits")
    if len(value) > MAX_NAME or len(value.encode()) > 200:
        raise ValueError(f"the name has {len(value)} characters; at most {MAX_NAME} are allowed")
    bad = sorted({c for c in value if c in '/\\<>:"|?*@' or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")})
    if bad:
        shown = " ".join(repr(c) for c in bad)
        raise ValueError(f"the name {value!r} contains {shown}; a name is one folder's name, not a path")
    if value.startswith((".", "-", " ", "=", "+")) or value.endswith((".", " ")):
        raise ValueError(f"the name {value!r} starts or ends with a dot, sign or space; use letters and digits there")
    if value.split(".")[0].lower() in _RESERVED:
        raise ValueError(f"the name {value!r} is reserved; choose another")
    return value
