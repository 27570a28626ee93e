"""`export`: the network of a bundle as an ONNX file, which is written only if onnxruntime agrees with PyTorch.

Such a file holds the network alone: windows of preprocessed images to logits. What is done before and after it
(reading, spacing, intensities, windows, label values) is told in the file's metadata, since ONNX has no word for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg import __version__
from medseg.atomic import check_writable, make_folder, write_whole
from medseg.bundle.bundle import OpenBundle, open_bundle
from medseg.config.pipeline import DataSpec
from medseg.cores import usable_cores
from medseg.errors import BundleError, ConfigError, OutputError
from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.networks.adapters import Views, context_of
from medseg.progress import say, silenced
from medseg.workflows.export.options import ExportOptions

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
IMAGE, LOGITS = "image", "logits"
LARGEST_DIFFERENCE = 1e-4
"""Between the logits of onnxruntime and PyTorch, as a part of the largest logit where that is above 1."""

LARGEST_FILE = 2**31 - 1
"""Bytes of an ONNX file that is one file."""


@dataclass(frozen=True, eq=False)
class _Part:
    """One network of a bundle, with the windows that it is asked with.

    Attributes:
        network: windows `(B, C, *window + 2 * context)` to logits `(B, classes, *window)`.
        window: voxels along x, y, z.
        view: name of the plane that it sees, or "volume".
    """

    network: nn.Module
    window: tuple[int, int, int]
    view: str

    @property
    def context(self) -> tuple[int, int, int]:
        """Voxels on either side of a window that the network sees and labels none of."""
        return context_of(self.network)

    @property
    def seen(self) -> tuple[int, ...]:
        """Voxels along x, y, z that the network takes."""
        return tuple(length + 2 * around for length, around in zip(self.window, self.context, strict=True))


@dataclass(frozen=True)
class _Comparison:
    """Logits of onnxruntime beside those of PyTorch.

    Attributes:
        difference: the largest, absolute.
        largest: absolute logit of PyTorch.
    """

    difference: float
    largest: float

    @property
    def is_good(self) -> bool:
        """Whether they are equal but for rounding; single precision rounds larger numbers more coarsely."""
        return self.difference <= LARGEST_DIFFERENCE * max(1.0, self.largest)  # False of NaN

    def __str__(self) -> str:
        return f"differ by {self.difference:.1e} at most, of logits up to {self.largest:.3g}"


def run_export(options: ExportOptions) -> Path:
    """Write a trained network for other programs, after a comparison with what PyTorch makes of the same windows.

    Args:
        options: `model` is a run folder or a bundle, `output` the file, which replaces an earlier one.

    Returns:
        `options.output`: an ONNX file from windows `image` `(batch, channels, X, Y, Z)` float32 to `logits`
        `(batch, classes, X, Y, Z)` float32, any number of windows at once, and what the model needs around it as
        metadata, see `docs/predicting.md`.

    Raises:
        BundleError: there is no usable model.
        ConfigError: a package of the extra `onnx` is missing, the view is not there or none was named of several, or
            the network cannot be expressed in ONNX.
        OutputError: onnxruntime gives other logits than PyTorch, or the file cannot be written; nothing is written.
    """
    bundle = open_bundle(options.model)
    part = _chosen_part(bundle, options.view)
    _check_packages()
    if options.output.is_dir():
        raise OutputError("is a folder; an export is a file", path=options.output, hint="give a name ending in .onnx")
    check_writable(options.output.parent)
    # two windows: torch takes a number of one for a constant
    example = _example_windows(part, bundle.data, number=2)
    model = _converted(part, example, bundle.path)
    _describe(model, bundle, part)
    if model.ByteSize() > LARGEST_FILE:
        size = f"{model.ByteSize() / 2**30:.1f} GiB"
        raise ConfigError(f"its network is too large for one ONNX file: {size} of at most 2 GiB", path=bundle.path)
    content = model.SerializeToString()
    single = _example_windows(part, bundle.data, number=1)  # another number than the graph was made with
    try:
        comparison = _compare(content, part.network, [single, example])
    except Exception as error:  # those of onnxruntime have no class in common
        raise OutputError(
            f"not written: onnxruntime cannot run it ({_first_line(error)})", path=options.output
        ) from error
    if not comparison.is_good:
        problem = f"not written: onnxruntime and PyTorch {comparison}; accepted are {LARGEST_DIFFERENCE:.0e} of them"
        raise OutputError(problem, path=options.output)
    import onnxruntime

    say(f"onnxruntime {onnxruntime.__version__} and PyTorch {comparison} (window {' x '.join(map(str, part.window))})")
    make_folder(options.output.parent)
    return write_whole(options.output, content)


def _check_packages() -> None:
    """See that the packages of the extra `onnx` are installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"an export to ONNX needs {' and '.join(missing)}", hint='pip install "medseg[onnx]"')


