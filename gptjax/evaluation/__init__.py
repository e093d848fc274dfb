"""How well a model predicts a text, answers prompts, or labels texts."""

from gptjax.evaluation.classification import Classification as Classification
from gptjax.evaluation.classification import LabelScores as LabelScores
from gptjax.evaluation.classification import classify as classify
from gptjax.evaluation.classification import label_logits as label_logits
from gptjax.evaluation.classification import label_scores as label_scores
from gptjax.evaluation.classification import unit as unit
from gptjax.evaluation.classification import weighted_scores as weighted_scores
from gptjax.evaluation.completions import Completions as Completions
from gptjax.evaluation.completions import complete as complete
from gptjax.evaluation.connectivity import Connectivity as Connectivity
from gptjax.evaluation.connectivity import check_alike as check_alike
from gptjax.evaluation.connectivity import connect as connect
from gptjax.evaluation.continuations import MOST_SEQUENCES as MOST_SEQUENCES
from gptjax.evaluation.continuations import score as score
from gptjax.evaluation.continuations import sequences_at_once as sequences_at_once
from gptjax.evaluation.perplexity import Perplexity as Perplexity
from gptjax.evaluation.perplexity import perplexity as perplexity
from gptjax.evaluation.robustness import LABELS as LABELS
from gptjax.evaluation.robustness import LANGUAGE as LANGUAGE
from gptjax.evaluation.robustness import Robustness as Robustness
from gptjax.evaluation.robustness import Spread as Spread
from gptjax.evaluation.several import Several as Several
from gptjax.evaluation.windows import context_of as context_of

Result = Perplexity | Completions | Classification | Several
"""All have `loss`, `figures()`, `protocol()` and `to_json()`."""
