"""Every form of weights gives the outputs of its library, or is refused with the reason."""

import pathlib
import re
import warnings

import flax
import forms_huggingface
import forms_timm
import numpy as np
import pytest
from compiled_models import forward, shared_shapes  # noqa: F401 - a fixture

from vit_jax import models
from vit_jax.conversion import exporting, importing
from vit_jax.errors import UserError
from vit_jax.weights.folder import open_weights

FORMS = {"timm": forms_timm.FORMS, "huggingface": forms_huggingface.FORMS}
CASES = [(source, name) for source, forms in FORMS.items() for name in forms]


@pytest.fixture(autouse=True)
def quiet():
    """transformers and torch warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def one_thread():
    """torch's threads would wait for each other longer than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outputs(imported, images, is_logits):
    tree = flax.traverse_util.unflatten_dict(dict(imported.params), sep="/")
    output = forward(models.create(**imported.config.model), tree, images)
    return np.asarray(output.logits if is_logits else output.features, np.float64)


def arrays(path):
    file, *_ = open_weights(path)
    with file:
        return {name: file.read(name) for name in file.headers}


@pytest.mark.parity
@pytest.mark.usefixtures("one_thread", "shared_shapes")
@pytest.mark.parametrize(("source", "name"), CASES)
def test_a_form_is_right_or_refused(source, name, tmp_path):
    form = FORMS[source][name]
    folder = tmp_path / "theirs"
    folder.mkdir()
    saved = form.save(folder)
    if form.refused:
        with pytest.raises(UserError, match=re.escape(form.refused)) as error:
            importing.import_weights(source, saved.path, saved.name, saved.flags)
        assert "\n" not in str(error.value)
        return
    imported = importing.import_weights(source, saved.path, saved.name, saved.flags)
    assert form.note in "; ".join(imported.notes)
    found = outputs(imported, saved.images, saved.is_logits)
    assert found.shape == saved.outputs.shape
    assert np.abs(found - saved.outputs).max() <= saved.tolerance
    importing.write_run(imported, source, tmp_path / "run")
    back = tmp_path / ("back" if saved.path.is_dir() else "back.safetensors")
    exporting.export_weights(tmp_path / "run", source, back)
    if form.comes_back:
        before = arrays(saved.path)
        after = arrays(back)
        assert before.keys() == after.keys()
        for key in before:
            assert before[key].tobytes() == after[key].tobytes(), key


def test_the_table_in_the_docs_lists_every_form():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    rows = re.findall(r"^\| (timm|huggingface) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [
        (source, form.text, f"refused: {form.refused}" if form.refused else "read")
        for source, forms in FORMS.items()
        for form in forms.values()
    ]
