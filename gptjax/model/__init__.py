"""A GPT as pure functions of a config and a dict of arrays.

The only package that imports flax. Names of arrays end in their axes:

    B batch    T time (queries)    S time (keys, cache slots)    L layers
    D width    H heads of queries  K head width                  F MLP width
    G heads of keys and values     R = H / G   J = R + 2        E D, or with a bias more
    V vocabulary       N labels      C tokens of a chunk of the loss
    J likeliest words of a teacher   R these, and all others as one
"""

from gptjax.model import int8 as int8
from gptjax.model.adapted import KERNELS as KERNELS
from gptjax.model.adapted import adapt as adapt
from gptjax.model.adapted import adapter_shapes as adapter_shapes
from gptjax.model.adapted import inputs_of as inputs_of
from gptjax.model.adapted import merged as merged
from gptjax.model.blocks import apply_block as apply_block
from gptjax.model.blocks import embed as embed
from gptjax.model.cache import Cache as Cache
from gptjax.model.cache import Laid as Laid
from gptjax.model.cache import cache_bytes as cache_bytes
from gptjax.model.cache import extend as extend
from gptjax.model.cache import init_cache as init_cache
from gptjax.model.cache import lay_out as lay_out
from gptjax.model.cache import scores as scores
from gptjax.model.coded import Coded as Coded
from gptjax.model.coded import coded as coded
from gptjax.model.compute import ATTENTION as ATTENTION
from gptjax.model.compute import REMAT as REMAT
from gptjax.model.compute import Compute as Compute
from gptjax.model.config import Classifier as Classifier
from gptjax.model.config import Config as Config
from gptjax.model.distilling import Remembered as Remembered
from gptjax.model.distilling import divergence as divergence
from gptjax.model.dropout import scaled as scaled
from gptjax.model.gpt import Inside as Inside
from gptjax.model.gpt import apply as apply
from gptjax.model.gpt import hidden as hidden
from gptjax.model.gpt import hidden_and_inside as hidden_and_inside
from gptjax.model.gpt import init as init
from gptjax.model.gpt import init_classifier as init_classifier
from gptjax.model.gpt import is_text as is_text
from gptjax.model.gpt import label_logits as label_logits
from gptjax.model.gpt import logits as logits
from gptjax.model.gpt import shapes as shapes
from gptjax.model.losses import Teaching as Teaching
from gptjax.model.losses import distilled_loss as distilled_loss
from gptjax.model.losses import likeliest as likeliest
from gptjax.model.losses import recalled_loss as recalled_loss
from gptjax.model.losses import token_losses as token_losses
from gptjax.model.losses import token_scores as token_scores
from gptjax.model.losses import total_loss as total_loss
from gptjax.model.positions import Alibi as Alibi
from gptjax.model.positions import Learned as Learned
from gptjax.model.positions import Rotary as Rotary
from gptjax.model.positions import Scaling as Scaling
from gptjax.model.rounded import on_grid as on_grid
from gptjax.model.rounded import settled as settled
