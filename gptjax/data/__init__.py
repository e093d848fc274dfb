"""Texts to batches of tokens on devices."""

from gptjax.data.augmentation import Augmentation as Augmentation
from gptjax.data.batches import Batches as Batches
from gptjax.data.cache import cache_folder as cache_folder
from gptjax.data.example_batches import ExampleBatches as ExampleBatches
from gptjax.data.example_batches import fill as fill
from gptjax.data.examples import UNKNOWN as UNKNOWN
from gptjax.data.examples import Examples as Examples
from gptjax.data.examples import divide as divide
from gptjax.data.examples import limit as limit
from gptjax.data.examples import read_examples as read_examples
from gptjax.data.examples import read_labelled as read_labelled
from gptjax.data.examples import tokenize_texts as tokenize_texts
from gptjax.data.mixture import Mixture as Mixture
from gptjax.data.packing import count_sequences as count_sequences
from gptjax.data.packing import pack as pack
from gptjax.data.placement import prefetch as prefetch
from gptjax.data.placement import process_share as process_share
from gptjax.data.tagging import Tagged as Tagged
from gptjax.data.tagging import read_tagged as read_tagged
from gptjax.data.tagging import tokenize_words as tokenize_words
from gptjax.data.tokenization import tokenize as tokenize
from gptjax.data.tokenizer import Tokenizer as Tokenizer
from gptjax.data.tokenizer import check_tokenizer as check_tokenizer
from gptjax.data.tokenizer import load_tokenizer as load_tokenizer
from gptjax.data.tokenizer import padding_id as padding_id
from gptjax.data.tokens import Tokens as Tokens
