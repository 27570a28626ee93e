"""Bundles: the product of training, run by MONAI's own tools without medseg, opened by medseg as data only.

`write_bundle` writes configurations, weights and a copy of `medseg.portable` as `scripts`. `open_bundle`
never executes what a bundle holds: of its configurations it instantiates a short list of classes of MONAI and
of this installation, with literal arguments, and its weights are loaded as numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor, nn

from medseg import __version__, portable
from medseg.bundle import metadata
from medseg.bundle.configs import (
    SCRIPTS,
    Config,
    evaluate_config,
    inference_config,
    inferer_config,
    read_template,
    train_config,
)
from medseg.bundle.safe_load import checked_weights, literal, read_json, reason_of
from medseg.bundle.swap import swap_folder
from medseg.config.pipeline import DataSpec
from medseg.errors import BundleError, OutputError
from medseg.networks.weight_files import UnreadableWeights, load_tensors, sha256_of
from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.io.write import temporary_name
from medseg.portable.networks.adapters import Views

FORMAT = 1
PACKAGE = "medseg.portable."
KINDS: dict[str, Any] = {
    "network_def": nn.Module,
    "preprocessing": Compose,
    "inferer": (SlabInferer, ViewsInferer),
}


@dataclass(frozen=True)
class OpenBundle:
    """A bundle ready for use.

    Attributes:
        network: volumes `(B, C, X, Y, Z)` to logits, in evaluation mode.
        preprocessing: items with the file names of an image to network input.
        inferer: network input to labels on the file's grid.
        data: what the plan decided about the data.
        path: the bundle's folder.
        digest: SHA-256 of weights and configuration: equal digests predict alike.
        independent: whether a sigmoid of each class, not a softmax, makes its logits probabilities.
    """

    network: nn.Module
    preprocessing: Compose
    inferer: SlabInferer | ViewsInferer
    data: DataSpec
    path: Path
    digest: str
    independent: bool = False

    @property
    def views(self) -> tuple[str, ...]:
        """The views that have a network each; none where there is one network."""
        return tuple(self.network.networks) if isinstance(self.network, Views) else ()


def _portable_names(node: Any) -> Any:
    """A definition with this package's classes named as the bundle's scripts."""
    if isinstance(node, dict):
        return {key: _portable_names(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_portable_names(value) for value in node]
    if isinstance(node, str) and node.startswith(PACKAGE):
        return f"{SCRIPTS}.{node.removeprefix(PACKAGE)}"
    return node


def write_bundle(
    out: Path,
    network: nn.Module,
    *,
    network_def: Config,
    data: DataSpec,
    name: str,
    fusion: str = "vote",
    independent: bool = False,
) -> Path:
    """Write a bundle; the folder appears whole or not at all.

    Args:
        out: the bundle's folder; an earlier bundle there is replaced.
        network: volumes `(B, C, X, Y, Z)` to logits `(B, classes, X, Y, Z)`.
        network_def: `_target_` dictionary that makes such a network.
        data: what the plan decided about the data.
        name: of the pipeline.
        fusion: how the views of a multi-view network become one, of `portable.inference.multi_view.FUSIONS`.
        independent: whether a sigmoid of each class, not a softmax, makes its logits probabilities.

    Returns:
        `out`.

    Raises:
        BundleError: the weights are not finite, or do not fit the definition.
        OutputError: the folder cannot be written.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    definition = _portable_names(network_def)
    checked_weights(state, literal(definition, "network_def", out), out)
    temporary = temporary_name(out)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        views = list(network.networks) if isinstance(network, Views) else []
        configs = _configs(definition, data, name, views, fusion)
        ours: Config = {"name": name, "data": data.model_dump(mode="json")}
        if independent:
            ours["independent"] = True
        _write_files(temporary, state, ours, configs)
        (temporary / "docs" / "README.md").write_text(metadata.readme(data, name, views), "utf-8")
        _flush(temporary)
        _refuse_other_folder(out)
        swap_folder(temporary, out)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", path=out) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _refuse_other_folder(folder: Path) -> None:
    """See that a new bundle takes the place of nothing, of an empty folder or of a bundle."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "configs" / "medseg.json").is_file():
        raise OutputError("exists and is no bundle", path=folder, hint="choose another folder")


def _configs(definition: Config, data: DataSpec, name: str, views: list[str], fusion: str) -> dict[str, Config]:
    """Files of `configs/`, without the record of the weights."""
    configs = {
        "inference.json": inference_config(definition, data, inferer_config(data, views, fusion)),
        "metadata.json": metadata.metadata(data, name, views),
        "metadata_schema.json": metadata.metadata_schema(),
    }
    # MONAI's trainer trains one network on one kind of patch
    if views:
        return configs
    return {**configs, "train.json": train_config(definition, data), "evaluate.json": evaluate_config()}


def _write_files(folder: Path, state: dict[str, Tensor], said: Config, configs: dict[str, Config]) -> None:
    """All files but the README; `said` is what only medseg reads of the bundle, beside its format and weights."""
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True)
    shutil.copytree(Path(portable.__file__).parent, folder / SCRIPTS, ignore=_no_source)
    weights = folder / "models" / "model.pt"
    torch.save(state, weights)
    ours = {
        "format": FORMAT,
        "medseg_version": __version__,
        "name": said["name"],
        "weights_sha256": sha256_of(weights),
        **said,
    }
    for file, content in {**configs, "medseg.json": ours}.items():
        (folder / "configs" / file).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "utf-8")
    (folder / "configs" / "logging.conf").write_text(read_template("logging.conf"), "utf-8")


def _no_source(folder: str, names: list[str]) -> list[str]:
    """Entries of a folder of the package that do not travel: everything but Python files and the folders of them."""
    skipped = []
    for name in names:
        is_package = Path(folder, name, "__init__.py").is_file()
        if not name.endswith(".py") and not is_package:
            skipped.append(name)
    return skipped


def _flush(folder: Path) -> None:
    for written in folder.rglob("*"):
        if written.is_file():
            with written.open("rb") as stream:
                os.fsync(stream.fileno())


def open_bundle(path: str | Path) -> OpenBundle:
    """Open a bundle, or the bundle of a run folder, without executing anything of it.

    Raises:
        BundleError: it is no bundle of medseg, is damaged, or names a class or an expression that is not ours.

    Examples:
        >>> from medseg.bundle.bundle import open_bundle
        >>> bundle = open_bundle("runs/first")
        >>> bundle.data.labels
        {0: 'background', 1: 'liver', 7: 'spleen'}
        >>> bundle.data.spacing_mm, bundle.data.patch
        ((1.5, 1.5, 2.0), (16, 16, 16))
    """
    folder = _find(Path(path))
    data, expected, independent = _read_description(folder / "configs" / "medseg.json")
    config_file = folder / "configs" / "inference.json"
    config = read_json(config_file)
    parts = {key: literal(config.get(key), key, config_file) for key in KINDS}
    for key, kind in KINDS.items():
        if not isinstance(parts[key], kind):
            raise BundleError(f"{key} is not what predicts with medseg", path=config_file)
    network, inferer = parts["network_def"], parts["inferer"]
    _check_views(network, inferer, config_file)
    if getattr(inferer, "paint_order", ()) != data.paint_order:
        raise BundleError("inferer paints other regions than the labels have", path=config_file, hint="train again")
    weights = folder / "models" / "model.pt"
    network.load_state_dict(checked_weights(_load(weights, expected), network, weights))
    configuration = hashlib.sha256(config_file.read_bytes()).hexdigest()
    digest = hashlib.sha256(f"{expected} {configuration}".encode()).hexdigest()
    return OpenBundle(network.eval(), parts["preprocessing"], inferer, data, folder, digest, independent)


def _read_description(path: Path) -> tuple[DataSpec, str, bool]:
    """What a bundle's `medseg.json` says of the data, the SHA-256 of the weights, whether classes are independent."""
    description = read_json(path)
    try:
        independent = description.get("independent", False) is True
        return DataSpec(**description["data"]), str(description["weights_sha256"]), independent
    except (KeyError, TypeError, ValueError) as error:
        reason = reason_of(error)
        hint = "train again with this version of medseg"
        raise BundleError(f"does not describe a model ({reason})", path=path, hint=hint) from error


