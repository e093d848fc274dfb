"""GGUF files, as llama.cpp runs them.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from gptjax.convert.llama_cpp.reading import load as load
from gptjax.convert.llama_cpp.vocabulary import Vocabulary as Vocabulary
from gptjax.convert.llama_cpp.writing import SUFFIX as SUFFIX
from gptjax.convert.llama_cpp.writing import WEIGHTS as WEIGHTS
from gptjax.convert.llama_cpp.writing import Written as Written
from gptjax.convert.llama_cpp.writing import save as save
