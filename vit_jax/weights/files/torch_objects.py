"""Stand-ins for the classes of settings and metrics in torch's files.

Training scripts save their arguments and metrics beside the weights. The classes listed here hold
only data. They are still not instantiated when a file is loaded: one of three stand-ins replaces
each of them.
"""

import collections
from typing import Any

_Names = dict[str, tuple[str, ...]]  # class names by module

_OBJECTS: _Names = {
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "typing": ("Any", "Union"),
    "datetime": ("date", "datetime", "timedelta", "timezone"),
    "builtins": ("bool", "dict", "float", "frozenset", "int", "list", "slice", "str", "tuple"),
    "__builtin__": ("bool", "dict", "float", "frozenset", "int", "list", "slice", "str", "tuple"),
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"),
    "numpy": ("dtype", "ndarray", "bool_", "float32", "float64", "int32", "int64"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "numpy.dtypes": (
        "BoolDType",
        "Float16DType",
        "Float32DType",
        "Float64DType",
        "Int32DType",
        "Int64DType",
    ),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": (
        "AnyNode",
        "BooleanNode",
        "FloatNode",
        "IntegerNode",
        "PathNode",
        "StringNode",
    ),
    "mmengine.logging.history_buffer": ("HistoryBuffer",),
}
_MAPPINGS: _Names = {
    "collections": ("defaultdict",),
    "yacs.config": ("CfgNode",),
    "easydict": ("EasyDict",),
    "addict.addict": ("Dict",),
    "mmengine.config.config": ("ConfigDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "lightning.fabric.utilities.data": ("AttributeDict",),
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
}
_SEQUENCES: _Names = {"collections": ("deque",)}


class _Object:
    """Replaces an object, and drops its content."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _Mapping:
    """Replaces a dictionary. torch sets items on an `OrderedDict` only."""

    def __new__(cls, *arguments: Any) -> collections.OrderedDict[Any, Any]:  # type: ignore[misc]
        return collections.OrderedDict()


class _Sequence:
    """Replaces a list."""

    def __new__(cls, *arguments: Any) -> list[Any]:  # type: ignore[misc]
        return []


def stand_ins() -> list[tuple[type, str]]:
    """Return the stand-in of each class, with the full name of the class."""
    pairs: list[tuple[type, _Names]] = [
        (_Object, _OBJECTS),
        (_Mapping, _MAPPINGS),
        (_Sequence, _SEQUENCES),
    ]
    return [
        (stand_in, f"{module}.{name}")
        for stand_in, table in pairs
        for module, names in table.items()
        for name in names
    ]
