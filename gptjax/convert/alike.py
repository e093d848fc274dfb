"""Whether models of two folders compute alike."""

import dataclasses
import pathlib

from gptjax import errors, model

# Fields of a model's config that do not change what it makes of a text.
_WITHOUT_EFFECT = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "initializer_range")


def check_alike(
    one: model.Config, first: pathlib.Path, two: model.Config, second: pathlib.Path
) -> None:
    """Raises a `UserError` naming a field unless two configs compute alike."""
    for field in dataclasses.fields(model.Config):
        own, other = (getattr(config, field.name) for config in (one, two))
        if own != other and field.name not in _WITHOUT_EFFECT:
            told = [
                ", ".join(map(_classifier, value)) or "none"
                if field.name == "classifiers"
                else value
                for value in (other, own)
            ]
            raise errors.UserError(
                f"{second}: {field.name}: {told[0]}; {first} has {told[1]}; only "
                "models alike have something between them"
            )


def _classifier(of: model.Classifier) -> str:
    """A classifier in words."""
    what = "words" if of.per_token else "texts"
    return f"{of.name} of {what} ({', '.join(of.labels)}; padding {of.pad_token_id})"
