"""Smaller or better models out of trained ones, without training."""

from gptjax.compression.averaging import average as average
from gptjax.compression.averaging import zeros_text as zeros_text
