"""What mkdocs does beside the pages: the reference is written from the program itself, so that it cannot become wrong.

The pages ``reference/*.md`` come from the configuration's schema, from the command line and from the docstrings.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = "https://github.com/raysweep/raysweep/blob/main"
DOCUMENTS = ROOT / "docs"


# --- options -------------------------------------------------------------------------------------------------------

OPTIONS = (
    "A configuration file has these sections; on the command line an option is `section.name=value`. An option without "
    "a section, such as `seed`, stands by itself. [Configuration](../configuration.md) says how files are read."
)
GRID = "A grid file has these keys. [Sweeps](../sweeps.md) says what they do together."


def options(file: str, title: str, intro: str) -> str:
    """A table for each section of a JSON schema."""
    schema = json.loads((ROOT / "configs" / file).read_text(encoding="utf-8"))
    single: list[str] = []
    parts = [f"# {title}", intro]
    for name, node in schema["properties"].items():
        section = section_of(schema, node)
        if section is None:
            single.append(row(schema, name, node))
            continue
        parts.append(f"## {name}\n\n{section_text(section)}\n\n" + table(rows(schema, f"{name}.", section)))
    if single:
        parts.insert(2, table(single))
    return "\n\n".join(parts) + "\n"


def table(lines: list[str]) -> str:
    return "\n".join(["| option | value | |", "|---|---|---|", *lines])


def section_text(section: dict[str, Any]) -> str:
    return " ".join(section.get("description", "").split())


def rows(schema: dict[str, Any], prefix: str, section: dict[str, Any]) -> list[str]:
    """A line for each option of a section, and of the sections within it."""
    found = []
    for name, node in section["properties"].items():
        found.append(row(schema, prefix + name, node))
        inner = section_of(schema, node)
        if inner is not None:
            found += rows(schema, f"{prefix}{name}.", inner)
    return found


def section_of(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any] | None:
    """The only object with options that a value can be, if there is one."""
    variants = [resolve(schema, v) for v in node.get("anyOf", [node])]
    objects = [v for v in variants if v.get("properties")]
    return objects[0] if len(objects) == 1 else None


def resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def row(schema: dict[str, Any], name: str, node: dict[str, Any]) -> str:
    default = node.get("default")
    empty = default is None or default == "" or isinstance(default, dict)
    shown = "" if empty else f"; default `{json.dumps(default, ensure_ascii=False)}`".replace('"', "")
    about = " ".join(str(node.get("description", "")).split())
    cells = (f"`{name}`", value(schema, node) + shown, code_in(about))
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def code_in(text: str) -> str:
    """Braces and angles of examples as they are, not as Markdown or HTML."""
    return re.sub(r"[<>*_\[\]]", lambda m: "\\" + m[0], text)


def value(schema: dict[str, Any], node: dict[str, Any]) -> str:
    """What an option takes, in words."""
    kinds = [v for v in node.get("anyOf") or node.get("oneOf") or [node] if v.get("type") != "null"]
    return " or ".join(dict.fromkeys(k for v in kinds if (k := kind(schema, v))))


def kind(schema: dict[str, Any], node: dict[str, Any]) -> str:
    if "$ref" in node:
        node = resolve(schema, node)
    if "anyOf" in node or "oneOf" in node:
        return value(schema, node)
    if "const" in node:
        return f"`{json.dumps(node['const']).strip(chr(34))}`"
    if "enum" in node:
        return ", ".join(f"`{json.dumps(word).strip(chr(34))}`" for word in node["enum"])
    if "prefixItems" in node:
        return "[" + ", ".join(kind(schema, v) for v in node["prefixItems"]) + "]"
    given = str(node.get("type", ""))
    if given == "array":
        inner = value(schema, node.get("items", {}))
        return f"list of {inner}" if inner else "list"
    if given == "object":
        return "mapping" if not node.get("properties") else "{" + ", ".join(node["properties"]) + "}"
    if given == "string":
        return "`python:MODULE:NAME`" if str(node.get("pattern", "")).startswith("^python:") else "text"
    words = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    return words.get(given, "") + limits(node)


def limits(node: dict[str, Any]) -> str:
    found = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found |= {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    told = [f"{sign} {node[key]:,}" for key, sign in found.items() if node.get(key, 10**9) < 10**9]
    return f" {', '.join(told)}" if told else ""


# --- commands ------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments, options and examples, as ``--help`` has them."""
    import typer

    from raysweep.cli import help_texts, main

    main._register([])
    group: Any = typer.main.get_command(main.app)
    parts = [
        "# Every command",
        "What `raysweep COMMAND --help` says. [Commands at a glance](../commands.md) is shorter.",
    ]
    for title, verbs in help_texts.GROUPS.items():
        parts.append(f"## {title}")
        parts += [command(group, verb) for verb in verbs]
    others = [verb for verb in group.commands if verb not in {v for verbs in help_texts.GROUPS.values() for v in verbs}]
    parts += ["## Others", *(command(group, verb) for verb in others)]
    return "\n\n".join(parts) + "\n"


