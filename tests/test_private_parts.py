"""Private parts of libraries that we use: a test fails by name where one of them moves."""

import ast
import inspect
import pkgutil
import re
import sys

import jax
import pytest
from conftest import ROOT
from orbax.checkpoint._src.path import atomicity_types

from vit_jax.checkpoints import seals
from vit_jax.console import waiting

PACKAGE = ROOT / "vit_jax"
FILES = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
# Names with an underscore that Python itself documents.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_getframe", "_make", "_replace"}
# Packages that promise nothing about any of their names, and TFDS, about those of its modules.
UNSTABLE = re.compile(
    r"jax\.experimental\.|jax\.extend\.|jaxlib\.|optax\.contrib\."
    r"|tensorflow_datasets\.core\.[a-z]\w*\."
)

# By file: what it uses, as `pkgutil.resolve_name` takes it, and the parameters that it passes in
# this order, or that its override gets.
PARTS = {
    # The public API has no client of the coordination service, and counts processes only with a
    # backend.
    "cluster/hosts.py": {
        "jax._src.distributed:global_state.client": "",
        "jax._src.distributed:global_state.process_id": "",
        "jax._src.distributed:global_state.num_processes": "",
        "jax._src.xla_bridge:backends_are_initialized": "",
    },
    "cluster/group.py": {
        "jax._src.lib:_jax.DistributedRuntimeClient.key_value_set": "key value allow_overwrite",
        "jax._src.lib:_jax.DistributedRuntimeClient.key_value_dir_get": "key",
        "jax._src.lib:_jax.DistributedRuntimeClient.key_value_delete": "key",
    },
    "data/building/array_records.py": {
        "tensorflow_datasets.core.file_adapters:ADAPTER_FOR_FORMAT": "",
        "tensorflow_datasets.core.dataset_info:read_proto_from_builder_dir": "builder_dir",
        "tensorflow_datasets.core.dataset_info:write_dataset_info_proto": (
            "dataset_info_proto dataset_info_dir"
        ),
    },
    # TFDS offers no download manager of one's own, and no way to quieten it.
    "data/building/builders.py": {
        "tensorflow_datasets.core:DatasetBuilder._make_download_manager": "",
        "tensorflow_datasets.core:DatasetBuilder._log_download_bytes": "self",
        "tensorflow_datasets.core:DatasetBuilder._log_download_done": "self",
    },
    "data/building/downloads.py": {
        "tensorflow_datasets:download.DownloadManager._download": "self resource",
        "tensorflow_datasets:download.DownloadManager._register_or_validate_checksums": (
            "self url url_info path"
        ),
        "tensorflow_datasets:download.DownloadManager._log_skip_download": "",
        "tensorflow_datasets:download.DownloadManager._url_infos": "",
        "tensorflow_datasets.core.download.checksums:compute_url_info": "path",
        "tensorflow_datasets.core:lazy_imports_utils.promise.Promise.resolve": "",
    },
    "data/building/progress.py": {
        "tensorflow_datasets.core.utils.tqdm_utils:tqdm_lib": "",
        "tensorflow_datasets.core.utils.tqdm_utils:_active": "",
    },
    # Grain frees shared memory in threads for which nothing public waits.
    "data/loader.py": {
        "grain._src.python.ipc.shared_memory_array:SharedMemoryArray._del_thread_pool": "",
    },
    "data/sources/tfds.py": {
        "tensorflow_datasets.core.constants:DATA_DIR": "",
        "tensorflow_datasets.core.naming:parse_builder_name_kwargs": "name",
        "tensorflow_datasets.core.file_adapters:ArrayRecordFileAdapter.num_examples": "filename",
    },
    "data/sources/tfds_documents.py": {
        "tensorflow_datasets:features.FeatureConnector._registered_features": "",
    },
    "models/layers/attention/fused.py": {
        "jax.experimental.pallas.ops.tpu.splash_attention:BlockSizes": (
            "block_q block_kv block_q_dkv block_kv_dkv block_q_dq block_kv_dq"
            " use_fused_bwd_kernel q_layout k_layout v_layout"
        ),
        "jax.experimental.pallas.ops.tpu.splash_attention:MultiHeadMask": "masks",
        "jax.experimental.pallas.ops.tpu.splash_attention:NumpyMask": "array",
        "jax.experimental.pallas.ops.tpu.splash_attention:QKVLayout.SEQ_MINOR": "",
        "jax.experimental.pallas.ops.tpu.splash_attention:make_splash_mha": (
            "mask block_sizes head_shards q_seq_shards interpret"
        ),
    },
    # JAX asks the GPU of this process, and has no switch for a GPU that is not here.
    "planning/cudnn.py": {
        "jax._src.cudnn.fused_attention_stablehlo:check_cudnn_version": "",
        "jax._src.cudnn.fused_attention_stablehlo:check_compute_capability": "capability",
        "jax._src.cudnn.fused_attention_stablehlo:is_cuda_compute_capability_equal": "capability",
    },
    "planning/topologies.py": {
        "jax.experimental.topologies:get_topology_desc": "topology_name platform",
    },
    "prepare.py": {
        "tensorflow_datasets.core.utils:lazy_imports_utils.print": "",
    },
    "training/optim.py": {
        "optax.contrib:MuonDimensionNumbers": "reduction_axis output_axis",
        "optax.contrib:muon": (
            "learning_rate beta mu_dtype adam_b1 adam_b2 muon_weight_dimension_numbers"
            " consistent_rms"
        ),
    },
}


