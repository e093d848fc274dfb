"""Checkpoints in and out: Hugging Face folders, gptjax folders, PEFT's adapters."""

from gptjax.convert.adapters import load_adapter as load_adapter
from gptjax.convert.adapters import save_adapter as save_adapter
from gptjax.convert.alike import check_alike as check_alike
from gptjax.convert.exporting import save as save
from gptjax.convert.folders import check_replaceable as check_replaceable
from gptjax.convert.hf_config import read_config as read_config
from gptjax.convert.identity import digest as digest
from gptjax.convert.identity import weight_files as weight_files
from gptjax.convert.importing import load as load
from gptjax.convert.importing import load_grid as load_grid
from gptjax.convert.locate import resolve as resolve
from gptjax.convert.locate import resolve_adapter as resolve_adapter
from gptjax.convert.locate import stock_name as stock_name
from gptjax.convert.native import save_native as save_native
from gptjax.convert.padding import is_padded as is_padded
from gptjax.convert.padding import is_stock as is_stock
from gptjax.convert.padding import is_whole as is_whole
from gptjax.convert.padding import padding_note as padding_note
