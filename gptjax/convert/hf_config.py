"""config.json of a Hugging Face folder <-> `model.Config`.

A field that changes what a GPT-2 computes is either in `model.Config` or refused
here: a checkpoint is never read as a model that it is not.
"""

import dataclasses
import importlib.metadata
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax import errors, model

FILE = "config.json"
PARAMS = "params"
"""The folder of the weights in a gptjax folder; a Hugging Face folder has none."""

# Fields of `model.Config` that stock transformers has not, and which stand in the
# config.json of gptjax folders alone.
OWN = ("head_dim", "classifiers")

LANGUAGE = "GPT2LMHeadModel"
CLASSIFIERS = {
    False: "GPT2ForSequenceClassification",
    True: "GPT2ForTokenClassification",
}
"""The architectures, as transformers calls them, that folders hold; classifiers by
whether they label tokens."""

# `GPT2Config.attribute_map`: other names that transformers reads fields by.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# Fields, of any transformers version, that leave the scores of the next token alone:
# decoding, bookkeeping, other heads. They are kept from a source's config.json as they
# stand. Of a classifier, `_classifiers` reads its labels, its padding and its kind.
HARMLESS = re.compile(
    r"summary_\w+|classifier_dropout|\w+_token_id|(_?num_labels|id2label|label2id|problem_type)"
    r"|architectures|dtype|torch_dtype|transformers_version|_?name_or_path"
    r"|_commit_hash|_?attn_implementation(_\w+)?|finetuning_task|task_specific_params"
    r"|tokenizer_class|prefix|use_cache|return_dict|output_\w+|is_decoder|torchscript"
    r"|gradient_checkpointing|predict_special_tokens|keys_to_ignore_at_inference"
    r"|(max|min)_(new_tokens|length)|do_sample|early_stopping|num_(beams|beam_groups)"
    r"|diversity_penalty|temperature|top_[kp]|typical_p|(repetition|length)_penalty"
    r"|(encoder_)?no_repeat_ngram_size|bad_words_ids|num_return_sequences"
    r"|return_dict_in_generate|remove_invalid_values|(begin_)?suppress_tokens"
    r"|exponential_decay_length_penalty"
)

# Fields that are implemented at one value only, that of a plain GPT-2.
FIXED = {
    "model_type": "gpt2",
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "n_special": 0,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
    "use_bfloat16": False,
}

# What transformers writes beside the fields of `model.Config`.
STOCK = {
    "add_cross_attention": False,
    "model_type": "gpt2",
    "pad_token_id": None,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "use_cache": True,
}
_STOCK_END_OF_TEXT = 50256

_FIELDS = {field.name: field for field in dataclasses.fields(model.Config)}


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: no such file, or not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise errors.UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise errors.UserError(f"{path}: holds no JSON object")
    return values


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes `values` as transformers lays out its JSON files."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_config(folder: str | pathlib.Path) -> model.Config:
    """The architecture of the checkpoint in `folder`.

    Raises:
      UserError: config.json is missing or broken, or has a field that gptjax does
        not know or does not implement at that value.
    """
    path = pathlib.Path(folder) / FILE
    if not path.is_file():
        raise errors.UserError(f"{folder}: holds no {FILE}, so it is no model folder")
    is_native = (path.parent / PARAMS).is_dir()
    return parse(read_json(path), where=str(path), is_native=is_native)


def parse(
    values: Mapping[str, Any], *, where: str, is_native: bool = False
) -> model.Config:
    """`read_config` of the values in a config.json.

    Args:
      where: what error messages begin with.
      is_native: whether they may hold the fields that stock transformers has not.
    """
    fields: dict[str, Any] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if name in _FIELDS and (is_native or name not in OWN):
            if fields.setdefault(name, value) != value:
                raise errors.UserError(
                    f"{where}: {name} is given twice, as {fields[name]!r} and {value!r}"
                )
        elif name in FIXED:
            if value is not None and value != FIXED[name]:
                raise errors.UserError(
                    f"{where}: {key} is {value!r}; gptjax implements only "
                    f"{FIXED[name]!r}"
                )
        elif name == "n_ctx":
            # An old twin of n_positions, checked below.
            continue
        elif value is not None and not HARMLESS.fullmatch(key):
            raise errors.UserError(
                f"{where}: {key} is {value!r}; gptjax knows no such field of a GPT-2"
            )
    own = fields.pop("classifiers", None)
    for name, value in fields.items():
        fields[name] = _typed(_FIELDS[name], value, where=where)
    try:
        config = model.Config(
            **fields, classifiers=_classifiers(values, own, where=where)
        )
    except errors.UserError as error:
        raise errors.UserError(f"{where}: {error}") from error
    if values.get("n_ctx") not in (None, config.n_positions):
        raise errors.UserError(
            f"{where}: n_ctx is {values['n_ctx']!r}; it must equal n_positions, "
            f"{config.n_positions}"
        )
    return config


