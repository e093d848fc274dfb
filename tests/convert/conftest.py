"""Small torch checkpoints in every format that the hub has seen."""

import json
import pathlib

import pytest
import safetensors.torch
import torch
import transformers

FORMATS = (
    "safetensors",
    "safetensors shards",
    "bin",
    "bin shards",
    "bin of torch before 1.6",
)


def make_model(*, dtype=torch.float32, **fields) -> torch.nn.Module:
    """A GPT-2 whose tensors are all different, norms and biases among them."""
    sizes = {"n_layer": 3, "n_embd": 16, "n_head": 4, "vocab_size": 32}
    config = transformers.GPT2Config(
        **{**sizes, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0, **fields}
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model.to(dtype)


def tensors_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint of the model holds: parameters without a tied head."""
    return {name: p.detach().contiguous() for name, p in model.named_parameters()}


def write(
    folder: pathlib.Path, config, tensors: dict[str, torch.Tensor], format: str
) -> pathlib.Path:
    """A Hugging Face folder of the tensors, in one of FORMATS."""
    folder.mkdir(exist_ok=True)
    config.architectures = ["GPT2LMHeadModel"]
    config.save_pretrained(folder)
    if format == "safetensors":
        metadata = {"format": "pt"}
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata)
    elif format == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif format == "bin of torch before 1.6":
        torch.save(
            tensors,
            folder / "pytorch_model.bin",
            _use_new_zipfile_serialization=False,
        )
    else:
        kind = format.split()[0]
        stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
        names = list(tensors)
        weight_map = {}
        for number in range(3):
            file = f"{stem}-{number + 1:05}-of-00003.{kind}"
            part = {name: tensors[name] for name in names[number::3]}
            weight_map |= dict.fromkeys(part, file)
            if kind == "bin":
                torch.save(part, folder / file)
            else:
                safetensors.torch.save_file(part, folder / file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return folder


class Checkpoints:
    """The functions above, handed to tests as a fixture."""

    formats = FORMATS
    make_model = staticmethod(make_model)
    tensors_of = staticmethod(tensors_of)
    write = staticmethod(write)


@pytest.fixture(scope="session")
def checkpoints() -> type[Checkpoints]:
    return Checkpoints
