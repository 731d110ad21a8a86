"""The card says what the contract knows, and nothing else; others' tools can read it."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeloc.benchmarks.card import About, Card, make_card, read_about
from edgeloc.benchmarks.commands.card import card_page
from edgeloc.benchmarks.schema import json_schema
from edgeloc.cli import main
from edgeloc.model.contract import Contract
from edgeloc.model.file import read_model, write_model
from edgeloc.models import SHIPPED_DETECTOR_INT8, SHIPPED_INT8

DOCS = Path(__file__).resolve().parents[2] / "docs"
PUBLISHED = DOCS / "reference" / "card.schema.json"


@pytest.fixture
def with_measured(tmp_path: Path) -> Any:
    """Writes the shipped localizer with other figures in its contract."""

    def write(measured: dict[str, Any], **changes: Any) -> Path:
        model = read_model(SHIPPED_INT8)
        assert isinstance(model.contract, Contract)
        path = tmp_path / "other.tflite"
        write_model(path, model.payload, dataclasses.replace(model.contract, measured=measured, **changes))
        return path

    return write


def figures(card: Card, of: str) -> dict[tuple[str, str], Any]:
    assert card.measurement is not None
    return {(figure.name, figure.which): figure for figure in card.measurement.figures if figure.of == of}


def test_the_published_schema_is_that_of_the_dataclasses() -> None:
    again = "python -m edgeloc.benchmarks.schema card > docs/reference/card.schema.json"
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == json_schema("card"), f"write it again: {again}"


@pytest.mark.parametrize("model", [SHIPPED_INT8, SHIPPED_DETECTOR_INT8])
def test_a_card_is_valid_and_a_bad_one_is_not(model: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema("card"))
    assert main(["card", str(model), "--out", str(tmp_path / "card.json")]) == 0
    data = json.loads((tmp_path / "card.json").read_text())
    validator.validate(data)
    del data["lineage"]
    data["network"]["parameters"] = "many"
    assert {error.validator for error in validator.iter_errors(data)} == {"required", "type"}


def test_the_figures_are_those_of_the_contract() -> None:
    card = make_card(SHIPPED_INT8)
    contract = read_model(SHIPPED_INT8).contract
    assert contract is not None
    measured = contract.measured["quantization"]
    whole = figures(card, "all")["mean IoU", ""]
    assert (whole.float_model, whole.quantized) == (measured["mean_iou_float"], measured["mean_iou_quantized"])
    assert whole.drop_ci95 == tuple(measured["drop_ci95"])
    assert figures(card, "size")["mean IoU", "small"].count == 529
    started_from = contract.measured["training"]["data"]["started_from"]
    origins = {origin.name: origin.sha256 for origin in card.lineage}
    assert origins == {**contract.hashes, "started_from": started_from}


def test_a_detectors_figures_are_of_its_own_kind() -> None:
    contract = read_model(SHIPPED_DETECTOR_INT8).contract
    assert contract is not None
    measured = contract.measured["quantization"]["by_class"]["Nut"]
    found = figures(make_card(SHIPPED_DETECTOR_INT8), "class")
    assert found["objects found", "Nut"].quantized == measured["recall_quantized"] > 0.9


@pytest.mark.parametrize(
    ("head", "said"), [("class", "say nothing of that class"), ("presence", "found and false alarms are others now")]
)
def test_what_was_adapted_is_said(head: str, said: str, with_measured: Any) -> None:
    shipped = read_model(SHIPPED_INT8).contract
    assert shipped is not None
    path = with_measured(shipped.measured, adapted_from={"head": head, "sha256": "ab" * 32, "labels_added": []})
    page = card_page(make_card(path))
    assert "model-index" not in page
    assert said in page and "the file before it was adapted on the device" in page


def test_what_nobody_said_or_recorded_is_not_made_up(with_measured: Any) -> None:
    card = make_card(with_measured({}))
    training = next(use for use in card.data if use.role == "training")
    assert (training.name, training.images, training.license) == (None, None, "not stated")
    assert card.measurement is None
    page = card_page(card)
    assert 'license: "unknown"' in page
    assert "It must not be used for: not stated" in page
    assert "## Figures\n\nUnknown" in page
    assert "model-index" not in page


def test_what_the_training_recorded_is_in_it(with_measured: Any) -> None:
    data = {"images": 1234, "sha256": "ab" * 32, "started_from": "cd" * 32}
    card = make_card(with_measured({"training": {"data": data}}), About(training_data="mine"))
    training = next(use for use in card.data if use.role == "training")
    assert (training.name, training.images, training.sha256) == ("mine", 1234, "ab" * 32)
    assert ("started_from", "cd" * 32) in {(origin.name, origin.sha256) for origin in card.lineage}


@pytest.mark.parametrize(
    "measured",
    [
        {"quantization": "good"},
        {"quantization": {"mean_iou_float": "high", "drop_ci95": [None, 1], "by_size": {"small": 3}, "presence": []}},
        {
            "training": {"settings": {"epochs": [1, 2]}, "validation": {"loss": "none"}},
            "quantization": {"images": True},
        },
    ],
)
def test_another_programs_figures_do_not_break_it(measured: dict[str, Any], with_measured: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    card = make_card(with_measured(measured))
    jsonschema.Draft202012Validator(json_schema("card")).validate(json.loads(json.dumps(dataclasses.asdict(card))))
    assert "nan" not in card_page(card)


def test_the_front_matter_is_yaml_as_the_hub_reads_it() -> None:
    yaml = pytest.importorskip("yaml")
    page = card_page(make_card(SHIPPED_INT8, About(license="Apache-2.0")))
    front = yaml.safe_load(page.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"] == {"name": "fod-a", "type": "fod-a", "split": "val"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]}["mean_iou"] == pytest.approx(0.82003)


def test_drops_are_the_contracts_and_the_page_shows_them() -> None:
    contract = read_model(SHIPPED_INT8).contract
    assert contract is not None
    found = contract.measured["quantization"]
    card = make_card(SHIPPED_INT8)
    assert card.measurement is not None
    drops = {(one.name, one.which): one.drop for one in card.measurement.figures}
    assert drops["mean IoU", ""] == found["mean_iou_drop"]
    for name, of in (*found["by_size"].items(), *found["by_class"].items()):
        assert drops["mean IoU", name] == of["mean_iou_drop"]
    page = card_page(card)
    assert re.search(rf"mean IoU, medium .* {found['by_size']['medium']['mean_iou_drop']:.4f} ", page)


def test_names_draw_nothing_and_yaml_reads_them(with_measured: Any) -> None:
    yaml = pytest.importorskip("yaml")
    figures = {"mean_iou_float": 5e-05, "mean_iou_quantized": 5e-05}
    path = with_measured({"quantization": {"data": "x *y* ![p](http://e/t.png)", **figures}})
    path = path.rename(path.with_name("\U0001f681.tflite"))
    page = card_page(make_card(path))
    assert r"x \*y\* !\[p\](http" in page
    front = yaml.safe_load(page.split("---\n")[1])
    (entry,) = front["model-index"]
    assert entry["name"] == path.stem and isinstance(entry["results"][0]["metrics"][0]["value"], float)


def test_a_licence_in_words_is_no_identifier() -> None:
    page = card_page(make_card(SHIPPED_INT8, About(license="ours, ask first")))
    assert 'license: "other"\nlicense_name: "ours, ask first"' in page


def test_text_stays_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {"must_not_use": ["a | b\n# Title", "<script>x</script>"], "limits": ["never at night"]}
    (tmp_path / "about.json").write_text(json.dumps(about))
    assert main(["card", str(SHIPPED_INT8), "--about", str(tmp_path / "about.json")]) == 0
    shown = capsys.readouterr().out
    assert "- a \\| b \\# Title" in shown
    assert "<script>" not in shown
    assert "- never at night" in shown


def test_the_pages_statement_is_taken(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text((DOCS / "guide" / "card.md").read_text().split("```json")[1].split("```")[0])
    card = make_card(SHIPPED_INT8, read_about(tmp_path / "about.json"))
    assert {use.role: use.license for use in card.data} == dict.fromkeys(
        ("training", "calibration", "measurement"), "MIT"
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [('{"licence": "MIT"}', "licence"), ("{", "no JSON"), ('{"must_not_use": "war"}', "must_not_use"), ("[]", "about")],
)
def test_a_bad_statement_is_refused(text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "about.json").write_text(text)
    assert main(["card", str(SHIPPED_INT8), "--about", str(tmp_path / "about.json"), "--out", "x.md"]) == 2
    message = capsys.readouterr().err
    assert named in message and "intended_use" in message
    assert "Traceback" not in message


def test_a_file_without_a_contract_has_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bare.tflite").write_bytes(read_model(SHIPPED_INT8).payload)
    assert main(["card", str(tmp_path / "bare.tflite")]) == 2
    assert "has no contract" in capsys.readouterr().err


def test_the_model_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(SHIPPED_INT8), "--out", str(SHIPPED_INT8)]) == 2
    assert "one of the files that are read" in capsys.readouterr().err


def test_no_framework_is_loaded() -> None:
    code = (
        "import sys; from edgeloc.cli import main; "
        f"main(['card', {str(SHIPPED_INT8)!r}]); "
        "sys.exit(bool({'tensorflow', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
