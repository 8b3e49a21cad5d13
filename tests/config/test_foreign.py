"""What settings of somebody else ask for, and what the user has said anew."""

from __future__ import annotations

import pytest

from raysweep.config import foreign

HUB = {"name": "python:torch.hub:load", "options": {"repo_or_dir": "you/repo", "model": "x", "width": 3}}


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ({"name": "cnn", "options": {"widths": [4, 4, 8, 8], "dropout": 0.1}}, ""),
        ({"name": "torchvision:resnet18", "options": {"weights": "IMAGENET1K_V1"}}, ""),
        ({"name": "torchvision:resnet18", "options": {"weights": "../evil.pt"}}, "weights='../evil.pt'"),
        ({"name": "torchvision:resnet18", "options": {"norm_layer": "x"}}, "norm_layer"),
        ({"name": "timm:resnet18.a1_in1k", "options": {"pretrained": True, "drop_rate": 0.1, "act_layer": "gelu"}}, ""),
        ({"name": "timm:resnet18", "options": {"checkpoint_path": "x"}}, "checkpoint_path"),
        (
            {"name": "timm:resnet18", "options": {"pretrained_cfg_overlay": {"url": "http://x"}}},
            "pretrained_cfg_overlay",
        ),
        ({"name": "timm:resnet18", "options": {"pretrained_cfg": "x"}}, "pretrained_cfg"),
        ({"name": "timm:resnet18", "options": {"cache_dir": "x"}}, "cache_dir"),
        ({"name": "timm:vit", "options": {"img_size": {"a": 1}}}, "img_size"),
        ({"name": "hf:you/repo", "options": {"hidden_dropout_prob": 0.1, "hidden_act": "gelu"}}, ""),
        ({"name": "hf:you/repo", "options": {"trust_remote_code": True}}, "trust_remote_code"),
        ({"name": "hf:you/repo", "options": {"auto_map": {"AutoConfig": "a.B"}}}, "auto_map"),
        ({"name": "hf:you/repo", "options": {"attn_implementation": "you/kernel"}}, "attn_implementation"),
        ({"name": "hf:you/repo", "options": {"model_args": {"checkpoint_path": "x"}}}, "model_args"),
        ({"name": "hf:you/repo", "options": {"hidden_act": "x/y"}}, "hidden_act"),
        ({"name": "python:os:system"}, "python:os:system"),
        ({"name": " python:os:system", "options": None}, "python:os:system"),
        ("python:os:system", ""),  # no section: it is refused as wrong
        (None, ""),
    ],
)
def test_what_a_model_asks_for(model, asked):
    found = foreign.code({"model": model})
    assert [asked in ask.text for ask in found] == ([True] if asked else [])


def test_functions_anywhere_in_settings_are_asked_for():
    settings = {
        "training": {"loss": "python:a:b", "callbacks": ["python:c:d", {"hook": "python:e:f"}]},
        "data": {"path": "not python:x"},
    }
    assert [(a.key, a.value) for a in foreign.code(settings)] == [
        ("training.loss", "python:a:b"),
        ("training.callbacks", "python:c:d"),
        ("training.callbacks.hook", "python:e:f"),
    ]


def test_places_are_asked_for():
    settings = {
        "scaling": {"address": "10.0.0.1:6379", "num_workers": 0},
        "trackers": {"mlflow": {"uri": "https://x", "experiment": "e"}, "wandb": {"entity": None}, "trackio": None},
        "data": {"cache_dir": "/elsewhere", "path": "images"},
    }
    assert [a.key for a in foreign.places(settings)] == ["scaling.address", "trackers.mlflow.uri", "data.cache_dir"]
    assert foreign.places({"trackers": {"mlflow": None}, "scaling": {}}) == []
    assert foreign.places({"scaling": {"address": "auto"}}) == []  # this machine's own cluster


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({}, False),
        ({"name": "python:os:system"}, False),
        ({"name": HUB["name"]}, False),  # whose options are a path and a name of the stranger
        ({"name": HUB["name"], "options": {"repo_or_dir": "you/repo"}}, True),  # "x" and 3 open nothing
        ({"name": HUB["name"], "options": {"repo_or_dir": "me/repo"}}, False),
        ({"options": {"repo_or_dir": "you/repo"}}, False),
    ],
)
def test_what_the_user_says_anew(over, said):
    (ask,) = foreign.code({"model": HUB})
    assert foreign.named(ask, {"model": over} if over else {}) is said


def test_the_line_to_type_says_all_of_it():
    from raysweep.config.load import parse_overrides

    timm = {"name": "timm:resnet18", "options": {"checkpoint_path": "a b #1", "drop_rate": 0.1}}
    for model in (HUB, timm):
        (ask,) = foreign.code({"model": model})
        assert ask.anew is not None
        import shlex

        assert foreign.named(ask, parse_overrides(shlex.split(ask.anew)))


def test_a_digest_is_of_the_whole_thing():
    (one,) = foreign.code({"model": HUB})
    (same,) = foreign.code({"model": {"options": dict(reversed(HUB["options"].items())), "name": HUB["name"]}})
    (other,) = foreign.code({"model": {**HUB, "options": {**HUB["options"], "width": 4}}})
    assert one.digest == same.digest != other.digest