def find(name):
    """Returns a part by its name; None for what a class or module only sets or calls."""
    owner, _, attribute = name.rpartition(".")
    try:
        return pkgutil.resolve_name(name)
    except AttributeError:
        source = inspect.getsource(pkgutil.resolve_name(owner))
        assert re.search(rf"\b{attribute}\b", source), f"{owner} has no {attribute}"
        return None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [(name, parameters) for parts in PARTS.values() for name, parameters in parts.items()],
)
def test_the_part_is_where_we_use_it(name, parameters):
    found = find(name)
    if parameters:
        try:
            actual = list(inspect.signature(found).parameters)
        except ValueError:  # of C++, which has its signature in its docstring
            actual = re.findall(r"(\w+):", found.__doc__)
        expected = parameters.split()
        assert [key for key in actual if key in expected] == expected, actual


def test_orbax_names_unfinished_saves_as_we_look_for_them():
    assert atomicity_types.TMP_DIR_SUFFIX == seals.TMP


def test_jax_reports_the_use_of_its_compilation_cache():
    events = []

    def listen(event, **_):
        events.append(event)

    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.monitoring.register_event_listener(listen)
    try:
        for _ in range(2):  # two functions, one program
            jax.jit(lambda x: 3 * x + 0.25).lower(1.0).compile()
    finally:
        jax.monitoring.unregister_event_listener(listen)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    reported = [event for event in events if event in (waiting._HIT, waiting._MISS)]
    assert reported == [waiting._MISS, waiting._HIT]


