"""The manifest: what users of MONAI have is accepted, every mistake is one readable line, saving is whole."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ManifestError, OutputError
from medseg.manifest.labelling import with_labels
from medseg.manifest.manifest import Case, Manifest, schema, streams_of

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("MEDSEG_DATA", ROOT.parent / "shared" / "data"))


def content(**changes) -> dict:
    base = {
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "modality": {"0": "CT"},
        "training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}],
    }
    return {k: v for k, v in (base | changes).items() if v is not None}


def written(folder: Path, value) -> Path:
    path = folder / "m.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def mistake(folder: Path, value) -> str:
    with pytest.raises(ManifestError) as caught:
        Manifest.load(written(folder, value))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(folder / "m.json"))
    return line.removeprefix(str(folder / "m.json") + ": ")


# ---- accepted


def test_decathlon_file(tmp_path):
    value = content(
        name="Liver",
        tensorImageSize="3D",
        numTraining=1,
        training=[{"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz", "site": 3}],
        test=["./imagesTs/liver_2.nii.gz", "./imagesTs/liver_3.nii.gz"],
    )
    manifest = Manifest.load(written(tmp_path, value))
    assert manifest.classes == ("background", "liver", "tumour")
    assert manifest.label_values == (0, 1, 2)
    assert manifest.modalities == ("CT",)
    assert manifest.channels == 1
    assert [c.name for c in manifest.test] == ["liver_2", "liver_3"]
    assert manifest.images(manifest.training[0]) == (tmp_path / "imagesTr/liver_1.nii.gz",)
    assert manifest.label(manifest.training[0]) == tmp_path / "labelsTr/liver_1.nii.gz"
    assert manifest.label(manifest.test[0]) is None
    assert manifest.path == tmp_path / "m.json"


def test_what_is_unknown_is_kept(tmp_path):
    value = content(release="1.0", training=[{"image": "a.nii", "label": "b.nii", "site": {"x": [1, 2.5]}}])
    saved = Manifest.load(written(tmp_path, value)).save(tmp_path / "n.json")
    assert json.loads(saved.read_text()) == value


def test_labels_by_name_and_in_any_order(tmp_path):
    manifest = Manifest.load(written(tmp_path, content(labels={"tumour": 7, "background": 0, "liver": 3})))
    assert manifest.labels == {0: "background", 3: "liver", 7: "tumour"}
    assert manifest.label_values == (0, 3, 7)


@pytest.mark.parametrize(
    ("told", "normal"),
    [
        ({"0": "CT"}, ("CT",)),
        ("MRI", ("MR",)),
        (["T1w", "FLAIR"], ("MR", "MR")),
        ({"1": "PET", "0": "ct"}, ("CT", "PT")),
        ({"0": "cine-MRI"}, ("MR",)),
        ({"0": "ultrasound"}, ("US",)),
        ({"0": "fundus"}, ("OT",)),
        (None, ("OT",)),
    ],
)
def test_modalities(tmp_path, told, normal):
    assert Manifest.load(written(tmp_path, content(modality=told))).modalities == normal


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ({"image": "x/a.b.nii.gz"}, "a.b"),
        ({"image": ["imagesTr/p_0000.nii.gz", "imagesTr/p_0001.nii.gz"]}, "p"),
        ({"image": "imagesTs/p_0000.nii.gz"}, "p"),
        ({"image": "x/p_0000.nii.gz", "label": "y/p.nii.gz"}, "p"),
        ({"image": "x/p_0000.nii.gz", "label": "y/p_0000.nii.gz"}, "p_0000"),
        ({"image": "x/p_0012.nii.gz"}, "p_0012"),
        ({"image": "scan.seg.nrrd"}, "scan"),
        ({"image": "01.png"}, "01"),
        ({"image": "volume.dat"}, "volume.dat"),
        ({"image": "s1/ct.nii.gz", "case": "s1"}, "s1"),
        ("x/a.mha", "a"),
    ],
)
def test_names(case, name):
    assert Case.model_validate(case).name == name


def test_everything_beyond_the_decathlon(tmp_path):
    annotations = [{"rater": "A", "label": "r/a.nii"}, {"rater": "B", "label": "r/b.nii", "classes": ["liver"]}]
    value = content(
        training=[
            {"image": "a.nii", "annotations": annotations, "subject": "s1", "fold": 2},
            {"image": "b.nii", "tags": ["liver", 2]},
            {"image": "c.nii", "tags": {"tumour": True}},
        ],
        unlabeled=[{"image": "/data/d.nii"}],
        ignore_index=9,
    )
    manifest = Manifest.load(written(tmp_path, value))
    assert manifest.training[0].annotations[1].classes == ("liver",)
    assert manifest.training[1].tags == ("liver", 2)
    assert manifest.training[2].tags == {"tumour": True}
    assert manifest.ignore_index == 9
    assert manifest.images(manifest.unlabeled[0]) == (Path("/data/d.nii"),)


# ---- refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "labels: is missing"),
        ({"labels": {"1": "liver", "2": "x"}}, "0 for the background"),
        ({"labels": {"0": "background"}}, "at least one class"),
        ({"labels": {"0": "background", "255": "x"}}, "accepted are 0 to 254"),
        ({"labels": {"0": "background", "-1": "x"}}, "accepted are 0 to 254"),
        ({"labels": {"0": "a", "1": "a"}}, "same name twice"),
        ({"labels": {"a": 0, "b": 1, "c": 1}}, "one value to two classes"),
        ({"labels": {"a": 0, "b": [1, 2]}}, "regions_class_order: is missing"),
        ({"labels": {"0": "a", "x": "b"}}, "labels.x"),
        ({"labels": ["a", "b"]}, "labels"),
        ({"ignore_index": 2}, "ignore_index: 2 is also the value of 'tumour'"),
        ({"ignore_index": 1.5}, "ignore_index"),
        ({"modality": {"1": "CT"}}, '"0", "1", ...'),
        ({"training": None}, "has no case"),
        ({"training": []}, "has no case"),
        ({"training": "a.nii"}, "training: Input should be a list"),
        ({"training": [{"label": "x"}]}, "training[0].image: Field required"),
        ({"training": [{"image": []}]}, "training[0].image"),
        ({"training": [{"image": "a", "label": 3}]}, "training[0].label"),
        ({"training": [{"image": "a.nii"}]}, 'belong into "unlabeled"'),
        ({"training": [{"image": "../a.nii", "label": "b"}]}, "leaves its folder by '..'"),
        ({"training": [{"image": "a", "label": "x/../../b"}]}, "training[0].label"),
        ({"test": ["https://x.org/a.nii"]}, "is a URL"),
        ({"test": ["file:/etc/passwd"]}, "is a URL"),
        ({"test": ["s3://bucket/a.nii"]}, "is a URL"),
        ({"test": ["C:/a.nii"]}, "drive letter"),
        ({"test": ["x\\a.nii"]}, "backslashes"),
        ({"test": [""]}, "is no path"),
        ({"test": ["a\u0000.nii"]}, "is no path"),
        ({"test": ["a.nii", "b/a.nii"]}, "test[1]: is called 'a' like test[0]"),
        ({"test": ["images/a.nii.gz"]}, "is called 'a' like training[0]"),
        ({"test": [["a_0000.nii", "a_0001.nii"]]}, "has 2 files, modality has 1 channels"),
        ({"training": [{"image": "a", "tags": ["lung"]}]}, "training[0].tags: unknown classes ['lung']"),
        ({"training": [{"image": "a", "tags": {"lung": 1}}]}, "unknown classes ['lung']; known are ['background'"),
        (
            {"training": [{"image": "a", "tags": {"liver": "no"}}]},
            "training[0].tags: 'liver' is 'no'; accepted are true",
        ),
        ({"training": [{"image": "a", "tags": {"liver": 2}}]}, "training[0].tags: 'liver' is 2; accepted are true and"),
        (
            {"training": [{"image": "a", "tags": {"liver": None}}]},
            "training[0].tags: 'liver' is None; accepted are true",
        ),
        (
            {"training": [{"image": "a", "annotations": [{"rater": "A", "label": "b", "classes": [7]}]}]},
            "training[0].annotations[0].classes: unknown classes [7]",
        ),
        ({"training": [{"image": "a", "annotations": [{"label": "b"}]}]}, "annotations[0].rater: Field required"),
        ({"training": [{"image": "a", "label": "b", "case": "x/y"}]}, "training[0].case"),
    ],
)
def test_mistakes(tmp_path, changes, words):
    assert words in mistake(tmp_path, content(**changes))


def test_many_mistakes_on_one_line(tmp_path):
    line = mistake(tmp_path, content(training=[{"image": n} for n in range(20)]))
    assert line.count("training[") == 3
    assert line.endswith("and 17 more")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n "a" 1}', "line 2, column 6"),
        ('{"a": 1', "line 1, column 8"),
        ("", "is empty"),
        ("  \n", "is empty"),
        ("[1]", "holds a list"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        ("[" * 100_000, "no usable JSON"),
    ],
)
def test_broken_json(tmp_path, text, words):
    assert words in mistake(tmp_path, text)


def test_no_usable_file(tmp_path):
    (tmp_path / "m.json").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(ManifestError, match=r"byte 1 is not UTF-8"):
        Manifest.load(tmp_path / "m.json")
    with pytest.raises(ManifestError, match="no such file"):
        Manifest.load(tmp_path / "none.json")
    with pytest.raises(ManifestError, match="is not a file"):
        Manifest.load(tmp_path)
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content()).encode())
    assert Manifest.load(tmp_path / "bom.json").labels


@settings(max_examples=80, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
                    max_leaves=12),
       st.sampled_from(["labels", "modality", "training", "test", "ignore_index", "name"]))  # fmt: skip
def test_any_json_is_a_manifest_or_one_line(value, key):
    with contextlib.suppress(ManifestError):  # whatever else is raised fails the test
        Manifest.build(content(**{key: value}), Path("m.json"))


# ---- saving


def test_saving_elsewhere_keeps_paths_right(tmp_path):
    inner, outer = tmp_path / "a" / "b", tmp_path / "other"
    inner.mkdir(parents=True)
    outer.mkdir()
    case = {"image": ["i0.nii", "i1.nii"], "label": "l.nii", "annotations": [{"rater": "A", "label": "r.nii"}]}
    manifest = Manifest.load(written(inner, content(modality=["T1", "T2"], training=[case], test=["/x/y.nii"])))
    above = Manifest.load(manifest.save(tmp_path / "a" / "up.json"))
    assert above.training[0].image == ("b/i0.nii", "b/i1.nii")
    aside = Manifest.load(manifest.save(outer / "aside.json"))
    for moved in (above, aside):
        assert moved.images(moved.training[0]) == manifest.images(manifest.training[0])
        assert moved.label(moved.training[0]) == inner / "l.nii"
        assert moved.resolve(moved.training[0].annotations[0].label) == inner / "r.nii"
        assert moved.test[0].image == ("/x/y.nii",)


def test_a_manifest_that_is_named_by_a_way_up_is_saved_elsewhere_without_it(tmp_path, monkeypatch):
    """`--data ../data/dataset.json`, of which another manifest is made; also where the way up leaves a link."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/images", "elsewhere/deep", "runs"):
        Path(folder).mkdir(parents=True)
    Path("data/images/a.nii.gz").touch()
    content = {"labels": {"0": "background", "1": "liver"}, "unlabeled": [{"image": "images/a.nii.gz"}]}
    Path("data/dataset.json").write_text(json.dumps(content))
    Path("link").symlink_to("elsewhere/deep")
    for way in ("runs/../data/dataset.json", "link/../../data/dataset.json"):
        loaded = Manifest.load(Path(way))
        saved = Manifest.load(loaded.save("runs/../runs/made.json"))
        assert saved.unlabeled[0].image == ((tmp_path / "data/images/a.nii.gz").as_posix(),)
        assert all(file.exists() for file in saved.images(saved.unlabeled[0]))
    inside = Manifest.relative(Path("runs/../data/images/a.nii.gz"), tmp_path / "elsewhere/../data")
    assert inside == "images/a.nii.gz"


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    manifest = Manifest.load(written(tmp_path, content()))
    (tmp_path / "n.json").write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        manifest.save(tmp_path / "n.json")
    assert (tmp_path / "n.json").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "n.json"]
    monkeypatch.undo()
    with pytest.raises(OutputError, match="No such file"):
        manifest.save(tmp_path / "none" / "n.json")
    long = tmp_path / ("x" * 250 + ".json")
    assert manifest.save(long).exists()


