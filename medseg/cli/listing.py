"""What `medseg list` lists, as values for programs and as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.config.yaml_values import load_yaml


def everything() -> dict[str, Any]:
    """Pipelines, pre-trainings and methods of consensus, each with a description; names of methods and networks."""
    from medseg.consensus.methods import DESCRIPTIONS, FUSERS
    from medseg.methods import METHODS
    from medseg.networks.registry import NETWORKS
    from medseg.workflows.train.settings import shipped, shipped_pretraining

    return {
        "pipelines": _described(shipped()),
        "pretraining": _described(shipped_pretraining()),
        "methods": list(METHODS),
        "networks": list(NETWORKS),
        "consensus": [{"name": name, "description": DESCRIPTIONS[name]} for name in FUSERS],
    }


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
}


def as_text(found: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = []
    for key, head in HEADS.items():
        lines.append(head)
        lines += [f"  {each['name']:<22} {each['description']}" for each in found[key]]
    lines.append(f"methods    {', '.join(found['methods'])}")
    lines.append(f"networks   {', '.join(found['networks'])}")
    return "\n".join(lines)