def _chosen_part(bundle: OpenBundle, view: str | None) -> _Part:
    """The network of the bundle, or the one of the view that was named."""
    known = bundle.views or (bundle.data.view,)
    if view is not None and view not in known:
        raise ConfigError(f"--view {view}: the model has no such view; it has {', '.join(known)}", path=bundle.path)
    if not bundle.views:
        return _Part(bundle.network, bundle.inferer.windows[0], bundle.data.view)
    if view is None:
        raise BundleError(
            f"has {len(known)} networks, of the views {', '.join(known)}, and an ONNX file is one network",
            path=bundle.path,
            hint="export each to a file of its own: " + ", ".join(f"--view {each}" for each in known),
        )
    assert isinstance(bundle.network, Views)
    assert isinstance(bundle.inferer, ViewsInferer)
    bundle.inferer.views = (view,)
    return _Part(bundle.network.networks[view], bundle.inferer.windows[0], view)


def _example_windows(part: _Part, data: DataSpec, number: int) -> Tensor:
    """Windows `(number, C, X, Y, Z)` of normal noise, which is how scaled intensities are spread."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn((number, len(data.modality), *part.seen), generator=generator)


def _converted(part: _Part, example: Tensor, bundle: Path) -> Any:
    """The network as an `onnx.ModelProto` that takes any number of windows."""
    batch = torch.export.Dim("batch")
    try:
        with silenced("torch.onnx"):
            program = torch.onnx.export(
                part.network, (example,), dynamo=True, dynamic_shapes=({0: batch},), input_names=[IMAGE],
                output_names=[LOGITS], verbose=False,
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ConfigError(f"its network cannot be expressed in ONNX ({_first_line(error)})", path=bundle) from error
    assert program is not None
    model = program.model_proto
    (first,) = model.graph.input
    if not first.type.tensor_type.shape.dim[0].dim_param:
        raise ConfigError("its network can be expressed in ONNX only for a fixed number of windows", path=bundle)
    return model


def _first_line(error: Exception) -> str:
    """What a library said, short enough for a line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _describe(model: Any, bundle: OpenBundle, part: _Part) -> None:
    """Write what the model needs around its network into the file's metadata: texts, or JSON where it is no text."""
    from onnx import helper

    data = bundle.data
    classes = []
    for channel, value in enumerate(data.output_values):
        classes.append({"channel": channel, "value": value, "name": data.labels[value]})
    components = {data.labels[value]: rule for value, rule in bundle.inferer.components.items()}
    says: dict[str, Any] = {
        "medseg_version": __version__,
        "model_sha256": bundle.digest,
        "classes": classes,
        "target": data.target,
        "probabilities": "sigmoid" if bundle.independent else "softmax",
        "modality": list(data.modality),
        "orientation": "RAS",
        "spacing_mm": list(data.spacing_mm),
        "resample_axes": list(data.resample_axes),
        "intensities": [each.model_dump(mode="json") for each in data.intensities],
        "view": part.view,
        "window": list(part.window),
        "context": list(part.context),
        "overlap": bundle.inferer.overlap,
        "padding": bundle.inferer.padding,
        "blend": bundle.inferer.blend,
        "components": components,
    }
    if data.regions:  # channels above a half are painted one after the other, each with its value
        says["regions"] = [region.model_dump(mode="json") for region in data.regions]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in says.items()}
    helper.set_model_props(model, texts)
    model.producer_name, model.producer_version = "medseg", __version__


def _compare(content: bytes, network: nn.Module, examples: list[Tensor]) -> _Comparison:
    """Ask onnxruntime and PyTorch for the logits of the same windows.

    Args:
        content: of the ONNX file.
        network: that it was made of, on the CPU.
        examples: windows `(B, C, X, Y, Z)`, each of another number.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = usable_cores()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    difference = torch.zeros(())
    largest = torch.zeros(())
    for windows in examples:
        with torch.no_grad():
            expected = network(windows)
        (found,) = session.run([LOGITS], {IMAGE: windows.numpy()})
        # `maximum` keeps a NaN, which `max` of Python would lose
        difference = torch.maximum(difference, (torch.from_numpy(found) - expected).abs().max())
        largest = torch.maximum(largest, expected.abs().max())
    return _Comparison(float(difference), float(largest))