def _check_views(network: nn.Module, inferer: SlabInferer | ViewsInferer, config_file: Path) -> None:
    """See that the network has the views that the inferer asks for."""
    available = set(network.networks) if isinstance(network, Views) else set()
    wanted = set(inferer.views) if isinstance(inferer, ViewsInferer) else set()
    if bool(available) != bool(wanted) or not wanted <= available:
        raise BundleError(
            f"inferer asks for the views {sorted(wanted)}, the network has {sorted(available)}", path=config_file
        )


def _find(path: Path) -> Path:
    """The bundle's folder: `path`, or `bundle` in it."""
    for folder in (path, path / "bundle"):
        if (folder / "configs" / "inference.json").is_file():
            if not (folder / "configs" / "medseg.json").is_file():
                raise BundleError(
                    "is a bundle, but not one of medseg (no configs/medseg.json)",
                    path=folder,
                    hint="run it with `python -m monai.bundle run`, if you trust it: it may execute code",
                )
            return folder
    if not path.exists():
        raise BundleError("does not exist", path=path, hint="give a run folder or its bundle")
    hint = "give a run folder or its bundle"
    if any((folder / "encoder.json").is_file() for folder in (path, path / "encoder")):
        hint = "what medseg pretrain leaves segments nothing; medseg train --init-from starts from it"
    elif (path / "run.json").exists() or (path / "last.pt").exists():
        hint = "its training did not finish; continue it with --resume"
    elif (path / "fold0").is_dir():
        hint = f"it holds the runs of folds; give one of them, such as {path / 'fold0'}"
    raise BundleError("holds no bundle", path=path, hint=hint)


def _load(path: Path, expected: str) -> Any:
    """The stored weights, if they are those that were written."""
    again = "copy the bundle again"
    try:
        found = sha256_of(path)
        if found != expected:
            problem = f"is damaged or was exchanged: SHA-256 {found[:12]}, recorded is {expected[:12]}"
            raise BundleError(problem, path=path, hint=again)
        return load_tensors(path)
    except UnreadableWeights as error:
        raise BundleError(f"holds no plain weights ({error})", path=path, hint=again) from error
