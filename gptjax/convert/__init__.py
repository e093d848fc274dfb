"""Checkpoints in and out: Hugging Face folders and gptjax folders."""

from gptjax.convert.exporting import save as save
from gptjax.convert.hf_config import read_config as read_config
from gptjax.convert.identity import digest as digest
from gptjax.convert.importing import load as load
from gptjax.convert.locate import resolve as resolve
from gptjax.convert.native import save_native as save_native
from gptjax.convert.padding import padded_heads as padded_heads
from gptjax.convert.padding import padding_note as padding_note
