"""The tree of an experiment or a sweep: ancestors and descendants, with a bar of the epochs of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice

from raysweep.errors import RaysweepError
from raysweep.report import tree
from raysweep.report.sections.records import TreeLine
from raysweep.report.tree import Node
from raysweep.store.root import Root


def lines(root: Root, of: str | None, most: int, branches: Collection[str] | None = None) -> list[TreeLine]:
    """The tree of the experiment ``of``, at most ``most`` lines; of everything under the root if there is no such
    experiment.

    Args:
        branches: ids of a sweep's experiments; the tree is then limited to these and to ``of`` with its ancestors.
    """
    try:
        nodes = tree.build(root, str(of))
    except RaysweepError:
        nodes = tree.build(root)
    if branches is not None:
        nodes = _limited(nodes, {*_ancestors(nodes, str(of)), *branches})
    return shown(nodes, most)


def shown(nodes: dict[str, Node], most: int) -> list[TreeLine]:
    """The first lines of a tree."""
    end = max([n.end for n in nodes.values()] + [1])
    return [_line(nodes, name, guides, about, end) for guides, name, about in islice(tree.lines(nodes), most)]


def _line(nodes: Mapping[str, Node], name: str, guides: str, about: str, end: int) -> TreeLine:
    node = nodes[name]
    return TreeLine(
        guides=guides.split("@")[0],
        edge=f"@{node.epoch} {tree.edge(node)}" if node.parent in nodes else "",
        name=name,
        about=about,
        start=100 * node.epoch / end,
        length=100 * max(0, node.end - node.epoch) / end,
        control=node.control,
    )


def _ancestors(nodes: Mapping[str, Node], of: str) -> set[str]:
    """The experiment and its ancestors."""
    found: set[str] = set()
    at: str | None = of
    while at is not None and at in nodes and at not in found:
        found.add(at)
        at = nodes[at].parent
    return found


def _limited(nodes: Mapping[str, Node], keep: Collection[str]) -> dict[str, Node]:
    kept = {name: node for name, node in nodes.items() if name in keep}
    for node in kept.values():
        node.children = [c for c in node.children if c in kept]
    return kept
