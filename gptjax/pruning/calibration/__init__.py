"""Watches the model read, to prune and reconstruct it, in bounded memory.

A block at a time: `pruning.blockwise` holds the activations that enter one block, and
changes the weights where they lie.
"""

from gptjax.pruning.calibration.finished import forget as forget
from gptjax.pruning.calibration.memory import Estimate as Estimate
from gptjax.pruning.calibration.memory import estimate as estimate
from gptjax.pruning.calibration.memory import estimate_at_once as estimate_at_once
from gptjax.pruning.calibration.memory import estimate_batches as estimate_batches
from gptjax.pruning.calibration.method import Method as Method
from gptjax.pruning.calibration.norms import KERNELS as KERNELS
from gptjax.pruning.calibration.norms import input_norms as input_norms
from gptjax.pruning.calibration.packed import PackedMasks as PackedMasks
from gptjax.pruning.calibration.windows import choose as choose
from gptjax.pruning.calibration.windows import cut as cut
from gptjax.pruning.calibration.windows import sequences as sequences
