"""The corpus: each entry writes a payload into a folder, and returns the path that a user opens.

`payloads` makes the runs and prepared data sets; weight files and images are made here.
"""

import io
import json
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib

import numpy as np
import payloads
from golden_cases import FIXTURES
from payloads import CLASS, MODULE, Executes


def run_with_modules(folder, sentinel):
    """A run with Python files beside config.json, whose settings name modules."""
    run = payloads.write_run(folder / "run")
    for name in ("config", "modeling", "sitecustomize", "conftest"):
        (run / f"{name}.py").write_text(f"open({str(sentinel)!r}, 'w').close()\n")
    tree = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**tree, "import": MODULE}))
    return run


def run_with_names_of_modules(key, value):
    """A run with a setting that names a module instead of a part."""

    def write(folder, sentinel):
        run = payloads.write_run(folder / "run")
        payloads.edit_config(run, **{key: value})
        return run

    return write


def run_with_handlers(folder, sentinel):
    """A run whose checkpoint names classes as handlers and types, under a good seal."""
    run = payloads.write_run(folder / "run")
    params = run / "checkpoints" / "0" / "params"
    document = json.loads((params / "_CHECKPOINT_METADATA").read_text())
    handlers = {"params": CLASS, "meta": CLASS}
    document |= {"item_handlers": handlers, "custom_metadata": {"class": CLASS}}
    (params / "_CHECKPOINT_METADATA").write_text(json.dumps(document))
    text = (params / "_METADATA").read_text()
    (params / "_METADATA").write_text(text.replace('"np.ndarray"', f'"{CLASS}"'))
    payloads.seal(run / "checkpoints" / "0")
    return run


def run_with_filters(folder, sentinel):
    """A run whose arrays name a codec that unpickles, as numcodecs has one."""
    run = payloads.write_run(folder / "run")
    for path in (run / "checkpoints" / "0" / "params").glob("*/.zarray"):
        document = json.loads(path.read_text()) | {"filters": [{"id": "pickle"}]}
        path.write_text(json.dumps(document))
        for chunk in path.parent.glob("[0-9]*"):
            chunk.write_bytes(pickle.dumps(Executes(sentinel)))
    payloads.seal(run / "checkpoints" / "0")
    return run


def run_of_pickles(folder, sentinel):
    """A run, each of whose documents is a pickle."""
    run = payloads.write_run(folder / "run")
    content = pickle.dumps(Executes(sentinel))
    for name in ("results.json", "goodput.json", "origins.json", "metrics.jsonl", "config.json"):
        (run / name).write_bytes(content)
    (run / "checkpoints" / "0" / "meta" / "metadata").write_bytes(content)
    payloads.seal(run / "checkpoints" / "0")
    return run


def run_with_a_set(tamper):
    """A run whose config.json names a prepared data set beside it, which names a class."""

    def write(folder, sentinel):
        set_folder = payloads.prepare_pictures(folder / "data")
        tamper(set_folder)
        settings = {"data.name": "pictures", "data.data_dir": str(folder / "data")}
        return payloads.write_run(folder / "run", settings, classes="0123456789")

    return write


def npz_of_objects(folder, sentinel):
    """An `.npz` with a pickled object for an array."""
    path = folder / "weights.npz"
    objects = np.empty(1, object)
    objects[0] = Executes(sentinel)
    np.savez(path, **{"head/kernel": objects})
    return path


def npz_with_odd_names(folder, sentinel):
    """An `.npz` whose entries would be written elsewhere if they were extracted."""
    path = folder / "weights.npz"
    array = io.BytesIO()
    np.save(array, np.zeros(4, np.float32))
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../../elsewhere/a.npy", f"{sentinel}.npy", "a/../b.npy"):
            archive.writestr(name, array.getvalue())
        link = zipfile.ZipInfo("link.npy")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(sentinel))
    return path


