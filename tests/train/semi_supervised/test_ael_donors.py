"""AEL's donors: checkpoints have their numbers alone, and a resumed run has the very same patches."""

from __future__ import annotations

import pytest
import torch
from given_networks import PATCHES, factory
from tiny import write_dataset

from medseg import methods
from medseg.config.pipeline import NetworkSpec
from medseg.data.cache import VolumeCache
from medseg.data.streams import PatchStreams
from medseg.manifest.manifest import Manifest
from medseg.method import Clock
from medseg.ops.semi_supervised.donors import DonorBank
from medseg.workflows.train.plan import plan_data

BANKS = ("labeled_donors", "unlabeled_donors")


def patch_of(number: int) -> tuple[torch.Tensor, torch.Tensor, None]:
    """A patch as its number says."""
    return torch.full((2, 3, 3), float(number)), torch.full((1, 3, 3), number, dtype=torch.uint8), None


def filled_bank(*, numbered: bool) -> DonorBank:
    """Three patches of which the second holds two classes."""
    bank = DonorBank(3, slots=2)
    for value, number in ((1, 4), (1, 7), (2, 7), (2, 8), (2, 9)):
        bank.store(value, *patch_of(number), number=number if numbered else None)
    bank.forget([(1, 0)])
    return bank


def same(one: DonorBank, other: DonorBank) -> bool:
    """Whether two banks hold the same patches."""
    if not torch.equal(one.filled, other.filled) or not torch.equal(one.newest, other.newest):
        return False
    return all(
        torch.equal(getattr(one, name)[one.filled], getattr(other, name)[one.filled]) for name in ("images", "labels")
    )


def test_checkpoints_have_numbers_from_which_the_patches_are_made_again():
    bank, other = filled_bank(numbered=True), DonorBank(3, slots=2)
    state = bank.state_dict()
    assert set(state) == {"filled", "newest", "numbers"}
    other.load_state_dict(state)
    asked = []

    def cut(number: int):
        asked.append(number)
        return patch_of(number)

    other.recall(cut)
    assert asked == [7, 8, 9], "each once, and none that is forgotten"
    assert same(bank, other)
    assert float(other.images[1, 1, 0, 0, 0]) == 7
    assert float(other.images[2, 0, 0, 0, 0]) == 9, "in the place of the oldest"


def test_patches_without_a_number_are_in_checkpoints_as_those_of_earlier_versions_are():
    bank, other = filled_bank(numbered=False), DonorBank(3, slots=2)
    state = bank.state_dict()
    assert {"images", "labels", "places"} < set(state)
    del state["numbers"]  # which earlier versions did not keep
    other.load_state_dict(state)
    other.recall(patch_of)
    assert same(bank, other)
    assert {"images", "labels"} < set(other.state_dict()), "or the next checkpoint would lose them"
    for slot in range(2):
        for value in (1, 2):
            other.store(value, *patch_of(slot), number=slot)
    assert "images" not in other.state_dict(), "once all have a number"


@pytest.fixture(scope="module")
def streams(tmp_path_factory) -> dict[int, PatchStreams]:
    """Batches of 2D and 3D."""
    folder = tmp_path_factory.mktemp("donors")
    manifest = Manifest.load(write_dataset(folder, labeled=2, unlabeled=2, shape=(18, 20, 16)))
    found = {}
    for dims in (2, 3):
        overrides = {"patch": list(PATCHES[dims]), "view": "axial" if dims == 2 else "volume"}
        spec = plan_data(manifest, network=NetworkSpec(name="vnet"), memory_bytes=1e9, overrides=overrides)
        cache = VolumeCache(folder / f"cache{dims}")
        volumes = {
            "labeled": cache.prepare(manifest, list(manifest.training), spec),
            "unlabeled": cache.prepare(manifest, list(manifest.unlabeled), spec),
        }
        kind = methods.find("ael")
        batch = {"labeled": 2, "unlabeled": 2}
        found[dims] = PatchStreams(volumes, spec, batch, seed=3, total=9, streams=kind.streams)
    return found


def test_samples_are_those_of_the_batch_whatever_process_made_it(streams):
    batch = streams[3][2]
    for stream, keys in (("labeled", {"image", "label", "number", "place"}), ("unlabeled", {"image", "number"})):
        assert keys <= set(batch[stream])
        assert batch[stream]["number"].tolist() == [4, 5]
        second = streams[3].samples(stream, [5])
        for key in keys:
            assert torch.equal(second[key][0], batch[stream][key][1])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_resumed_method_has_the_same_donors_and_goes_on_the_same(streams, dims):
    def made(seed: int):
        torch.manual_seed(seed)
        return methods.build("ael", factory(dims, 3, channels=1), area=0.0, pasted_classes=3)

    method = made(0)
    for step in range(3):
        method(streams[dims][step], Clock(step, 9))
        method.after_step(Clock(step, 9))
    state = method.state_dict()
    assert not any(name.endswith(("images", "labels", "places")) for name in state)
    resumed = made(1)
    resumed.load_state_dict(state)
    before = torch.get_rng_state()
    resumed.recall(streams[dims].samples)
    assert torch.equal(torch.get_rng_state(), before)
    for name in BANKS:
        bank, again = getattr(method, name), getattr(resumed, name)
        assert bool(bank.filled.any())
        assert same(bank, again)
        if bank.places.numel():
            assert torch.equal(bank.places[bank.filled], again.places[bank.filled])
    found = []
    for each in (method, resumed):
        torch.manual_seed(5)
        found.append({name: float(term.detach()) for name, term in each(streams[dims][3], Clock(3, 9)).items()})
    assert found[0] == found[1]