def command(group: Any, verb: str) -> str:
    from raysweep.cli import help_texts

    found = group.commands[verb]
    context = found.context_class(found, info_name=f"raysweep {verb}")
    parts = [f"### {verb}", *paragraphs(found.help or "")]
    parts.append(f"```text\n{' '.join(found.get_usage(context).split()).removeprefix('Usage: ')}\n```")
    records = [parameter(context, p) for p in found.get_params(context) if not getattr(p, "hidden", False)]
    parts.append("\n".join(["| | |", "|---|---|", *(r for r in records if r)]))
    if lines := help_texts.EXAMPLES.get(verb):
        typed = [(f"# {what}\n" if what else "") + line for what, line in lines]
        parts.append("```bash\n" + "\n".join(typed) + "\n```")
    return "\n\n".join(parts)


def paragraphs(text: str) -> list[str]:
    return [code_in(" ".join(part.split())) for part in text.split("\n\n") if part.strip()]


def parameter(context: Any, found: Any) -> str:
    record = found.get_help_record(context) or (found.make_metavar(context), getattr(found, "help", "") or "")
    name, about = (" ".join(str(part).split()).replace("|", "\\|") for part in record)
    return f"| `{name}` | {code_in(about)} |" if "--help" not in name else ""


# --- Python --------------------------------------------------------------------------------------------------------


def python() -> str:
    """Every public name: functions and classes with their docstrings, errors as a table."""
    import raysweep

    names = {name: getattr(raysweep, name) for name in raysweep.__all__}
    errors = {n: v for n, v in names.items() if isinstance(v, type) and issubclass(v, BaseException)}
    others = [f"::: {getattr(v, '__module__', 'raysweep')}.{n}" for n, v in names.items() if n not in errors]
    told = [f"| `{n}` | {' '.join((v.__doc__ or '').split(chr(10) * 2)[0].split())} |" for n, v in errors.items()]
    return "\n\n".join(
        [
            "# Python",
            "Everything here is imported from `raysweep`: `from raysweep import run_experiment`.",
            "## Functions and classes",
            *others,
            "## Errors",
            "Every error is a `RaysweepError`; its message says what is wrong, where, and what to do.",
            "\n".join(["| error | |", "|---|---|", *told]),
        ]
    )


def changes() -> str:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!http)(?:docs/)?", "](../", text)


PAGES = {  # page → what writes it
    "reference/options.md": lambda: options("schema.json", "Every option", OPTIONS),
    "reference/grid.md": lambda: options("grid.schema.json", "Every key of a grid", GRID),
    "reference/commands.md": commands,
    "reference/python.md": python,
    "reference/changes.md": changes,
}

# --- what mkdocs calls ---------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Add the pages that nav does not name to its guides: a new page is found, and nobody has to know mkdocs for it."""
    named = set(re.findall(r"[\w/]+\.md", json.dumps(config.nav)))
    guides = next(entry["Guides"] for entry in config.nav if "Guides" in entry)
    guides += sorted({p.name for p in DOCUMENTS.glob("*.md")} - named)
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path, write in PAGES.items():
        files.append(File.generated(config, path, content=write()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files of the repository that are no pages lead to where the repository is."""
    if page.file.generated_by:
        return markdown
    return re.sub(r"\]\(\.\./(?=[\w.])", f"]({SOURCE}/", markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Docstrings name things as Sphinx does, ``:class:`Root```; the site shows the name."""
    return re.sub(r":(?:mod|func|class|meth|data|attr):<code>", "<code>", html)