def test_with_labels(tmp_path):
    manifest = Manifest.load(written(tmp_path, content(unlabeled=["images/b.nii.gz", "imagesTr/c_0000.nii.gz"])))
    made = with_labels(manifest, "unlabeled", {"b": tmp_path / "round1" / "b.nii.gz", "c": Path("/far/c.nii.gz")})
    assert made.unlabeled[0].label == "round1/b.nii.gz"
    assert [c.name for c in made.unlabeled] == ["b", "c"]
    assert manifest.unlabeled[0].label is None
    again = Manifest.load(made.save(tmp_path / "round1.json"))
    assert again.label(again.unlabeled[1]) == Path("/far/c.nii.gz")
    with pytest.raises(ManifestError, match="no case called z"):
        with_labels(manifest, "unlabeled", {"z": Path("z.nii")})


# ---- what is shipped


def test_schema_is_that_of_the_model():
    assert json.loads((ROOT / "data_manifests" / "schema.json").read_text()) == schema()


@pytest.mark.parametrize("name", ["LA", "Pancreas-CT", "BTCV", "ACDC"])
def test_shipped_manifests(name):
    path = ROOT / "data_manifests" / f"{name}.json"
    value = json.loads(path.read_text())
    jsonschema.validate(value, schema())
    assert all(value[key] for key in ("description", "source", "licence", "reference"))
    manifest = Manifest.load(path)
    splits = [{c.subject or c.name for c in s} for s in (manifest.training, manifest.validation, manifest.test)]
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]


