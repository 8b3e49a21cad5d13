"""The configuration: all faults at once with key and line, overrides, strict YAML, the shipped schema and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.config import grid as grids
from raysweep.config import load as load_config
from raysweep.config import schema
from raysweep.config import settings as configuration
from raysweep.config import space as spaces
from raysweep.errors import ConfigError
from tests.ground.test_text import laughs

CONFIGS = Path(__file__).parents[2] / "configs"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_all_faults_are_told_at_once_with_key_and_line(tmp_path):
    path = write(
        tmp_path,
        "data: {source: faces}\ntraining:\n  epohcs: 3\n  batch_size: 0\nsampling:\n  weights:\n    happy: -1\n",
    )
    with pytest.raises(ConfigError) as error:
        load_config.load(path)
    text = str(error.value)
    assert "training.epohcs (line 3): there is no such option. Did you mean 'epochs'?" in text
    assert "training.batch_size (line 4)" in text
    assert "'happy' is -1" in text
    assert "\n" not in text


def test_overrides_win_over_the_file_and_read_scientific_notation(tmp_path):
    path = write(tmp_path, "data: {source: faces}\ntraining: {learning_rate: 0.1}\n")
    settings = load_config.load(
        path, ["training.learning_rate=1e-4", "sampling.weights.disgust=5"], {"root": "elsewhere"}
    )
    assert settings.training.learning_rate == 1e-4
    assert settings.sampling.weights == {"disgust": 5.0}
    assert settings.root == "elsewhere"


@pytest.mark.parametrize("override", ["epochs", "=3", "training.epochs"])
def test_an_override_without_a_value_is_explained(tmp_path, override):
    with pytest.raises(ConfigError, match="key=value"):
        load_config.load(write(tmp_path, "data: {source: faces}\n"), [override])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sampling:\n  weights:\n    no: 2\n", "line 3.*Quote it: 'no'"),
        ("sampling:\n  weights:\n    a: 2\n    a: 3\n", "line 4: the key 'a' is a duplicate of the one in line 3"),
        ("data: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("a: [\n", "not valid YAML"),
        ("- a\n", "must contain a mapping"),
        ("seed: [" + "*x," * 30 + "]\n", "valid YAML"),
        ("seed: true\ndata: {source: faces}\n", "seed"),
        ("experiment: {name: ../x}\ndata: {source: faces}\n", "contains '/'"),
        ("{}", "data.path is missing"),
        ("data: {source: faces, path: x}\n", "is built in"),
    ],
)
def test_hostile_or_mistaken_files_are_refused(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told):
        load_config.load(write(tmp_path, text))


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="aliases"):
        load_config.load(write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a\0b", "CON", "x" * 300, "a\nb", "", " ", ".hidden", "a@b", "sweeps", "a\u202eb"]
)
def test_names_that_are_no_folder_names_are_refused(name):
    with pytest.raises(ConfigError, match=r"experiment\.name"):
        load_config.validate({"experiment": {"name": name}, "data": {"source": "faces"}})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"training": {"batch_size": laughs()}}, r"training\.batch_size: Input should be a valid integer, not \[\[\["),
        ({"sampling": {"weights": {"cat": laughs()}}}, "class 'cat' is .*not a number"),
        ({"model": {"options": {"widths": laughs()}}}, r"model\.options: the options are longer than 10,000"),
        ({"model": {"options": {"x": [[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]}}}, "nested deeper than 20"),
        ({"model": {"options": {"x": b"y"}}}, "cannot be saved as JSON"),
        ({"model": {"options": {"x": float("nan")}}}, "not JSON compliant"),
        ({"model": {"options": {"x": 10**5000}}}, "digits"),
        ({"training": {"epochs": 10**5000}}, r"training\.epochs: at most 1,000,000,000 is allowed, not a number of"),
        ({"scaling": {"timeout_s": 10**400}}, r"scaling\.timeout_s"),
        ({"sampling": {"samples_per_epoch": 10**9}}, r"samples_per_epoch: at most 100,000,000 is allowed"),
        ({"training": {"a[b]": 1}}, r"training\.a\[b\]: there is no such option"),
        ({"scaling": {"int": 1}}, r"scaling\.int: there is no such option"),
        (
            {"checkpoint": {"keep": {"lsat": 1}}},
            r"checkpoint\.keep\.lsat: there is no such option. Did you mean 'last'",
        ),
        (
            {"scaling": {"num_workers": -1}},
            r"1 error in the configuration: scaling\.num_workers: Input should be greater",
        ),
        (
            {"scaling": {"num_workers": "many"}},
            r"1 error in the configuration: scaling\.num_workers: Input should be 'auto'",
        ),
        (
            {"scaling": {"num_workers": [8, 2]}},
            r"1 error in the configuration: scaling\.num_workers: a range of workers is two integers",
        ),
        (
            {"scaling": {"num_workers": [0, 2]}},
            r"1 error in the configuration: scaling\.num_workers: a range of workers is two integers",
        ),
        (
            {"scaling": {"num_workers": [1, 2, 3]}},
            r"1 error in the configuration: scaling\.num_workers: a range of workers is two integers",
        ),
        (
            {"scaling": {"num_workers": [True, 2]}},
            r"1 error in the configuration: scaling\.num_workers: a range of workers is two integers",
        ),
        ({"training": {"a\nerror: b\x1b": 1}}, r"training\.a·error: b·: there is no such option"),
        ({"experiment": {"name": "a\udc80"}}, r"experiment\.name: the name 'a\\udc80' contains"),
        (
            {"experiment": {"name": 3, "description": False}},
            r"experiment\.name: Input should be a valid string, not 3; put it in quotes; experiment\.description: .*not False; put",
        ),
        ({"root": None}, r"root: Input should be a valid string, not None\.$"),
        ({"root": "a\0b"}, "root: .* contains control characters"),
        ({"root": "x" * 5000}, "root: .*at most 4096 characters"),
        ({str(i): 1 for i in range(20_000)}, "20,000 errors in the configuration: 0: .*; 9: .*; and 19,990 more"),
    ],
)
def test_every_fault_is_told_shortly_in_one_paragraph(values, told):
    with pytest.raises(ConfigError, match=told) as error:
        load_config.validate({"data": {"source": "faces"}} | values)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "override",
    ["a=[", "a=*x", "a=&x [*x]", "a." * 3000 + "a=1", "a=" + "1" * 5000, "a=!!int x", "a=${b", "a=b: c: d", "a=\0"],
)
def test_overrides_that_cannot_be_read_are_refused_in_words(override):
    with pytest.raises(ConfigError, match=r"The overrides 'a.* cannot be read: ") as error:
        load_config.parse_overrides([override])
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("override", ["seed=010", "seed= -0_7", "training.epochs=1:30"])
def test_an_override_that_two_versions_of_yaml_read_differently_is_refused(override):
    with pytest.raises(ConfigError, match="is one number in YAML 1"):
        load_config.parse_overrides([override])


def test_an_address_with_a_port_is_no_number():
    assert load_config.parse_overrides(["scaling.address=10.0.0.1:6379"]) == {"scaling": {"address": "10.0.0.1:6379"}}


def test_numbers_in_scientific_notation_are_numbers_wherever_they_stand_in_a_file(tmp_path):
    path = write(tmp_path, "data: {source: faces}\nsampling: {weights: {a: 1e-1}}\nmodel: {options: {dropout: 1e-1}}\n")
    settings = load_config.load(path)
    assert settings.sampling.weights == {"a": 0.1}
    assert settings.model.options == {"dropout": 0.1}


@given(
    st.floats(1e-9, 10),
    st.integers(1, 10_000),
    st.dictionaries(st.text(min_size=1, max_size=9), st.floats(0, 1e9), max_size=5),
)
def test_settings_survive_the_way_through_json(rate, batch, ws):
    one = load_config.validate(
        {
            "data": {"source": "faces"},
            "training": {"learning_rate": rate, "batch_size": batch},
            "sampling": {"weights": ws},
        }
    )
    assert configuration.Settings.model_validate(json.loads(one.model_dump_json())) == one


def test_flat_configuration_has_the_specifications_names_first():
    flat = load_config.validate({"data": {"source": "faces"}}).flat(timestamp="20250108_143022")
    assert list(flat)[:11] == [
        "experiment_name",
        "timestamp",
        "sampling_weights",
        "model_name",
        "batch_size",
        "learning_rate",
        "num_epochs",
        "sample_per_class",
        "use_full_dataset",
        "resume_from_checkpoint",
        "experiment_description",
    ]
    assert flat["settings"]["training"]["epochs"] == flat["num_epochs"]


def test_a_short_form_and_an_option_of_its_section_are_both_heard():
    from raysweep.config import load as load_config

    both = {"loss": {"kind": "focal", "gamma": 1.0}}
    assert load_config.parse_overrides(["loss=focal", "loss.gamma=1.0"]) == both
    assert load_config.parse_overrides(["loss.gamma=1.0", "loss=focal"]) == both


@pytest.mark.parametrize("name", schema.FILES)
def test_the_shipped_schemas_are_those_of_the_code(name):
    assert (CONFIGS / name).read_text() == schema.text(name), "run: python -m raysweep.config.schema"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_files_are_valid_and_name_their_schema(path):
    if path.stem.endswith("-space"):  # of a hunt, for which there is no schema
        spaces.read(path)
        return
    of_grid = "grid" in path.stem or path.stem == "rules"
    kind = "grid.schema.json" if of_grid else "schema.json"
    assert path.read_text().splitlines()[0] == f"# yaml-language-server: $schema={kind}"
    (grids.read if of_grid else load_config.load)(path)


def test_a_number_of_workers_may_be_the_least_and_the_most():
    settings = load_config.validate(
        load_config.merge({"data": {"source": "digits"}}, load_config.parse_overrides(["scaling.num_workers=[2,8]"]))
    )
    assert settings.scaling.num_workers == [2, 8]
    assert [load_config.parse_workers(t) for t in (None, "0", "3", "2-8")] == [None, 0, 3, [2, 8]]


@pytest.mark.parametrize("text", ["", "-1", "8-2", "0-2", "2-", "2-3-4", "x", "²", "1" * 30, "1.5"])
def test_a_wrong_number_of_workers_is_refused(text):
    with pytest.raises(ConfigError, match=r"^--workers"):
        load_config.parse_workers(text)


TEXTS = [
    "fer #2",
    "null",
    "~",
    "1e3",
    "2024",
    "010",
    "1:30",
    "yes",
    "off",
    "a: b",
    "{a",
    "[x]",
    "${y}",
    "*z",
    "&w",
    "2024-01-31",
    "a\\b",
    "#1",
    "- x",
    "a=b",
    "!t",
]


def text_options() -> list[str]:
    """The dotted keys of every option that is a text or a word."""
    from pydantic import BaseModel

    def walk(model, prefix):
        for name, field in model.model_fields.items():
            inner = load_config._unwrap(field.annotation)
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from walk(inner, f"{prefix}{name}.")
            elif load_config.is_text(field.annotation):
                yield prefix + name

    return list(walk(configuration.Settings, ""))


def test_the_text_options_are_found():
    found = text_options()
    assert {"experiment.name", "data.path", "model.init_from", "trackers.mlflow.uri", "scaling.address", "root"} <= {
        *found
    }
    assert "scaling.threads" not in found
    assert "training.epochs" not in found


@pytest.mark.parametrize("key", text_options())
def test_a_text_option_takes_what_was_typed(key):
    for text in TEXTS:
        value = load_config.parse_overrides([f"{key}={text}"])
        for part in key.split("."):
            value = value[part]
        assert value == text
        quoted = load_config.parse_overrides([load_config.assignment(key, text)])
        for part in key.split("."):
            quoted = quoted[part]
        assert quoted == text


def test_names_that_yaml_reads_as_numbers_are_names():
    settings = load_config.validate(
        load_config.parse_overrides(["data.source=digits", "experiment.name=2024", "model.init_from=1e3"])
    )
    assert (settings.experiment.name, settings.model.init_from) == ("2024", "1e3")


def test_an_option_that_may_be_missing_is_taken_back_by_nothing():
    over = ["data.path=", "scaling.address= ", "data.source=faces", "data.classes="]
    assert load_config.parse_overrides(over) == {
        "data": {"path": None, "source": "faces", "classes": None},
        "scaling": {"address": None},
    }
    for key in ("data.path", "trackers.mlflow", "training.grad_clip"):
        settings = load_config.parse_overrides([load_config.assignment(key, None)])
        section, name = key.split(".")
        assert settings == {section: {name: None}}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.classes=[yes, no, 010, 1e3, null]", ["yes", "no", "010", "1e3", "null"]),
        ("data.classes=['a #1', \"b\"]", ["a #1", "b"]),
        ("model.options.tag=a #2", "a #2"),
        ("model.options.rate=1e-1", 0.1),
        ("model.options.widths=[4, 4]", [4, 4]),
        ("training.epochs=3", 3),
        ("training.grad_clip=null", None),
    ],
)
def test_lists_and_other_values_are_read_without_a_loss(override, value):
    section, (name, *more) = override.split(".", 1)[0], override.partition("=")[0].split(".")[1:]
    found = load_config.parse_overrides([override])[section][name]
    for part in more:
        found = found[part]
    assert found == value


def test_what_a_comment_would_hide_is_not_dropped():
    with pytest.raises(ConfigError, match="what follows the # would be left out"):
        load_config.parse_overrides(["data.classes=[a, b] # c"])
    with pytest.raises(ConfigError, match="what follows the # would be left out"):
        load_config.parse_overrides(["model.options.widths=[4, 4] # c"])
    with pytest.raises(ConfigError, match=r"training\.epochs.*'3 # x'"):
        load_config.validate(load_config.parse_overrides(["data.source=faces", "training.epochs=3 # x"]))


def test_a_question_ends_the_paragraph_without_a_full_stop(tmp_path):
    with pytest.raises(ConfigError) as error:
        load_config.load(write(tmp_path, "data: {source: faces}\ntraining: {epohcs: 3}\n"))
    assert str(error.value).endswith("Did you mean 'epochs'?")


def test_a_name_that_is_no_option_is_said_before_its_value_is_read():
    """``data.separator=,`` was answered with what a YAML parser says of a comma."""
    from raysweep.config.load import parse_overrides

    with pytest.raises(ConfigError, match=r"'data\.separator' is no option\."):
        parse_overrides(["data.separator=,"])