def is_private(name):
    """Whether a name starts with one underscore, and Python does not document it."""
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def imports_of(tree):
    """Returns the full names of what a file imports, by the names that it gives them."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module
            found |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    return found


def full_name(node, imports):
    """Returns the name of `a.b.c`; an `a` that is imported has its full name."""
    text = ast.unparse(node)
    first, dot, rest = text.partition(".")
    return f"{imports.get(first, first)}{dot}{rest}"


def shared_with_bases(node, imports):
    """Returns the private methods of a class that a base class of another library has too."""
    names = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
    bases = [full_name(base, imports) for base in node.bases]
    libraries = {name.split(".")[0] for name in imports.values()}
    libraries -= {"vit_jax", *sys.stdlib_module_names}
    return {
        name
        for base in bases
        if base.split(".")[0] in libraries
        for name in filter(is_private, names)
        if hasattr(pkgutil.resolve_name(base), name)
    }


def uses(text, own=frozenset()):
    """Returns what a file uses that is private or unstable.

    Args:
      text: The Python of the file.
      own: Private attributes of our own classes.
    """
    tree = ast.parse(text)
    imports = {key: name for key, name in imports_of(tree).items() if "vit_jax" not in name}
    found = {name for name in imports.values() if any(map(is_private, name.split(".")))}
    found |= {name for name in imports.values() if UNSTABLE.match(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = full_name(node, imports)
            is_own = re.match(r"(self|cls|super\(\))\.", name) and node.attr in own
            is_import = re.fullmatch(r"[\w.]+", name) and name.split(".")[0] in imports.values()
            if is_import and UNSTABLE.match(name):
                found.add(name)
            elif is_private(node.attr) and not is_own:
                found.add(name if is_import else node.attr)
        elif isinstance(node, ast.ClassDef):
            found |= shared_with_bases(node, imports)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            key = node.args[1]
            if isinstance(key, ast.Constant) and is_private(key.value):
                found.add(key.value)
        elif isinstance(node, ast.Constant) and is_module(node.value):  # for `import_module`
            found.add(node.value)
    return found


def is_module(value):
    """Whether a constant is the name of a private or unstable module of JAX."""
    if not isinstance(value, str) or not re.fullmatch(r"jax\w*(\.\w+)+", value):
        return False
    return any(map(is_private, value.split("."))) or bool(UNSTABLE.match(value))


def own_attributes(text):
    """Returns the private attributes that the classes and functions of a file define."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "object.__setattr__":
            found.add(node.args[1].value)
    return set(filter(is_private, found))


OWN = set().union(*map(own_attributes, FILES.values()))


def test_no_other_private_part_is_used():
    others = []
    for file, text in sorted(FILES.items()):
        listed = [f".{name.replace(':', '.')}." for name in PARTS.get(file, ())]
        found = [use for use in uses(text, OWN) if not any(f".{use}." in name for name in listed)]
        others += [f"vit_jax/{file}: {use}" for use in sorted(found)]
    assert not others, "avoid it, or add it to PARTS:\n" + "\n".join(others)


@pytest.mark.parametrize("file", sorted(PARTS))
def test_a_file_uses_the_parts_that_are_listed(file):
    words = set(re.findall(r"\w+", FILES[file]))
    for name in PARTS[file]:
        assert re.split("[.:]", name)[-1] in words, f"vit_jax/{file} does not use {name}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from jax._src import core", {"jax._src.core"}),
        ("import jax._src.core", {"jax._src.core"}),
        ("import jax\njax._src.core.Jaxpr", {"jax._src"}),
        ("from jax.extend import core", {"jax.extend.core"}),
        ("import jaxlib.xla_client", {"jaxlib.xla_client"}),
        ("import jax.numpy as jnp\njnp.sin(1.0)", set()),
        ("import flax.linen as nn\nclass A(nn.Module):\n  def _name(self): pass", set()),
        ("import flax.linen as nn\nclass A(nn.Module):\n  def _register_submodules(self): 0", 1),
        ("x._hidden", {"_hidden"}),
        ("self._hidden", {"_hidden"}),
        ("self._own + point._replace(x=1)", set()),
        ("other._own", {"_own"}),
        ("make()._hidden", {"_hidden"}),
        ("getattr(x, '_hidden', None)", {"_hidden"}),
        ("import importlib\nimportlib.import_module('jax._src.core')", {"jax._src.core"}),
        ("name = 'jax.numpy'", set()),
        ("import tensorflow_datasets as tfds\ntfds.core.ReadInstruction.from_spec", set()),
        ("import tensorflow_datasets as tfds\ntfds.core.utils.x", 1),
    ],
)
def test_the_check_finds_what_it_is_for(text, expected):
    found = uses(text, {"_own"})
    assert len(found) == expected if isinstance(expected, int) else found == expected
