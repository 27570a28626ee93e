"""WILSON: which parts each term trains, what stays as it is, several steps in a row, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from every_method import values_of
from given_networks import factory
from models import data_spec, make_bundle
from tiny import write_dataset

from medseg import methods
from medseg.bundle.bundle import open_bundle
from medseg.config.pipeline import NetworkSpec
from medseg.errors import ConfigError, ManifestError, MedsegError
from medseg.manifest.manifest import Manifest
from medseg.method import LABELED, Clock, Frozen
from medseg.methods.wilson import Wilson
from medseg.networks import registry
from medseg.ops.tags.old_network import OldNetwork
from medseg.workflows.predict.run import predict
from medseg.workflows.train.checks.files import find_warnings
from medseg.workflows.train.plan import write_plan
from medseg.workflows.train.planned_network import network_of_definition
from medseg.workflows.train.run import train
from medseg.workflows.train.settings import load

pytestmark = pytest.mark.usefixtures("undrawn")

CLOCK, EARLY = Clock(50, 100), Clock(1, 100)
OLD_LABELS = ("background", "class2")


def make(dims: int = 2, *, labels: tuple[str, ...] = OLD_LABELS, independent: bool = True, **options) -> Wilson:
    """Three classes here, of which `labels` are known."""
    torch.manual_seed(0)
    earlier = factory(dims, len(labels)).segmenter()
    previous = Frozen(earlier, labels, independent=independent)
    return methods.build("wilson", factory(dims, previous=previous, start=True), **{"channels": 8, **options})


def make_batch(dims: int = 2) -> dict:
    shape = (32, 24) if dims == 2 else (16, 24, 8)
    image = torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(1))
    return {"weak": {"image": image, "tags": torch.tensor([[1, 0], [0, 0], [255, 1]], dtype=torch.uint8)}}


def trained_by(method: Wilson, term: str) -> set[str]:
    """The parts that a term has a gradient for."""
    parts = {
        "encoder": list(method.headed.network.network.encoder.parameters()),
        "decoder": [*method.headed.network.network.decoder.parameters(), *method.headed.head.parameters()],
        "localizer": list(method.localizer.parameters()),
    }
    loss = method(make_batch(), CLOCK)[term]
    found = set()
    for name, parameters in parts.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        if any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            found.add(name)
    return found


def test_which_parts_each_term_trains() -> None:
    method = make(stride=2, share=0.98, background_share=0.98, least=0.0)
    assert trained_by(method, "classification") == {"encoder", "localizer"}
    assert trained_by(method, "localization") == {"encoder", "localizer"}
    assert trained_by(method, "self_training") == {"encoder", "localizer"}
    assert trained_by(method, "distillation") == {"encoder"}
    assert trained_by(method, "segmentation") == {"encoder", "decoder"}


@pytest.mark.parametrize("dims", [2, 3])
def test_a_step_starts_as_the_old_network_and_that_stays(dims: int) -> None:
    method = make(dims)
    image = make_batch(dims)["weak"]["image"]
    old = method.old.previous
    method.eval()
    with torch.no_grad():
        logits = method.headed(image)
    # class2 is the old network's second channel
    assert torch.equal(logits[:, [0, 2]], old(image))
    assert method(make_batch(dims), CLOCK)["distillation"].item() == 0
    method.train()
    before = copy.deepcopy(old.module.state_dict())
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        sum(method(make_batch(dims), CLOCK).values()).backward()
        optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in old.module.state_dict().items())
    assert not [name for name in method.state_dict() if name.startswith("old")]


def test_features_of_an_old_network_with_a_head_come_from_one_pass() -> None:
    network = factory(2, 2).encoder_decoder()
    headed = factory(2, 2).headed(network, factory(2, 2).head(network.width, 2)).eval()
    image = make_batch()["weak"]["image"]
    with_head, without = OldNetwork(Frozen(headed), network), OldNetwork(Frozen(network), network)
    assert (with_head.encoder, without.encoder is None) == (None, False)
    features, logits = with_head(image)
    with torch.no_grad():
        assert torch.equal(logits, headed(image))
    assert all(torch.equal(one, other) for one, other in zip(features, without(image)[0], strict=True))


def test_the_localizer_learns_alone_at_first() -> None:
    method = make(stride=2, share=0.98, background_share=0.98, least=0.0)
    early = method(make_batch(), EARLY)
    assert (early["segmentation"].item(), early["self_training"].item()) == (0, 0)
    assert early["classification"].item() > 0


def test_tags_of_old_classes_are_not_looked_at() -> None:
    method = make()
    batch = make_batch()
    other = {"weak": {**batch["weak"], "tags": batch["weak"]["tags"].clone()}}
    other["weak"]["tags"][:, 1] = torch.tensor([1, 255, 0])
    assert values_of(method, batch) == values_of(method, other)


def test_refinement_reaches_as_far_across_thick_slices_as_within_them(monkeypatch) -> None:
    networks = factory(3, previous=Frozen(factory(3, 2).segmenter(), OLD_LABELS), start=True)
    networks.spacing_mm = (1.0, 1.0, 4.0)
    method = methods.build("wilson", networks, channels=8, stride=2)
    given = []

    def spy(image, maps, **settings):
        given.append(settings["spacing"])
        return maps

    monkeypatch.setattr("medseg.methods.wilson.pamr", spy)
    method(make_batch(3), CLOCK)
    assert given == [[2.0, 2.0, 8.0]]


def test_padding_teaches_nothing() -> None:
    """What stands beyond the image, and what is said of it, changes no term but through the encoder's own windows."""
    method = make(stride=1, share=0.98, background_share=0.98, least=0.0)
    method.eval()
    inside = torch.ones(3, 1, 32, 24, dtype=torch.bool)
    batch = make_batch()
    without = values_of(method, batch)
    everywhere = {"weak": {**batch["weak"], "inside": inside}}
    assert values_of(method, everywhere) == pytest.approx(without)
    nowhere = {"weak": {**batch["weak"], "inside": inside.clone().fill_(False)}}
    found = values_of(method, nowhere)
    assert (found["localization"], found["self_training"], found["segmentation"]) == (0, 0, 0)
    scores, weak = torch.randn(3, 3, 4, 4), batch["weak"]
    cells = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    cells[..., :2] = True
    assert torch.allclose(
        method._classification(scores, weak["tags"], cells), method._classification(scores[..., :2], weak["tags"], None)
    )


