"""Models behind HTTP, as OpenAI's API speaks it."""

from gptjax.serving.app import Limits as Limits
from gptjax.serving.app import make as make
from gptjax.serving.served import Served as Served
from gptjax.serving.served import load as load
from gptjax.serving.served import named as named
from gptjax.serving.server import Server as Server
from gptjax.serving.server import listen as listen
from gptjax.serving.server import run as run
from gptjax.serving.server import url as url
