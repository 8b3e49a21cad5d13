"""What in settings can run code, fetch an address, or reach places outside the experiment's folder.

Where the user of this process wrote the settings, this is as it should be. Where they come from a checkpoint or a folder, which
somebody else may have made, each such thing is an :class:`Ask`, and :mod:`raysweep.store.trust` decides whether it may happen.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysweep._text import Nested, dotted, short_repr, truncate, without_credentials

_CODE = "python:"
_WORD = re.compile(r"\w{1,40}", re.ASCII)  # neither a path nor an address


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The options of other libraries that a stranger may set. What is not here may fetch an address, open a path or run code.
ALLOWED: Mapping[str, frozenset[str]] = {
    "timm": _names(
        "act_layer attn_drop_rate base_width bn_eps bn_momentum cardinality channels class_token depth depths dims drop_block_rate "
        "drop_path_rate drop_rate embed_dim embed_dims global_pool head_init_scale img_size init_values layers mlp_ratio mlp_ratios "
        "no_embed_class norm_layer num_heads num_stages output_stride patch_size pos_drop_rate pretrained proj_drop_rate qk_norm "
        "qkv_bias reg_tokens stem_type stem_width widths window_size"
    ),
    "torchvision": _names(
        "attention_dropout aux_logits dropout init_weights progress stochastic_depth_prob transform_input weights width_mult "
        "width_per_group groups zero_init_residual memory_efficient growth_rate bn_size drop_rate"
    ),
    "hf": _names(
        "attention_probs_dropout_prob attention_dropout classifier_dropout classifier_dropout_prob depths drop_path_rate dropout "
        "embed_dim embedding_size hidden_act hidden_dropout_prob hidden_size hidden_sizes image_size initializer_range "
        "intermediate_size layer_norm_eps layer_scale_init_value mlp_ratio num_attention_heads num_channels num_heads "
        "num_hidden_layers num_stages patch_size qkv_bias window_size"
    ),
}


@dataclass(frozen=True)
class Ask:
    """One thing that needs consent."""

    key: str  # dotted; ``model`` stands for name and options together
    value: Any  # plain values
    text: str  # what it does, after "wants to"
    anew: str | None = None  # what to type to say the same on the command line; None where that is not enough

    @property
    def digest(self) -> str:
        """SHA-256 of key and value. The same thing gives the same on every machine."""
        return hashlib.sha256(json.dumps([self.key, self.value], sort_keys=True, default=str).encode()).hexdigest()


def code(settings: Mapping[str, Any]) -> list[Ask]:
    """What these nested settings would run or fetch when the network is built and trained."""
    found = _model(settings.get("model"))
    others = {key: value for key, value in settings.items() if key != "model"}
    own = [(k, v) for k, v in _leaves(others) if isinstance(v, str) and v.strip().startswith(_CODE)]
    found += [Ask(k, v, f"run the Python function {truncate(v, 200)} ({k})", f"{k}={v}") for k, v in own]
    place = settings.get("code_path")
    if own and place:  # asked for by itself: a name that the user says anew is looked for there, too
        text = f"import it from the folder {truncate(place, 200)} (code_path)"
        found.append(Ask("code_path", str(place), text, shlex.quote(f"code_path={place}")))
    return found


def places(settings: Mapping[str, Any]) -> list[Ask]:
    """Where these nested settings would connect to, send results, or keep files, apart from the experiment's folder."""
    told = {
        "scaling.address": "connect to the Ray cluster",
        "trackers.mlflow.uri": "send its results to",
        "trackers.wandb.entity": "send its results to the W&B team",
        "data.cache_dir": "keep decoded images in",
    }
    flat = {k: without_credentials(v) if isinstance(v, str) else v for k, v in _leaves(settings)}
    return [
        Ask(key, flat[key], f"{what} {truncate(flat[key], 200)} ({key})")
        for key, what in told.items()
        if flat.get(key) is not None and (key, flat[key]) != ("scaling.address", "auto")  # the machine's own cluster
    ]


def refused_options(name: str, options: Mapping[str, Any]) -> list[str]:
    """The options of a model that only its user may give: each as ``key=value``, shortened. Functions of a module have none
    here, because running them needs consent anyway."""
    allowed = ALLOWED.get(str(name).partition(":")[0])
    if allowed is None:  # ours, whose options are numbers
        return []
    return [f"{k}={short_repr(v)}" for k, v in options.items() if k not in allowed or not harmless(v)]


def harmless(value: Any) -> bool:
    """Whether a value is a number, a single word or a list of them: nothing that can be opened or fetched."""
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value))
    if isinstance(value, (list, tuple)):
        return all(harmless(v) for v in value)
    return value is None or isinstance(value, (bool, int, float))


def named(ask: Ask, overrides: Mapping[str, Any]) -> bool:
    """Whether the user says the same thing in ``overrides``, nested settings."""
    if ask.key != "model":
        return bool(dict(_leaves(overrides)).get(ask.key) == ask.value)
    section = overrides.get("model")
    mine: Mapping[str, Any] = section if isinstance(section, Mapping) else {}
    given = mine.get("options")
    options: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    name, wanted = str(ask.value["name"]), ask.value["options"]
    if name.startswith(_CODE) and (mine.get("name") != name or mine.get("path") != ask.value.get("path")):
        return False
    allowed = ALLOWED.get(name.partition(":")[0])
    risky = [k for k, v in wanted.items() if not harmless(v) or (allowed is not None and k not in allowed)]
    return all(k in options and options[k] == wanted[k] for k in risky)


def _model(section: Any) -> list[Ask]:
    if not isinstance(section, Mapping):
        return []
    name = str(section.get("name") or "").strip()
    given = section.get("options")
    options: Nested = dict(given) if isinstance(given, Mapping) else {}
    value: Nested = {"name": name, "options": options}
    if name.startswith(_CODE):
        place = section.get("path")
        value |= {"path": str(place)} if place else {}
        words = [f"model.name={name}", *([shlex.quote(f"model.path={place}")] if place else [])]
        words += [_typed(k, v) for k, v in options.items() if not harmless(v)]
        shown = ", ".join(f"{truncate(k, 80)}={short_repr(v)}" for k, v in options.items())
        text = f"run the Python function {truncate(name, 200)} with {f'the options {shown}' if shown else 'no options'}"
        text += f", from the folder {truncate(place, 200)}" if place else ""
        return [Ask("model", value, text, " ".join(words))]
    if refused := refused_options(name, options):
        text = f"build {truncate(name, 200)} with options that can fetch an address, open a path or run code: {', '.join(refused)}"
        names = [entry.partition("=")[0] for entry in refused]
        return [Ask("model", value, text, " ".join(_typed(k, options[k]) for k in names if k in options))]
    return []


def _typed(key: str, value: Any) -> str:
    return shlex.quote(f"model.options.{key}={json.dumps(value, default=str)}")


def _leaves(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested settings; each member of a list has its list's key."""
    for key, item in dotted(value):
        if isinstance(item, Sequence) and not isinstance(item, (str, bytes)):
            for part in item:
                yield from _leaves({key: part})
        else:
            yield key, item
