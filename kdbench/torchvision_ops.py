"""Makes `import torchvision` (and so timm) work beside a torch that torchvision's compiled operators do not fit.

Package indexes may hold only a CUDA build of torchvision. Beside a CPU build of torch its library does not load, and
torchvision then fails on import, because it registers Python code for the operators torchvision::nms and ::qnms that
nobody declared. kdbench calls none of these operators, so declaring their schemas is enough. Where torchvision's own
library loads, nothing is declared.

Import this module before timm or torchvision: `import kdbench.torchvision_ops  # noqa: F401`.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _declare() -> "torch.library.Library | None":
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    spec = importlib.util.find_spec("torchvision")
    for folder in spec.submodule_search_locations if spec else ():
        for library in (*Path(folder).glob("_C*.so"), *Path(folder).glob("_C*.pyd")):
            try:
                torch.ops.load_library(str(library))
                return None
            except OSError:
                pass
    declared = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        declared.define(schema)
    return declared


# The operators vanish with the Library object, so it is kept, over a reload too.
_library = globals().get("_library") or _declare()
