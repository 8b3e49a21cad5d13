"""The tree of experiments by parent checkpoint, with the ratio change on every edge: as lines of text, as data, as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysweep.store import index, resolve
from raysweep.store.fields import Row
from raysweep.store.root import Root
from raysweep.weights import Changed, changes, describe_changed


@dataclass
class Node:
    """One experiment. ``change`` is what changed on the edge to its parent."""

    id: str
    row: Row | None = None  # None if its folder is not under this root and only its children name it
    parent: str | None = None
    epoch: int = 0  # the parent's epoch that this one started from
    change: Changed = field(default_factory=dict)
    seed: tuple[int, int] | None = None  # (before, after) where it changed
    children: list[str] = field(default_factory=list)

    @property
    def control(self) -> bool:
        return self.row is not None and self.row.control

    @property
    def end(self) -> int:
        """Its last epoch; if it has none yet, the epoch that it started from."""
        return (self.row.epochs_done if self.row else 0) or self.epoch

    @property
    def best_acc(self) -> float | None:
        return self.row.best_acc if self.row else None


def build(root: Root, of: str | None = None, rows: Iterable[Row] | None = None) -> dict[str, Node]:
    """All experiments under a root by id, the oldest first; with ``of`` only that one, its ancestors and its descendants.

    Args:
        rows: of all experiments, if the caller has read them already.

    Raises:
        NotFoundError: there is no experiment ``of``.
    """
    nodes = {row.id: _node(row) for row in (index.rows(root) if rows is None else rows)}
    for node in list(nodes.values()):
        if node.parent is not None:
            nodes.setdefault(node.parent, Node(node.parent)).children.append(node.id)
    for node in nodes.values():
        if not node.change:  # the logs of old folders do not have the change
            node.change = _change(nodes, node)
    return nodes if of is None else _family(nodes, of if of in nodes else resolve.find_experiment(root, of).id)


def _change(nodes: dict[str, Node], node: Node) -> Changed:
    """What changed from the parent to a node, by the sampling weights of the two configurations."""
    parent = nodes[node.parent].row if node.parent else None
    if parent is None or node.row is None or not parent.sampling_weights:
        return {}
    return changes(parent.sampling_weights, node.row.sampling_weights)


def _family(nodes: dict[str, Node], of: str) -> dict[str, Node]:
    """The node ``of`` with its ancestors and descendants."""
    keep = {of}
    above = nodes[of].parent
    while above is not None and above not in keep:
        keep.add(above)
        above = nodes[above].parent
    below = list(nodes[of].children)
    while below:
        child = below.pop()
        if child not in keep:
            keep.add(child)
            below += nodes[child].children
    kept = {i: n for i, n in nodes.items() if i in keep}
    for node in kept.values():
        node.children = [c for c in node.children if c in keep]
    return kept


def _node(row: Row) -> Node:
    node = Node(row.id, row)
    if row.parent and row.parent.experiment != node.id:
        node.parent, node.epoch = row.parent.experiment, row.parent.epoch or 0
        node.change = {c: (before, after) for c, (before, after) in row.change.items()}
        if row.seed is not None and row.parent_seed is not None and row.seed != row.parent_seed:
            node.seed = (row.parent_seed, row.seed)
    return node


def roots(nodes: dict[str, Node]) -> list[str]:
    """The experiments without a parent, and the oldest member of every circle, which copied and edited folders can form."""
    found = [i for i, n in nodes.items() if n.parent is None or n.parent not in nodes]
    seen = {i for i, _, _ in _walk(nodes, found)}
    for i in nodes:
        if i not in seen:
            found.append(i)
            seen |= {j for j, _, _ in _walk(nodes, [i])}
    return found


def _walk(nodes: dict[str, Node], start: Sequence[str]) -> Iterator[tuple[str, int, tuple[bool, ...]]]:
    """(id, depth, for each level whether it is the last of its siblings), parents before children. Without recursion, because
    chains of a thousand generations occur."""
    stack: list[tuple[str, int, tuple[bool, ...]]] = [(i, 0, ()) for i in reversed(start)]
    seen: set[str] = set()
    while stack:
        i, depth, last = stack.pop()
        if i in seen:
            continue
        seen.add(i)
        yield i, depth, last
        children = nodes[i].children
        for k, child in reversed(list(enumerate(children))):
            stack.append((child, depth + 1, (*last, k + 1 == len(children))))


def edge(node: Node) -> str:
    """What changed of the ratio and the seed on the way from the parent: ``disgust 1→5, fear 1→2``, ``weights unchanged``, ``control``."""
    parts = [describe_changed(node.change)] if node.change else []
    if node.seed is not None:
        parts.append(f"seed {node.seed[0]}→{node.seed[1]}")
    if node.control:
        return ", ".join(["control", *parts])
    return ", ".join(parts) or "weights unchanged"


def about(node: Node) -> str:
    """The epochs, best accuracy and status of an experiment, in a few words."""
    row = node.row
    if row is None:
        return "not under this root"
    done, first = row.epochs_done, node.epoch + 1
    epochs = f"epochs {first}–{done}" if done > first else (f"epoch {done}" if done >= first else "no epoch yet")
    best = f", {text}" if (text := row.best_text()) else ""
    status = "" if row.status == "finished" else f", {row.status}"
    return f"{epochs}{best}{status}"


def lines(nodes: dict[str, Node]) -> Iterator[tuple[str, str, str]]:
    """(guides and edge, id, about) of every experiment, as a tree for the terminal."""
    for i, depth, last in _walk(nodes, roots(nodes)):
        node = nodes[i]
        guides = "".join("   " if is_last else "│  " for is_last in last[:-1])
        if depth:
            guides += ("└─ " if last[-1] else "├─ ") + f"@{node.epoch} {edge(node)}  "
        yield guides, i, about(node)


def rows(nodes: dict[str, Node]) -> list[dict[str, Any]]:
    """The tree as a flat list, parents before children: what ``raysweep lineage --json`` prints."""
    return [_as_data(nodes[i]) for i, _, _ in _walk(nodes, roots(nodes))]


def _as_data(node: Node) -> dict[str, Any]:
    row = node.row.to_json() if node.row else {}
    return {
        "id": node.id,
        "parent": row.get("parent"),
        "children": node.children,
        "change": {c: list(pair) for c, pair in node.change.items()},
        "control": node.control,
        **{name: row.get(name) for name in ("sweep", "status", "epochs_done", "best_acc", "path")},
    }


def picture(nodes: dict[str, Node]) -> bytes:
    """The tree as PNG: epochs to the right, one line per experiment, coloured by its best accuracy."""
    from raysweep.report import figures

    order = [i for i, _, _ in _walk(nodes, roots(nodes))]
    figure = figures.new_figure(13, max(2.2, 0.9 + 0.34 * len(order)))
    axes = figure.subplots()
    scores = [n.best_acc for n in nodes.values() if n.best_acc is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    colours = figures.accuracy_colours(low, high)
    heights = {i: -k for k, i in enumerate(order)}
    for i in order:
        best = nodes[i].best_acc
        _draw(axes, nodes[i], heights, "0.6" if best is None else colours(best))
    end = max([n.end for n in nodes.values()] + [1])
    axes.set_xlim(-0.02 * end, end * 1.02)
    axes.set_ylim(-len(order) + 0.4, 0.6)
    axes.set_yticks([])
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    figures.accuracy_bar(figure, axes, low, high)
    return figures.png(figure)


def _draw(axes: Any, node: Node, heights: Mapping[str, int], colour: Any) -> None:
    """One experiment: its epochs, an edge from its parent, and its title."""
    from raysweep.report import fonts

    y, done = heights[node.id], max(node.end, node.epoch)
    if node.parent is not None and node.parent in heights:
        axes.plot([node.epoch, node.epoch], [heights[node.parent], y], color="0.7", linewidth=1, zorder=1)
    axes.plot([node.epoch, done], [y, y], color=colour, linewidth=4, solid_capstyle="round", zorder=2)
    best = f"  {node.best_acc:.1%}" if node.best_acc is not None else ""
    title = f"{edge(node) if node.parent else node.id}{best}"
    axes.annotate(fonts.one_line(title), (done, y), (8, 0), textcoords="offset points", va="center", fontsize=8)