def npz_that_grows(folder, sentinel):
    """An `.npz` of a few megabytes that holds a gigabyte of zeros."""
    path = folder / "weights.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (2**28,)}
    )
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("head/kernel.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(256):
            file.write(bytes(2**22))
    return path


def safetensors(header, content=b"", length=None):
    """A `.safetensors` with any header."""

    def write(folder, sentinel):
        text = json.dumps(header).encode()
        path = folder / "weights.safetensors"
        path.write_bytes(
            struct.pack("<Q", len(text) if length is None else length) + text + content
        )
        return path

    return write


def _tensor(begin, end):
    return {"dtype": "F32", "shape": [4], "data_offsets": [begin, end]}


def huggingface_with_code(folder, sentinel):
    """Weights of transformers that bring their own code, as `trust_remote_code` would run it."""
    path = shutil.copytree(FIXTURES / "hf_vit_eps", folder / "weights")
    for name in ("modeling", "configuration", "config"):
        (path / f"{name}.py").write_text(f"open({str(sentinel)!r}, 'w').close()\n")
    payloads.plant(path, sentinel)
    document = json.loads((path / "config.json").read_text())
    document |= {
        "auto_map": {"AutoConfig": "configuration.Config", "AutoModel": "modeling.Model"},
        "custom_pipelines": {"image-classification": {"impl": "modeling.Pipeline"}},
        "trust_remote_code": True,
        "_attn_implementation": f"elsewhere/{MODULE}",
        "quantization_config": {"quant_method": MODULE},
    }
    (path / "config.json").write_text(json.dumps(document))
    return path


def huggingface_with_shards_elsewhere(folder, sentinel):
    """Weights whose index names files outside of the folder."""
    path = shutil.copytree(FIXTURES / "hf_vit_eps", folder / "weights")
    (path / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../../../etc/passwd", "b": str(sentinel)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def _torch(save):
    def write(folder, sentinel):
        path = folder / "weights.pth"
        save(path, sentinel)
        return path

    return write


def _pickle_alone(path, sentinel):
    path.write_bytes(pickle.dumps({"head.weight": Executes(sentinel)}))


def _torch_zip(path, sentinel):
    import torch

    torch.save({"head.weight": torch.zeros(4), "extra": Executes(sentinel)}, path)


def _torch_legacy(path, sentinel):
    import torch

    tensors = {"head.weight": torch.zeros(4), "extra": Executes(sentinel)}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def _torch_script(path, sentinel):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but such files exist
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def _picture(name, content):
    def write(folder, sentinel):
        (folder / "train" / "a").mkdir(parents=True)
        path = folder / "train" / "a" / name
        path.write_bytes(content(sentinel) if callable(content) else content)
        return path

    return write


def _svg(sentinel):
    entity = f'<!DOCTYPE svg [<!ENTITY x SYSTEM "file://{sentinel}">]>'
    return (
        f'<?xml version="1.0"?>{entity}<svg xmlns="http://www.w3.org/2000/svg">&x;</svg>'.encode()
    )


def _postscript(sentinel):
    """PostScript that Pillow would pass to Ghostscript."""
    return (
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
        f"({sentinel}) (w) file closefile\nshowpage\n%%EOF\n"
    ).encode()


def _png_that_grows(sentinel):
    """A PNG of 60,000 x 60,000 pixels in a few hundred kilobytes at most."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2**22))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


RUNS = {
    "run, modules": run_with_modules,
    "run, model of a module": run_with_names_of_modules("model__name", CLASS),
    "run, model of a path": run_with_names_of_modules("model__name", "../../payload_module"),
    "run, objective of a module": run_with_names_of_modules("objective__name", CLASS),
    "run, evaluator of a module": run_with_names_of_modules("eval__evaluators", [CLASS]),
    "run, augmentation of a module": run_with_names_of_modules("data__augment", CLASS),
    "run, data set of a module": run_with_names_of_modules("data__name", f"{MODULE}:x"),
    "run, data set elsewhere": run_with_names_of_modules("data__name", "../../data:1.0.0"),
    "run, handlers": run_with_handlers,
    "run, filters": run_with_filters,
    "run, pickles": run_of_pickles,
    "set, features": run_with_a_set(lambda path: payloads.tamper_features(path, "feature")),
    "set, old form": run_with_a_set(lambda path: payloads.tamper_features(path, "old form")),
    "set, info": run_with_a_set(payloads.tamper_info),
}
WEIGHTS = {
    "npz, objects": npz_of_objects,
    "npz, names": npz_with_odd_names,
    "npz, bomb": npz_that_grows,
    "safetensors, length": safetensors({}, length=2**62),
    "safetensors, overlap": safetensors({"a": _tensor(0, 16), "b": _tensor(8, 24)}, bytes(24)),
    "safetensors, outside": safetensors({"a": _tensor(0, 2**40)}, bytes(16)),
    "safetensors, metadata": safetensors(
        {"__metadata__": {"format": CLASS}, "a": _tensor(0, 16)}, bytes(16)
    ),
    "huggingface, code": huggingface_with_code,
    "huggingface, shards": huggingface_with_shards_elsewhere,
    "pth, pickle": _torch(_pickle_alone),
}
TORCH_WEIGHTS = {  # torch writes them
    "pth, zip": _torch(_torch_zip),
    "pth, legacy": _torch(_torch_legacy),
    "pth, TorchScript": _torch(_torch_script),
}
IMAGES = {
    "image, pickle": _picture("a.png", lambda sentinel: pickle.dumps(Executes(sentinel))),
    "image, SVG": _picture("a.png", _svg),
    "image, PostScript": _picture("a.jpg", _postscript),
    "image, bomb": _picture("a.png", _png_that_grows),
}