def _classifiers(
    values: Mapping[str, Any], own: Any, *, where: str
) -> tuple[model.Classifier, ...]:
    """The classifiers of a config.json: those of a gptjax folder, or Hugging Face's.

    Args:
      own: what stands in `classifiers`.
    """
    if own is not None:
        return own_classifiers(own, where=where)
    kinds = {(name,): per_token for per_token, name in CLASSIFIERS.items()}
    per_token = kinds.get(tuple(values.get("architectures") or ()))
    if per_token is None:
        return ()
    kind = values.get("problem_type")
    if not per_token and kind not in (None, "single_label_classification"):
        raise errors.UserError(
            f"{where}: problem_type is {kind!r}; gptjax implements only "
            "'single_label_classification'"
        )
    names = values.get("id2label")
    if names is None:
        # As transformers calls them where nobody did.
        count = values.get("num_labels", values.get("_num_labels", 2))
        names = {str(number): f"LABEL_{number}" for number in range(count)}
    if sorted(names) != sorted(str(number) for number in range(len(names))):
        raise errors.UserError(
            f"{where}: id2label is {names!r}; it must name the labels from '0' on"
        )
    # Where transformers of long ago kept it, and of today keeps whatever it finds.
    task = str(values.get("finetuning_task"))
    is_name = values.get("finetuning_task") and re.fullmatch(r"\w+", task)
    return (
        model.Classifier(
            **({"name": task} if is_name else {}),
            labels=tuple(str(names[str(number)]) for number in range(len(names))),
            pad_token_id=values.get("pad_token_id"),
            per_token=per_token,
        ),
    )


def own_classifiers(own: Any, *, where: str) -> tuple[model.Classifier, ...]:
    """The classifiers of a list of JSON objects, as gptjax writes it."""
    try:
        return tuple(
            model.Classifier(**{**each, "labels": tuple(each["labels"])})
            for each in own
        )
    except (TypeError, KeyError) as error:
        raise errors.UserError(
            f"{where}: classifiers is {own!r}; it must be a list of objects with "
            "name, labels and pad_token_id"
        ) from error


def _typed(field: dataclasses.Field, value: Any, *, where: str) -> Any:
    """`value` as the type of `field`; an integer will do for a float."""
    kinds = {int: int, float: (int, float), bool: bool, str: str}
    if value is None and field.default is None:
        return None
    wanted = int if field.default is None else field.type
    is_right = isinstance(value, kinds[wanted])
    if isinstance(value, bool) and wanted is not bool:
        is_right = False
    if not is_right or (wanted is float and not math.isfinite(value)):
        raise errors.UserError(
            f"{where}: {field.name} is {value!r}; it must be of type {wanted.__name__}"
        )
    if field.default is None and value < 1:
        raise errors.UserError(
            f"{where}: {field.name} is {value}; it must be at least 1"
        )
    return wanted(value)


def to_values(
    config: model.Config,
    *,
    dtype: Any,
    like: Mapping[str, Any] | None = None,
    is_native: bool = False,
) -> dict[str, Any]:
    """The values of a config.json, which stock transformers loads unless it is that of
    a gptjax folder.

    Args:
      dtype: of the weights.
      is_native: whether the fields of `OWN` stand there, where the model has them. If
        not, it has one classifier at most and no `head_dim`.
      like: the values of a source's config.json; what says nothing about the
        architecture (token ids, labels, task parameters) is kept from it.
    """
    like = {} if like is None else like
    values = dict(STOCK)
    for name in ("bos_token_id", "eos_token_id"):
        # transformers' default, where the vocabulary has it.
        is_known = config.vocab_size > _STOCK_END_OF_TEXT
        values[name] = _STOCK_END_OF_TEXT if is_known else None
    values |= {key: value for key, value in like.items() if HARMLESS.fullmatch(key)}
    for name, field in _FIELDS.items():
        value = getattr(config, name)
        if name not in OWN:
            values[name] = float(value) if field.type is float else value
        elif value and is_native:
            is_plain = isinstance(value, int)
            values[name] = value if is_plain else [*map(dataclasses.asdict, value)]
    values["architectures"] = [LANGUAGE]
    for each in config.classifiers[:1]:
        values["architectures"] = [CLASSIFIERS[each.per_token]]
        for key in ("num_labels", "_num_labels"):
            values.pop(key, None)
        values["id2label"] = {str(n): label for n, label in enumerate(each.labels)}
        values["label2id"] = {label: n for n, label in enumerate(each.labels)}
        values["pad_token_id"] = each.pad_token_id
        values["problem_type"] = "single_label_classification"
        if each.per_token:
            values["problem_type"] = None
            # None would be 0.1 to transformers; gptjax drops nothing there.
            values.setdefault("classifier_dropout", 0.0)
        values["finetuning_task"] = each.name
    values["dtype"] = np.dtype(dtype).name
    values.pop("torch_dtype", None)
    # Of the layout written here, not of the source's.
    version = _transformers_version()
    if version is not None:
        values["transformers_version"] = version
    return values


def _transformers_version() -> str | None:
    """The installed version, without the seconds that importing it takes."""
    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return None
