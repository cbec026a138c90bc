"""Weights, inputs and outputs of the original libraries, and how each is one of our models."""

import json
import pathlib

import numpy as np
from conftest import ROOT

from vit_jax import models
from vit_jax.weights.library import Library

FIXTURES = ROOT / "tests" / "goldens"
LIBRARIES = {"bv": "big_vision", "google": "google", "hf": "huggingface", "timm": "timm"}

# What an output of theirs is, of ours: the name of a submodule, or an entry of `results`.
OUTPUTS = {
    "patch_embed": "stem",
    "embedding": "stem",
    "embeddings": "stem_norm",
    "block1": "blocks_1",
    "merge0": "merge_0",
    "block0": "blocks_0",
    "resnet_block1": "stem/resnet/stages_0_1",
    "encoded": "tokens",
    "last_hidden_state": "tokens",
    "features": "features",
    "features_cls": "features",
    "features_dist": "dist_token",
    "pre_logits": "features",
    "logits": "logits",
    "logits_cls": "logits_cls",
    "logits_dist": "logits_dist",
    "logits_checkpoint_head": "logits",
    "pre_logits_checkpoint": "features",
}


class Case:
    """A case: its description, its weights, and what the library computes with them."""

    def __init__(self, path: pathlib.Path) -> None:
        self.name = path.stem
        self.facts = json.loads(path.read_text())
        self.source = LIBRARIES[self.name.split("_")[0]]
        self.weights = path.parent / self.facts["weights"]
        if self.source == "huggingface":
            self.weights = self.weights.parent
        with np.load(path.parent / f"{self.name}.out.npz") as arrays:
            self.arrays = dict(arrays)
        self.images = self.arrays["input"]
        if self.facts["input_layout"] == "NCHW":
            self.images = self.images.transpose(0, 2, 3, 1)
        self.image_size = self.images.shape[1:3]

    @property
    def library(self) -> Library:
        """The library, as it is for the family of the model."""
        return models.family(self.model["name"]).libraries()[self.source]

    def tolerance(self, output: str, dtype: str) -> float:
        """Returns how far an output may be off: what the case says the dtype itself is off."""
        spec = self.facts["outputs"][output]
        if dtype == "float64":
            return spec["suggested_atol_if_run_in_float64"]
        return max(1e-5, spec["suggested_atol"])

    @property
    def outputs(self) -> dict[str, str]:
        """Their outputs that we have too, and what each is of ours."""
        outputs = {key: ours for key, ours in OUTPUTS.items() if key in self.facts["outputs"]}
        if "swin" in self.name:
            swins = {"patch_embed": "stem_norm", "block0": "stages_0_0", "block1": "stages_0_1"}
            return {key: swins.get(key, ours) for key, ours in outputs.items()}
        for key in ("block1", "embeddings"):  # of no other family, or nothing that we have
            outputs.pop(key, None)
        if "pre_logits" in outputs:  # their features are what goes in, ours what comes out
            del outputs["features"]
        if "pre_logits_checkpoint" in outputs:  # of another model than the case's own outputs
            del outputs["features"], outputs["logits"]
        return outputs

    @property
    def model(self) -> dict[str, str]:
        """The flags of convert that make the model: the name, and fields by their path."""
        given = self.facts["constructor"]
        arch = self.facts["arch"]
        if "swin" in self.name:
            return self._swin(given)
        inner = given.get("transformer", {})
        sizes = {
            "width": ("hidden_size", "embed_dim", "width"),
            "depth": ("depth", "num_hidden_layers", "num_layers"),
            "num_heads": ("num_heads", "num_attention_heads"),
        }
        found = {**inner, **given}
        fields = {ours: next(found[k] for k in keys if k in found) for ours, keys in sizes.items()}
        patch = given["patch_size"]
        fields["stem.patch"] = patch if isinstance(patch, list) else [patch, patch]
        fields["mlp_dim"] = arch.get("mlp_fc2_in", 4 * fields["width"])
        name = "vit_ti16"
        if self.name == "timm_deit3":
            name = "deit3_ti16"
        elif "deit" in self.name:
            name = "deit_ti16_distilled"
        elif "dinov2" in self.name:
            name = "dinov2_ti14_reg4" if "reg" in self.name else "dinov2_ti14"
        if "swiglu" in self.name:
            fields |= {"mlp.name": "swiglu", "mlp_dim": 128}
            name = "dinov2_ti14_reg4" if self.source == "timm" else "dinov2_ti14"
        fields["attention.qk_norm"] = given.get("qk_norm", False)
        resnet = arch.get("resnet") or given.get("resnet") or {}
        if resnet or "hybrid" in self.name:
            layers = resnet.get("num_layers", resnet.get("layers", []))
            width = resnet.get("width_factor", 1.0)
            fields |= {"stem.name": "resnet", "stem.layers": layers, "stem.width_factor": width}
        flags = {f"model.{key}": str(value).strip("[]") for key, value in fields.items()}
        size = arch.get("checkpoint_image_size", arch.get("image_size"))
        if size and size[0] != size[1]:
            flags["data.image_size"] = str(size).strip("[]")
        return {"name": name, **flags}

    def _swin(self, given: dict) -> dict[str, str]:
        """The same for Swin."""
        fields = {
            "width": given["embed_dim"],
            "depths": given["depths"],
            "num_heads": given["num_heads"],
            "attention.window": [given["window_size"]] * 2,
            "stem.patch": [given["patch_size"]] * 2,
        }
        if "pretrained_window_sizes" in given:  # which a single file of timm does not tell
            fields["posemb.pretrained_window"] = given["pretrained_window_sizes"]
        flags = {f"model.{key}": str(value).strip("[]") for key, value in fields.items()}
        size = {"data.image_size": str(list(self.image_size)).strip("[]")}
        return {"name": "swinv2_t_w8" if "swinv2" in self.name else "swin_t_w7", **flags, **size}


def cases(folder: pathlib.Path = FIXTURES) -> list[pathlib.Path]:
    """Returns the descriptions of the cases of our families."""
    found = [path for path in folder.glob("*.json") if path.stem.split("_")[0] in LIBRARIES]
    return sorted(found)
