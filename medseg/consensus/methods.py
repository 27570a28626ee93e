"""The methods that fuse annotations, by name; nothing heavy is imported, so that `medseg list` answers at once."""

from __future__ import annotations

FUSERS: dict[str, str] = {
    "gcssl": "medseg.consensus.fusers.gcssl.gcssl:gcssl",
    "majority": "medseg.consensus.fusers.majority:majority",
    "staple": "medseg.consensus.fusers.staple:staple",
    "ml-staple": "medseg.consensus.fusers.multilabel_staple:multilabel_staple",
    "simple": "medseg.consensus.fusers.simple:simple",
    "sba": "medseg.consensus.fusers.shape_based_averaging:shape_average",
}
"""Name of each method, and the module and function behind it."""

DESCRIPTIONS: dict[str, str] = {
    "gcssl": "Raters weighed by their self-consistency, gaps predicted, one graph cut (Mahapatra 2017); the default.",
    "majority": "The label that most raters gave.",
    "staple": "Raters count by estimated sensitivity and specificity, each structure by itself (Warfield 2004).",
    "ml-staple": "Raters count by an estimated confusion matrix, all structures at once (Rohlfing 2004).",
    "simple": "Raters far from the estimate are left out, round by round (Langerak 2010).",
    "sba": "Outlines are averaged as signed distances (Rohlfing 2007).",
}
"""Name of each method -> what it does, in a sentence."""

ALIASES = {"staple-fast": "staple", "ml-staple-fast": "ml-staple"}
"""Names that methods had before; they still work, with a warning."""

REMOVED = {"voting-itk": "majority"}
"""Methods that there are no more, and what to use in their place."""
