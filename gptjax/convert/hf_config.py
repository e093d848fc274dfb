"""config.json of a Hugging Face folder <-> `model.Config`.

A field that changes what a GPT computes is either in `model.Config` or refused here: a
checkpoint is never read as a model that it is not.
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
from gptjax.convert import compressed, families

FILE = "config.json"
PARAMS = "params"
"""The folder of the weights in a gptjax folder; a Hugging Face folder has none."""

# Fields of `model.Config` that the config.json of gptjax folders may hold where that of
# a family's stock models cannot.
OWN = ("head_dim", "n_inner", "classifiers")

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
    r"|exponential_decay_length_penalty|max_sequence_length|unsloth_(fixed|version)"
)

# Fields that are implemented at one value only, that of a plain GPT.
FIXED = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
    "use_bfloat16": False,
}

_STOCK_END_OF_TEXT = 50256

_FIELDS = {field.name: field for field in dataclasses.fields(model.Config)}
_PLAIN = (int, float, bool, str, int | None)


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


def read_quantization(folder: pathlib.Path) -> compressed.Settings | None:
    """How kernels in a folder are stored on a grid; None: they are not.

    Raises:
      UserError: as `read_config` does.
    """
    path = folder / FILE
    values = read_json(path).get(compressed.KEY)
    if values is None:
        return None
    return compressed.read_settings(values, where=str(path))


def parse(
    values: Mapping[str, Any], *, where: str, is_native: bool = False
) -> model.Config:
    """`read_config` of the values in a config.json.

    Args:
      where: what error messages begin with.
      is_native: whether they may hold the fields that stock transformers has not.
    """
    family = families.of(values, where=where)
    fields: dict[str, Any] = {}
    # What messages call the fields: as the file does, or transformers.
    names = {own: name for name, own in reversed(family.fields.items())}
    special: dict[str, Any] = {}
    fixed = {**FIXED, **family.fixed}
    for key, value in values.items():
        name = family.fields.get(key)
        if name is None and is_native and key in OWN:
            name = key
        if name is not None:
            if fields.setdefault(name, value) != value:
                raise errors.UserError(
                    f"{where}: {key} is {value!r}, but {names[name]} is "
                    f"{fields[name]!r}; both say the same"
                )
            names[name] = key
        elif key in family.special:
            special[key] = value
        elif key == compressed.KEY and value is not None:
            settings = compressed.read_settings(value, where=where)
            fields["activation_bits"] = settings.activation_bits
        elif key in fixed:
            if value is not None and value != fixed[key]:
                raise errors.UserError(
                    f"{where}: {key} is {value!r}; gptjax implements only "
                    f"{fixed[key]!r}"
                )
        elif key in ("model_type", "n_ctx", *family.ignored):
            # `n_ctx` is an old twin of n_positions, checked below.
            continue
        elif value is not None and not HARMLESS.fullmatch(key):
            raise errors.UserError(
                f"{where}: {key} is {value!r}; gptjax knows no such field of "
                f"{family.title}"
            )
    own = fields.pop("classifiers", None)
    if family.model_type != "gpt2":
        fields["family"] = family.model_type
    try:
        fields = {**family.base, **_all_typed(fields, names)}
        read = family.read(special, fields)
        classifiers = _classifiers(values, own, family)
        fields |= _all_typed(read, names)
    except errors.UserError as error:
        raise errors.UserError(f"{where}: {error}") from error
    try:
        config = model.Config(**fields, classifiers=classifiers)
    except errors.UserError as error:
        told = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(error))
        raise errors.UserError(f"{where}: {told}") from error
    if values.get("n_ctx") not in (None, config.n_positions):
        raise errors.UserError(
            f"{where}: n_ctx is {values['n_ctx']!r}; it must equal "
            f"{names['n_positions']}, {config.n_positions}"
        )
    return config


def _classifiers(
    values: Mapping[str, Any], own: Any, family: families.Family
) -> tuple[model.Classifier, ...]:
    """The classifiers of a config.json: those of a gptjax folder, or Hugging Face's.

    Args:
      own: what stands in `classifiers`.
    """
    if own is not None:
        return own_classifiers(own)
    stated = values.get("architectures") or []
    if not isinstance(stated, list):
        raise errors.UserError(f"architectures is {stated!r}; it must be a list")
    kinds = [kind for kind, name in family.classifiers.items() if stated == [name]]
    if not kinds:
        return ()
    (per_token,) = kinds
    kind = values.get("problem_type")
    if not per_token and kind not in (None, "single_label_classification"):
        raise errors.UserError(
            f"problem_type is {kind!r}; gptjax implements only "
            "'single_label_classification'"
        )
    names = values.get("id2label")
    if names is None:
        key = "num_labels" if "num_labels" in values else "_num_labels"
        count = values.get(key, 2)
        if type(count) is not int:
            raise errors.UserError(f"{key} is {count!r}; it must be an integer")
        # As transformers calls them where nobody did.
        names = {str(number): f"LABEL_{number}" for number in range(count)}
    if not isinstance(names, dict) or names.keys() != {*map(str, range(len(names)))}:
        raise errors.UserError(
            f"id2label is {names!r}; it must name the labels from '0' on"
        )
    padding = values.get("pad_token_id")
    if padding is not None and type(padding) is not int:
        raise errors.UserError(f"pad_token_id is {padding!r}; it must be an integer")
    # Where transformers of long ago kept it, and of today keeps whatever it finds.
    task = str(values.get("finetuning_task"))
    is_name = values.get("finetuning_task") and re.fullmatch(r"\w+", task)
    return (
        model.Classifier(
            **({"name": task} if is_name else {}),
            labels=tuple(str(names[str(number)]) for number in range(len(names))),
            pad_token_id=padding,
            per_token=per_token,
        ),
    )


def own_classifiers(own: Any) -> tuple[model.Classifier, ...]:
    """The classifiers of a list of JSON objects, as gptjax writes it."""
    try:
        return tuple(
            model.Classifier(**{**each, "labels": tuple(each["labels"])})
            for each in own
        )
    except (TypeError, KeyError) as error:
        raise errors.UserError(
            f"classifiers is {own!r}; it must be a list of objects with "
            "name, labels and pad_token_id"
        ) from error


def _all_typed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The fields, each of the type that the config has it of.

    Args:
      names: what config.json calls them, where that is another.

    Raises:
      UserError: one that is not.
    """
    return {
        name: _typed(_FIELDS[name], value, names.get(name, name))
        if _FIELDS[name].type in _PLAIN
        else value
        for name, value in fields.items()
    }