def make_labels(*values: int) -> dict:
    """A batch of one image with these labels, 16 times as many voxels."""
    label = torch.tensor(values, dtype=torch.uint8).repeat_interleave(16).view(1, 1, 16, len(values))
    image = torch.randn(1, 2, 16, len(values), generator=torch.Generator().manual_seed(1))
    return {"labeled": {"image": image, "label": label}}


def test_labels_that_were_made_before_teach_new_classes_beside_the_old_network() -> None:
    method = make(teacher="labels").eval()
    assert (method.streams, method.maps()) == ((LABELED,), None)
    method.check_tags([])
    batch = make_labels(0, 1, 255, 255, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    with torch.no_grad():
        terms = method(batch, EARLY)
        logits = method.headed(batch["labeled"]["image"])
        old = method.old.previous(batch["labeled"]["image"]).sigmoid()
    label = batch["labeled"]["label"][:, 0]
    cost = torch.nn.functional.binary_cross_entropy_with_logits
    known = label != 255
    # class2 is the old network's second channel
    expected = cost(logits[:, 2], old[:, 1])
    expected += cost(logits[:, 1][known], (label == 1)[known].float())
    expected += cost(logits[:, 0][known], torch.minimum(old[:, 0], (label == 0).float())[known])
    assert terms["segmentation"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(terms) == {"distillation", "segmentation"}
    assert terms["distillation"].item() == 0
    reached = sum(method.train()(batch, EARLY).values())
    reached.backward()
    assert not [name for name, parameter in method.named_parameters() if parameter.grad is None]


def test_fine_tuning_learns_all_classes_of_the_labels_alone() -> None:
    """The old class is absent by them; what the old network says changes nothing, and it is not asked."""
    method = make(teacher="fine_tuning").eval()
    assert (method.streams, method.maps()) == ((LABELED,), None)
    batch = make_labels(0, 1, 255, 255, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    method.old.previous.module = None
    terms = method(batch, EARLY)
    label = batch["labeled"]["label"][:, 0]
    known = label != 255
    with torch.no_grad():
        logits = method.headed(batch["labeled"]["image"])
    cost = torch.nn.functional.binary_cross_entropy_with_logits
    expected = sum(cost(logits[:, index][known], (label == index)[known].float()) for index in range(3))
    assert list(terms) == ["segmentation"]
    assert terms["segmentation"].item() == pytest.approx(expected.item(), rel=1e-5)
    sum(method.train()(batch, EARLY).values()).backward()
    assert not [name for name, parameter in method.named_parameters() if parameter.grad is None]


def test_fine_tuning_forgets_what_labels_keep() -> None:
    """Ten steps on labels of nothing: the old class, which the old network sees everywhere, is lost to one alone."""
    seen = {}
    for teacher in ("fine_tuning", "labels"):
        method = make(teacher=teacher).eval()
        with torch.no_grad():
            method.old.previous.module.head.bias[1] = 3.0
            method.headed.head.convolution.bias[2] = 3.0
        batch = make_labels(*[0] * 16)
        optimizer = torch.optim.SGD(method.headed.head.parameters(), lr=0.5)
        for _ in range(10):
            optimizer.zero_grad()
            sum(method(batch, CLOCK).values()).backward()
            optimizer.step()
        with torch.no_grad():
            seen[teacher] = method.headed(batch["labeled"]["image"])[:, 2].sigmoid().mean().item()
    assert seen["fine_tuning"] < 0.5 < 0.9 < seen["labels"]


def test_labels_of_nothing_but_255_leave_the_old_classes_alone_to_be_taught() -> None:
    method = make(teacher="labels")
    batch = make_labels(*[255] * 16)
    loss = method(batch, CLOCK)["segmentation"]
    loss.backward()
    gradient = method.headed.head.bias.grad if hasattr(method.headed.head, "bias") else None
    assert torch.isfinite(loss)
    assert gradient is None or (gradient[:2] == 0).all()


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_images_and_no_positive(value: float) -> None:
    method = make()
    batch = {"weak": {"image": torch.full((2, 2, 16, 16), value), "tags": torch.zeros(2, 2, dtype=torch.uint8)}}
    terms = method(batch, CLOCK)
    sum(terms.values()).backward()
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in method.parameters())


def test_sure_voxels_of_an_image_with_constant_borders() -> None:
    method = make(stride=1, least=0.0, share=0.98, background_share=0.98)
    image = torch.zeros(2, 2, 32, 24)
    image[..., :8, :8] = torch.randn(2, 2, 8, 8)
    batch = {"weak": {"image": image, "tags": torch.tensor([[1, 0], [1, 0]], dtype=torch.uint8)}}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method(batch, CLOCK)["self_training"].item() > 0


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"alpha 1\.5: accepted is 0 \(soft\) to 1 \(hard\)"):
        make(alpha=1.5)
    with pytest.raises(ConfigError, match="tags of method wilson is 'none'"):
        make(tags="none")
    with pytest.raises(ManifestError, match="knows every class already"):
        make(labels=("background", "class1", "class2"))
    with pytest.raises(
        ManifestError, match="knows background, liver; the data set has background, class1, class2: liver"
    ):
        make(labels=("background", "liver"))
    with pytest.raises(ConfigError, match=r"give --init-from RUN"):
        methods.build("wilson", factory(2))
    of_ct = factory(2, previous=Frozen(factory(2, 2).segmenter(), OLD_LABELS, modality=("CT",)))
    with pytest.raises(ManifestError, match=r"sees 1 channel of CT, the data set has 2 channels of MR; accepted"):
        methods.build("wilson", of_ct)
    of_colours = factory(2, previous=Frozen(factory(2, 2).segmenter(), OLD_LABELS, modality=("OT",) * 3))
    with pytest.raises(
        ManifestError, match=r"sees 3 channels of another kind \(OT\), the data set has 2 channels of MR"
    ):
        methods.build("wilson", of_colours)
    make(labels=("Background", " CLASS2 "))


@pytest.mark.parametrize("name", registry.NETWORKS)
@pytest.mark.parametrize("patch", [(32, 32), (32, 32, 16)])
def test_a_step_has_the_network_of_the_old_run(name: str, patch: tuple[int, ...]) -> None:
    sizes = {"patch": patch, "in_channels": 2, "out_channels": 3}
    definition = registry.network_def(NetworkSpec(name=name, width=8), **sizes)
    spec = network_of_definition({"_target_": "scripts.networks.adapters.Planar", "network": definition, "axis": 2})
    assert spec is not None
    assert (spec.name, spec.width) == (name, 8)
    assert registry.network_def(spec, **sizes) == definition


# The whole life: a base, a step, and another step.

SMALL = ["stages.0.schedule.iterations=2", "stages.0.schedule.workers=0", "stages.0.schedule.batch={weak: 2}",
         "stages.0.method.options.channels=4"]  # fmt: skip


def write_steps(folder: Path) -> tuple[Path, Path, Path]:
    """Manifests of a base with masks of the ball, a step with tags of the box, and one with tags of a rod."""
    base = write_dataset(folder, labeled=3, unlabeled=0, validation=0)
    content = json.loads(base.read_text())
    images = [case["image"] for case in content["training"]]
    labels = {"0": "background", "1": "ball"}
    base.write_text(json.dumps({**content, "labels": labels, "ignore_index": 2}))
    paths = [base]
    for number, name in ((2, "box"), (3, "rod")):
        labels = {
            "0": "background",
            str(number): name,
            **{str(9 - i): old for i, old in enumerate(labels.values()) if i},
        }
        cases = [
            {"image": images[0], "tags": [name]},
            {"image": images[1], "tags": []},
            {"image": images[2], "tags": [name]},
        ]
        step = {
            "labels": labels,
            "modality": content["modality"],
            "training": cases,
            "test": [content["test"][0]["image"]],
        }
        path = folder / f"{name}.json"
        path.write_text(json.dumps(step))
        paths.append(path)
    return paths[0], paths[1], paths[2]


REFUSED = [
    ({"tags": ["box"]}, "changed.json: method wilson: the tags of box: in 3 images present, in 0 absent"),
    ({"tags": []}, "method wilson: the tags of box: in 0 images present, in 3 absent"),
    ({"labels": {"0": "background", "1": "box"}}, "knows background, ball; the data set has background, box: ball is"),
    ({"labels": {"0": "ball", "1": "background", "2": "box"}}, "the background of the network that it starts from is"),
    (
        {"modality": {"0": "CT"}},
        "changed.json: .* sees 1 channel of MR, the data set has 1 channel of CT; .* from .*base",
    ),
]


def changed(step: Path, change: dict) -> Path:
    """The manifest of a step with other tags in every case, or other entries."""
    content = json.loads(step.read_text())
    for name, value in change.items():
        if name == "tags":
            content["training"] = [{**case, "tags": value} for case in content["training"]]
        else:
            content[name] = value
    path = step.with_name("changed.json")
    path.write_text(json.dumps(content))
    return path


def test_a_step_is_planned_with_the_run_that_it_starts_from(tmp_path: Path, capsys) -> None:
    _, box, _ = write_steps(tmp_path / "data")
    known = data_spec(labels={0: "background", 1: "ball"}, modality=("MR",), patch=(16, 16, 8))
    make_bundle(tmp_path / "base", known)
    with pytest.raises(ConfigError, match="method wilson asks the network that it starts from, and there is none"):
        write_plan("wilson", box, tmp_path / "plan.yaml", overrides=SMALL, device="cpu")
    of_all = changed(box, {"tags": ["box"]})
    with pytest.raises(ConfigError, match=r"changed.json: method wilson: the tags of box: in 3 images present, in 0"):
        write_plan("wilson", of_all, tmp_path / "plan.yaml", SMALL, device="cpu", init_from=tmp_path / "base")
    unknown = changed(box, {"labels": {"0": "background", "1": "box"}})
    said = r"changed.json: method wilson: the network that it starts from knows background, ball; .* from .*base$"
    with pytest.raises(ManifestError, match=said):
        write_plan("wilson", unknown, tmp_path / "plan.yaml", SMALL, device="cpu", init_from=tmp_path / "base")
    capsys.readouterr()
    planned = write_plan("wilson", box, tmp_path / "plan.yaml", SMALL, device="cpu", init_from=tmp_path / "base")
    assert "known already │ ball; new: box" in capsys.readouterr().err
    # the tags of the ball, which the base knows, are not looked at
    assert not [line for line in find_warnings(planned, Manifest.load(box)) if "ball" in line or "background" in line]
    assert (planned.stages[0].network.name, planned.stages[0].network.width) == ("unet", 4)
    assert tuple(planned.data["patch"]) == (16, 16, 8)
    assert load(str(tmp_path / "plan.yaml")) == planned


@pytest.mark.slow
def test_two_steps_after_a_base(tmp_path: Path) -> None:
    base, box, rod = write_steps(tmp_path / "data")
    overrides = ["stages.0.network={name: vnet, width: 4}", "data.patch=[16,16,16]", "data.spacing_mm=[1.5,1.5,1.5]"]
    fast = ["stages.0.schedule.iterations=2", "stages.0.schedule.workers=0"]
    train("wilson_base", base, tmp_path / "base", overrides=[*overrides, *fast], device="cpu")
    for change, message in REFUSED:
        with pytest.raises(MedsegError, match=message):
            train("wilson", changed(box, change), tmp_path / "no", init_from=tmp_path / "base", overrides=SMALL)
    with pytest.raises(ConfigError, match="method wilson asks the network that it starts from, and there is none"):
        train("wilson", box, tmp_path / "no", overrides=SMALL, device="cpu")
    first = train("wilson", box, tmp_path / "first", init_from=tmp_path / "base", overrides=SMALL, device="cpu")
    second = train("wilson", rod, tmp_path / "second", init_from=first, overrides=SMALL, device="cpu")
    for run, drawn in ((tmp_path / "base", False), (first, True), (second, True)):
        assert (run / "maps.png").is_file() == drawn
    opened = [open_bundle(run) for run in (tmp_path / "base", first, second)]
    assert [bundle.independent for bundle in opened] == [True, True, True]
    assert [list(bundle.data.labels.values()) for bundle in opened] == [
        ["background", "ball"], ["background", "box", "ball"], ["background", "rod", "ball", "box"],
    ]  # fmt: skip
    assert {bundle.data.patch for bundle in opened} == {(16, 16, 16)}
    report = predict(second, rod, tmp_path / "out", section="test")
    assert not report["failed"]
