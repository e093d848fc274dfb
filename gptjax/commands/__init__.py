"""The commands that stand in files of their own."""

from gptjax.commands.converting import average as average
from gptjax.commands.converting import convert as convert
from gptjax.commands.converting import init as init
from gptjax.commands.converting import merge as merge
from gptjax.commands.harness import lm_eval as lm_eval
from gptjax.commands.noise import robustness as robustness
from gptjax.commands.quantizing import quantize as quantize
from gptjax.commands.serving import serve as serve
from gptjax.commands.texts import augment as augment
from gptjax.commands.texts import pairs as pairs
from gptjax.commands.tuning import tune as tune
from gptjax.commands.using import connect as connect
from gptjax.commands.using import evaluate as evaluate
from gptjax.commands.using import predict as predict
from gptjax.commands.writing import generate as generate
