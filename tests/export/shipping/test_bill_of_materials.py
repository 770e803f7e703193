"""Where a shipped variant comes from, and what it is made of."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support.shipping import NAME, read, ship, skd

from switchkd.errors import SkdError
from switchkd.export.shipping.bill_of_materials import _without_place, bill_of_materials
from switchkd.export.shipping.provenance import Provenance, provenance
from switchkd.files import file_sha256, folder_sha256
from switchkd.manifest import Manifest


def test_bill_of_materials(run):
    bill = read(ship("--license", "Apache-2.0", "--license", "data:talks=CC-BY-4.0"), "bom.cdx.json")
    manifest = Manifest.load(run / "exports" / NAME)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6") and "timestamp" not in bill["metadata"]
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", NAME, "1")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    (source,) = model["pedigree"]["ancestors"]
    assert source["hashes"][0]["content"] == folder_sha256(run / "student")
    parts = {each["bom-ref"]: each for each in bill["components"]}
    assert {ref: each["hashes"][0]["content"] for ref, each in parts.items() if ref.startswith("file:")} == {
        f"file:{name}": entry.sha256 for name, entry in manifest.files.items()
    }
    assert {ref for ref in parts if ref.startswith("data:")} == {"data:talks", "data:captions", "data:text"}
    assert parts["data:talks"]["hashes"][0]["content"] == file_sha256(Path("data/talks.json"))
    assert parts["data:talks"]["licenses"] == [{"license": {"id": "CC-BY-4.0"}}]
    notes = {each["name"]: each["value"] for each in parts["data:text"]["properties"]}
    assert notes["switchkd:sha256"] == "the file is gone" and notes["switchkd:licence"] == "not stated"
    assert {ref for ref in parts if ref.startswith("checkpoint:")} == {
        "checkpoint:google/siglip",
        "checkpoint:models/teacher-7b",
    }
    libraries = {each["name"]: each for each in parts.values() if each["type"] == "library"}
    assert {"switchkd", "onnxruntime", "numpy", "tokenizers"} <= set(libraries) and "torch" not in libraries
    assert all(each["scope"] == "required" and each["version"] for each in libraries.values())
    assert {
        each["ref"] for each in bill["dependencies"] if each["ref"] == "model" and set(each["dependsOn"]) == set(parts)
    }
    shown = skd(
        "ship", NAME, "--target", "sa8155p", "--key", "key", "--license", "data:tolks=MIT", "--out", "x.tar", status=1
    )
    assert "data:tolks" in shown and "data:talks" in shown


def test_a_bill_without_what_runs_the_variant_is_refused(run):
    manifest = replace(Manifest.load(run / "exports" / NAME), format="openvino")
    with pytest.raises(SkdError, match=r"what runs the format 'openvino'.*known are gguf, onnx, hybrid"):
        bill_of_materials(NAME, 1, manifest, "0" * 64, Provenance(), {})


def test_origin_is_told_only_where_it_is_sure(run):
    variant = run / "exports" / NAME
    source = Manifest.load(variant).source
    found = provenance(variant, source)
    assert (found.recipe, found.role) == ("mine", "student")
    assert [each.name for each in found.data] == ["captions", "talks", "text"]
    (run / "student").rename(run / "baseline")
    found = provenance(variant, source)
    assert found.role == "baseline" and [each.name for each in found.data] == ["captions", "text"]
    assert found.checkpoints == ["google/siglip"]
    (run / "recipe.yaml").write_text("name: [")
    assert provenance(variant, source) == provenance(Path("elsewhere/exports/x"), source)
    (run / "recipe.yaml").write_text("name: x")
    assert provenance(variant, source).recipe is None


def test_a_shipped_recipe_is_understood(run):
    """With the real recipe's own form: every set that student and teacher learn from, no other."""
    from switchkd.recipes.reader import load_recipe
    from switchkd.recipes.settings import to_plain

    (run / "recipe.yaml").write_text(yaml.safe_dump(to_plain(load_recipe("roadscenes", ()))))
    found = provenance(run / "exports" / NAME, Manifest.load(run / "exports" / NAME).source)
    assert found.recipe == "roadscenes" and "finetune" in {each.name for each in found.data}


@pytest.mark.parametrize(
    ("given", "shown"),
    [("/home/a/teacher-7b", "teacher-7b"), ("../b/student", "student"), ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B")],
)
def test_the_bill_names_no_places(given, shown):
    assert _without_place(given) == shown
