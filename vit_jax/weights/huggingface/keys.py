"""The keys of transformers' `config.json`: defaults, and keys that do not affect the outputs."""

from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json

CONFIG = "config.json"

_COMMON = {
    "hidden_act": "gelu",
    "image_size": 224,
    "num_channels": 3,
    "qkv_bias": True,
    "problem_type": None,
}
_VIT = {
    **_COMMON,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-12,
    "patch_size": 16,
    "intermediate_size": 3072,
    "pooler_act": "tanh",
    "pooler_output_size": None,
}
_DINOV2 = {
    **_VIT,
    "layer_norm_eps": 1e-6,
    "patch_size": 14,
    "mlp_ratio": 4,
    "use_swiglu_ffn": False,
    "layerscale_value": 1.0,
}
_SWIN = {
    **_COMMON,
    "patch_size": 4,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-5,
    "use_absolute_embeddings": False,
}
# transformers' defaults of the keys that we read, by model type.
DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": {**_DINOV2, "patch_size": 16, "num_register_tokens": 4},
    "swin": _SWIN,
    "swinv2": {**_SWIN, "pretrained_window_sizes": [0, 0, 0, 0]},
}
# Optional keys that we read; they have no default.
OPTIONAL_KEYS = ("architectures", "model_type", "id2label", "label2id", "num_labels", "head_dim")
# Initial values, dropout rates, and keys of training or of other tasks.
TRAINING_KEYS = (
    "initializer_range",
    "initializer_factor",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "encoder_stride",
    "use_mask_token",
    "gradient_checkpointing",
    "finetuning_task",
    "task_specific_params",
    "loss_type",
)
# Keys of feature extractors, and keys that follow from others.
DERIVED_KEYS = (
    "apply_layernorm",
    "reshape_hidden_states",
    "out_features",
    "out_indices",
    "_out_features",
    "_out_indices",
    "stage_names",
    "num_layers",
    "hidden_size",
    "path_norm",
)
# Keys of every transformers config, in current and older versions.
BASE_KEYS = (
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_num_labels",
    "transformers_version",
    "transformers_weights",
    "dtype",
    "torch_dtype",
    "use_bfloat16",
    "torchscript",
    "tf_legacy_loss",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "use_return_dict",
    "use_cache",
    "tie_word_embeddings",
    "tie_encoder_decoder",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "is_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "tokenizer_class",
    "prefix",
    "bos_token_id",
    "pad_token_id",
    "eos_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
)
# Keys that make it another model, unless they are empty.
REFUSED_KEYS = ("quantization_config", "pruned_heads", "adapters", "peft_config")


def with_defaults(document: Json, model_type: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fill in the defaults of a document.

    Args:
      document: The `config.json`.
      model_type: Its `model_type`.

    Returns:
      The document with defaults, and a note on unknown keys.

    Raises:
      DataError: A key describes a model that is not supported, such as a quantized one.
    """
    for key in REFUSED_KEYS:
        if document.get(key):
            raise DataError(f"{CONFIG}: {key}: not supported; remove it from the model first")
    known = {
        *DEFAULTS[model_type],
        *OPTIONAL_KEYS,
        *TRAINING_KEYS,
        *DERIVED_KEYS,
        *BASE_KEYS,
        *REFUSED_KEYS,
    }
    unknown = sorted(key for key, value in document.items() if value and key not in known)
    notes = (f"{CONFIG}: unknown keys, ignored: {', '.join(unknown):.200}",) if unknown else ()
    return {**DEFAULTS[model_type], **document}, notes