def _typed(field: dataclasses.Field, value: Any, name: str) -> Any:
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
            f"{name} is {value!r}; it must be of type {wanted.__name__}"
        )
    if wanted is int and value < 1:
        raise errors.UserError(f"{name} is {value}; it must be at least 1")
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
    family = families.FAMILIES[config.family]
    values = {"pad_token_id": None, "use_cache": True, **family.stock}
    for name in ("bos_token_id", "eos_token_id"):
        # transformers' default of a GPT-2, where the vocabulary has it.
        is_known = config.vocab_size > _STOCK_END_OF_TEXT
        values[name] = _STOCK_END_OF_TEXT if is_known else None
    source = families.FAMILIES.get(like.get("model_type", "gpt2"), family)
    # What transformers writes of that family alone.
    alien = source.stock.keys() - family.stock.keys()
    values |= {
        key: value
        for key, value in like.items()
        if HARMLESS.fullmatch(key) and key not in alien
    }
    values["model_type"] = family.model_type
    # The first name of each.
    names = {own: name for name, own in reversed(family.fields.items())}
    for own, name in names.items():
        value = getattr(config, own)
        if own == "n_inner" and own in family.base:
            # Not all know what a missing width would be.
            value = config.mlp_width
        values[name] = float(value) if _FIELDS[own].type is float else value
    values |= family.write(config)
    for name in OWN if is_native else ():
        if name not in names and (value := getattr(config, name)):
            is_plain = isinstance(value, int)
            values[name] = value if is_plain else [*map(dataclasses.asdict, value)]
    values["architectures"] = [family.causal]
    for each in config.classifiers[:1]:
        if not is_native or each.per_token in family.classifiers:
            values["architectures"] = [_classifying(family, each)]
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


def _classifying(family: families.Family, classifier: model.Classifier) -> str:
    """The architecture of a classifier, as transformers calls it."""
    name = family.classifiers.get(classifier.per_token)
    if name is None:
        what = "tokens" if classifier.per_token else "texts"
        raise errors.UserError(
            f"transformers has no {family.title} that labels {what}; keep the model as "
            "a gptjax folder"
        )
    return name


def _transformers_version() -> str | None:
    """The installed version, without the seconds that importing it takes."""
    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return None