def test_schema_accepts_what_is_accepted(tmp_path):
    for value in (content(), content(labels={"a": 0, "b": 1}), content(modality="CT"), content(test=["x.nii"])):
        jsonschema.validate(value, schema())
        Manifest.load(written(tmp_path, value))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content(training=[{"label": "x"}]), schema())


@pytest.mark.parametrize("name", ["la/dataset_16", "la/dataset_40", "btcv/dataset_6", "btcv/dataset_22"])
def test_real_manifests(name):
    path = DATA / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here; set MEDSEG_DATA")
    manifest = Manifest.load(path)
    jsonschema.validate(json.loads(path.read_text()), schema())
    assert manifest.images(manifest.training[0])[0].exists()


def test_imports_neither_torch_nor_numpy():
    code = "import sys, medseg.manifest.manifest; print([m for m in ('torch', 'numpy', 'nibabel') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def judged(**case) -> Manifest:
    labels = {"0": "background", "2": "liver", "5": "spleen"}
    content = {"labels": labels, "training": [{"image": "a.nii.gz", **case}], "unlabeled": ["b.nii.gz"]}
    return Manifest.build(content, Path("m.json"))


@pytest.mark.parametrize(
    ("tags", "presence"),
    [
        ([], {1: False, 2: False}),
        (["spleen"], {1: False, 2: True}),
        ([2, "5"], {1: True, 2: True}),
        ({"liver": False}, {1: False}),
        ({"liver": True, "5": False}, {1: True, 2: False}),
    ],
)
def test_tags_say_what_is_there_and_what_is_not(tags, presence):
    manifest = judged(tags=tags)
    assert manifest.presence(manifest.training[0]) == presence
    assert [len(cases) for cases in streams_of(manifest).values()] == [0, 1, 1, 2]


