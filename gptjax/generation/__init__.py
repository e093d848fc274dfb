"""Text from a model, token by token."""

from gptjax.generation.engine import Engine as Engine
from gptjax.generation.engine import FindStop as FindStop
from gptjax.generation.growing import Generated as Generated
from gptjax.generation.growing import Piece as Piece
from gptjax.generation.growing import key_of as key_of
from gptjax.generation.options import DRAWING as DRAWING
from gptjax.generation.options import Options as Options
from gptjax.generation.options import read_file as read_file
from gptjax.generation.rowwise import BIASES as BIASES
from gptjax.generation.rowwise import check_shared as check_shared
from gptjax.generation.slots import LIKELIEST as LIKELIEST
from gptjax.generation.slots import LogProbs as LogProbs
from gptjax.generation.slots import Slots as Slots
from gptjax.generation.slots import Token as Token
from gptjax.generation.stops import finder as finder
