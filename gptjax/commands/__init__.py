"""The commands that take models or texts, and no config."""

from gptjax.commands.converting import average as average
from gptjax.commands.converting import convert as convert
from gptjax.commands.converting import merge as merge
from gptjax.commands.noise import robustness as robustness
from gptjax.commands.texts import augment as augment
from gptjax.commands.texts import pairs as pairs
from gptjax.commands.using import connect as connect
from gptjax.commands.using import evaluate as evaluate
from gptjax.commands.using import generate as generate
from gptjax.commands.using import predict as predict