def test_looked_at_and_nothing_seen_is_not_the_same_as_not_looked_at(tmp_path):
    for known in ({"tags": []}, {"annotations": []}, {"label": "l.nii.gz", "classes": []}):
        saved = judged(**known).save(tmp_path / "m.json")
        (case,) = json.loads(saved.read_text())["training"]
        assert {key: case[key] for key in known if key != "label"} == {k: v for k, v in known.items() if k != "label"}
    with pytest.raises(ManifestError, match="has neither label, annotations nor tags"):
        judged()
    assert judged(annotations=[]).presence(judged(annotations=[]).training[0]) is None


@pytest.mark.parametrize(
    ("classes", "covered"),
    [(None, None), ([], (True, False, False)), (["spleen"], (True, False, True)), ([2, 5], (True, True, True))],
)
def test_a_label_may_cover_some_classes(classes, covered):
    manifest = judged(label="l.nii.gz", classes=classes) if classes is not None else judged(label="l.nii.gz")
    assert manifest.covered(manifest.training[0]) == covered


def test_what_a_label_covers_needs_a_label_and_classes_that_are_known():
    with pytest.raises(ManifestError, match=r"training\[0\]\.classes: says what a label covers, and there is no label"):
        judged(tags=[], classes=["liver"])
    with pytest.raises(ManifestError, match=r"training\[0\]\.classes: unknown classes \['kidney'\]"):
        judged(label="l.nii.gz", classes=["kidney"])


def test_maps_move_with_the_manifest(tmp_path):
    manifest = Manifest.build(
        {"labels": {"0": "b", "1": "x"}, "training": [{"image": "a.png", "tags": [], "maps": {"saliency": "s/a.png"}}]},
        tmp_path / "here" / "m.json",
    )
    saved = manifest.save(tmp_path / "m.json")
    assert json.loads(saved.read_text())["training"][0]["maps"] == {"saliency": "here/s/a.png"}


def test_names_that_differ_in_capitals_and_blanks_are_one_name():
    content = {"labels": {"0": "background", "1": "Liver", "2": "liver "}, "training": [{"image": "a", "label": "b"}]}
    with pytest.raises(ManifestError, match="the same name twice, but for capitals"):
        Manifest.build(content, Path("m.json"))
