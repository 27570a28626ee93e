"""What `medseg list` lists, as values for programs and as text."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config.yaml_values import load_yaml

if TYPE_CHECKING:
    from medseg.ops.augmentation.transforms import RandomTransform


def everything() -> dict[str, Any]:
    """Pipelines, pre-trainings, methods of consensus and random changes of patches; names of methods and networks."""
    from medseg.consensus.methods import DESCRIPTIONS, FUSERS
    from medseg.methods import METHODS
    from medseg.networks.registry import NETWORKS
    from medseg.ops.augmentation.settings import TRANSFORMS
    from medseg.workflows.train.settings import shipped, shipped_pretraining

    return {
        "pipelines": _described(shipped()),
        "pretraining": _described(shipped_pretraining()),
        "methods": list(METHODS),
        "networks": list(NETWORKS),
        "consensus": [{"name": name, "description": DESCRIPTIONS[name]} for name in FUSERS],
        "augmentation": [_of_transform(kind) for kind in TRANSFORMS.values()],
    }


def _of_transform(kind: type[RandomTransform]) -> dict[str, Any]:
    """Name, first line of the description and settings with their defaults."""
    from pydantic_core import to_jsonable_python

    first_line = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
    default = kind()
    settings = {name: to_jsonable_python(getattr(default, name)) for name in kind.model_fields}
    return {"name": kind.name, "description": first_line, "settings": settings}


def _described(tasks: Mapping[str, Path]) -> list[dict[str, str]]:
    found = []
    for name, path in tasks.items():
        content = load_yaml(path.read_text(encoding="utf-8"))
        found.append({"name": name, "description": str(content["description"])})
    return found


HEADS = {
    "pipelines": "pipelines (--task)",
    "pretraining": "pre-training (medseg pretrain --task)",
    "consensus": "consensus (medseg consensus --method)",
    "augmentation": "random changes of training patches (--set data.augment.NAME.SETTING=VALUE)",
}


def as_text(found: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = []
    for key, head in HEADS.items():
        lines.append(head)
        for each in found[key]:
            lines.append(f"  {each['name']:<22} {each['description']}")
            if "settings" in each:
                lines.append(" " * 25 + _settings(each["settings"]))
    lines.append(f"methods    {', '.join(found['methods'])}")
    lines.append(f"networks   {', '.join(found['networks'])}")
    return "\n".join(lines)


def _settings(values: Mapping[str, Any]) -> str:
    """Settings with their defaults in one line, as `--set` takes them."""
    return " ".join(f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in values.items())
