"""One example of each command, at the end of what its `--help` says of it."""

from __future__ import annotations

EXAMPLES = {
    "train": "medseg train --task dtc --data manifest.json --output runs/first --budget 25m",
    "pretrain": "medseg pretrain --task rotation --data manifest.json --output runs/encoder",
    "plan": "medseg plan --task dtc --data manifest.json --output plan.yaml --set data.patch=[96,96,96]",
    "predict": "medseg predict --model runs/first --input new_scans/ --output predictions/",
    "evaluate": "medseg evaluate --prediction predictions/ --reference manifest.json --section test",
    "export": "medseg export runs/first --format onnx --output first.onnx",
    "compare": "medseg compare --tasks supervised dtc --data manifest.json --output comparison/ --budget 25m",
    "consensus": "medseg consensus --image ct.nii.gz --annotation a.nii.gz --annotation b.nii.gz --output fused/",
    "serve": "medseg serve --studies scans/ --models runs/first",
    "demo": "medseg demo --quick --output demo/",
    "list": "medseg list --json",
    "doctor": "medseg doctor",
    "data": "medseg data init scans/ --output manifest.json",
    "data check": "medseg data check manifest.json --headers-only",
    "data init": "medseg data init scans/ --output manifest.json --label 1=liver --validation 0.1",
    "data saliency": "medseg data saliency manifest.json --output saliency/ --kind bright",
}
"""Command -> a line that can be copied and changed."""


def with_example(text: str, name: str) -> str:
    """A command's description with its example below, which keeps its line."""
    if name not in EXAMPLES:
        return text
    return f"{text.rstrip()}\n\n\b\nExample:\n  {EXAMPLES[name]}"
