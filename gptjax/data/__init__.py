"""Texts to batches of tokens on devices."""

from gptjax.data.batches import Batches as Batches
from gptjax.data.cache import cache_folder as cache_folder
from gptjax.data.placement import prefetch as prefetch
from gptjax.data.placement import process_share as process_share
from gptjax.data.tokenization import tokenize as tokenize
from gptjax.data.tokenizer import Tokenizer as Tokenizer
from gptjax.data.tokenizer import check_tokenizer as check_tokenizer
from gptjax.data.tokenizer import load_tokenizer as load_tokenizer
from gptjax.data.tokens import Tokens as Tokens
